/*
 * A page fault: what host/frames.py, memslots.py, roots.py, notifier.py and fault.py of the model
 * do while a guest populates 4K pages.
 */
#pragma once

#include "tables.h"

/* --- Host memory and memslots ----------------------------------------------------------------- */

static inline word host_page_of(struct cpu cpu, word gfn)
{
	return (gfn - config(cpu, C_GFN_BASE)) & config(cpu, C_GFN_MASK);
}

static inline word host_mapping(struct cpu cpu, word gfn)
{
	word page = host_page_of(cpu, gfn);
	word mapping = read_once(&cpu.words[config(cpu, C_MAPPING) + page]);

	if (mapping != 0)
		return mapping;
	return MAPPED | MAPPING_RWX | config(cpu, C_BACKING_LEVEL) << MAPPING_LEVEL_SHIFT |
	       page << MAPPING_FRAME_SHIFT;
}

static inline word mapping_pfn(struct cpu cpu, word mapping)
{
	return ((mapping & ~MAPPED) >> MAPPING_FRAME_SHIFT) + config(cpu, C_FRAME_PFN);
}

static inline int holds(struct cpu cpu, word slot, word place, word gfn)
{
	word relative = gfn - (place >> STATE_BITS);

	return relative >= 0 && relative < config(cpu, slot + SLOT_PAGES) &&
	       (place & STATE_MASK) != SLOT_ABSENT;
}

__attribute__((noinline))
static word search(struct cpu cpu, word gfn)
{
	word slot, place;

	for (word number = 0; number < config(cpu, C_SLOT_COUNT); number++) {
		slot = config(cpu, C_SLOTS) + number * SLOT_WORDS;
		place = read_once(&cpu.words[slot + SLOT_PLACE]);
		if (holds(cpu, slot, place, gfn)) {
			if ((place & STATE_MASK) == SLOT_INVALID)
				outside("memslots that go or move");
			return cpu.own[SLOT_CACHED] = slot;
		}
	}
	return 0;
}

static inline word slot_of(struct cpu cpu, word gfn)
{
	word slot = cpu.own[SLOT_CACHED], place;

	if (slot != 0) {
		place = read_once(&cpu.words[slot + SLOT_PLACE]);
		if ((place & STATE_MASK) == SLOT_PRESENT && holds(cpu, slot, place, gfn))
			return slot;
	}
	return search(cpu, gfn);
}

static inline int is_logged(struct cpu cpu, word slot)
{
	return read_once(&cpu.words[slot + SLOT_LOGGED]) != 0;
}

static inline word max_mapping_level(struct cpu cpu, word slot, word gfn, word mapping)
{
	word level = mapping >> MAPPING_LEVEL_SHIFT & MAPPING_LEVEL_MASK;
	word highest = root_level(cpu.own[VCPU_ROOT]) - 1, base, end, first, pages;

	if (level > LEVEL_1G)
		level = LEVEL_1G;
	if (level > highest)
		level = highest;
	if (level > LEVEL_4K) {
		base = read_once(&cpu.words[slot + SLOT_PLACE]) >> STATE_BITS;
		end = base + config(cpu, slot + SLOT_PAGES);
		for (; level > LEVEL_4K; level--) {
			pages = pages_of(cpu, level);
			first = gfn & ~(pages - 1);
			if (first >= base && first + pages <= end) {
				if (config(cpu, C_WRITE_TRACKED) != 0)
					outside("write tracking");
				break;
			}
		}
	}
	return level;
}

/* --- The fault -------------------------------------------------------------------------------- */

static inline int root_invalid(struct cpu cpu, word root)
{
	return read_once(&record_of(cpu, root_page(root))[SP_ROOT_INVALID]) != 0;
}

/* Where the model would go on to compare the range. */
static inline void no_invalidation(struct cpu cpu)
{
	if (read_once(&cpu.words[IN_PROGRESS]) != 0)
		outside("invalidations");
}

static inline void check_stale(struct cpu cpu, word root, word seq)
{
	if (root_invalid(cpu, root))
		outside("invalid roots");
	no_invalidation(cpu);
	if (read_once(&cpu.words[INVALIDATE_SEQ]) != seq)
		outside("invalidations");
}

static inline word slow_fault(struct cpu cpu, word gfn, word access, word slot)
{
	word seq, mapping, root, requested, result;

	if (!topup_table_cache(cpu, LEVELS_MAX)) {
		warn(cpu, 1, LEAK_EXHAUSTED, gfn, hint(&cpu.words[POOL_FRESH]), 0);
		return RET_PF_EMULATE;
	}
	seq = read_once(&cpu.words[INVALIDATE_SEQ]);
	no_invalidation(cpu);
	mapping = host_mapping(cpu, gfn);
	if ((mapping & (SPTE_R | access)) != (SPTE_R | access))
		outside("the host's page faults");
	root = cpu.own[VCPU_ROOT];
	mmu_read_lock(cpu);
	check_stale(cpu, root, seq);
	if (is_logged(cpu, slot))
		outside("dirty logging");
	requested = max_mapping_level(cpu, slot, gfn, mapping);
	rcu_read_lock(cpu);
	result = tdp_mmu_map(cpu, root, gfn, access, requested, mapping_pfn(cpu, mapping),
			     (mapping & SPTE_W) != 0);
	rcu_read_unlock(cpu);
	mmu_read_unlock(cpu);
	maybe_free_deferred(cpu);
	return result;
}

static inline word fault(struct cpu cpu, word gfn, word access, int present)
{
	word slot = slot_of(cpu, gfn);

	if (slot == 0)
		outside("holes");
	if (present ? access == ACCESS_WRITE : config(cpu, C_AD_BITS) == 0)
		outside("what the fast path fixes");
	return slow_fault(cpu, gfn, access, slot);
}

static inline void count_retries(struct cpu cpu, word result)
{
	word retries;

	if (result != RET_PF_RETRY) {
		if (cpu.own[RETRIES] != 0)
			cpu.own[RETRIES] = 0;
		return;
	}
	retries = ++cpu.own[RETRIES];
	if (cpu.own[N_FAULT_RETRIES_MAX] < retries)
		cpu.own[N_FAULT_RETRIES_MAX] = retries;
}

static inline word handle_page_fault(struct cpu cpu, word gfn, word access, int present)
{
	word number = ++cpu.own[FAULT_NUMBER], mask = config(cpu, C_SAMPLE_MASK), result;
	int timed = mask >= 0 && (number & mask) == 0;
	word began = timed ? cycles() : 0;

	cpu.own[N_PF_TAKEN]++;
	cpu.own[N_PF_EXECUTE] += access == ACCESS_EXECUTE;
	result = fault(cpu, gfn, access, present);
	if (result == RET_PF_FIXED)
		cpu.own[N_PF_FIXED]++;
	else if (result == RET_PF_SPURIOUS)
		cpu.own[N_PF_SPURIOUS]++;
	else if (result == RET_PF_RETRY)
		cpu.own[N_PF_RETRY]++;
	count_retries(cpu, result);
	if (timed)
		record_latency(cpu, H_FAULT, cycles() - began);
	return result;
}
