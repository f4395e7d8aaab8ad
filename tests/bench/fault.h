/*
 * From bits to a page fault: what spte.py, tdp_iter.py, pages.py, tdp_mmu.py, tdp/map.py,
 * memslots.py, host/frames.py and fault.py of the model do while a guest populates 4K pages.
 */
#pragma once

#include "machine.h"

/* --- Entries and geometry -------------------------------------------------------------------- */

static inline int is_present(word spte) { return (spte & MMU_PRESENT) != 0; }
static inline int is_leaf(word spte, word level) { return level == LEVEL_4K || (spte & PS) != 0; }
static inline word pfn_of(word spte) { return spte >> PFN_SHIFT & PFN_MASK; }

static inline int ladder_holds(word spte)
{
	if ((spte & SPTE_W) && !(spte & MMU_WRITABLE))
		return 0;
	return !(spte & MMU_WRITABLE) || (spte & HOST_WRITABLE);
}

static inline word make_leaf(word pfn, word level, int host_writable, int executable)
{
	word spte = MMU_PRESENT | MEMTYPE_WB | IPAT | ACCESSED | SPTE_R | pfn << PFN_SHIFT;

	if (level > LEVEL_4K)
		spte |= PS;
	if (executable)
		spte |= SPTE_X;
	if (host_writable)
		spte |= HOST_WRITABLE | MMU_WRITABLE | SPTE_W | DIRTY;
	return spte;
}

static inline word make_nonleaf(word page)
{
	return MMU_PRESENT | RWX | ACCESSED | page << PFN_SHIFT;
}

static inline word level_shift(struct cpu cpu, word level) { return cpu.bits * (level - 1); }

static inline word pages_of(struct cpu cpu, word level)
{
	return (word)1 << level_shift(cpu, level);
}

static inline word index_of(struct cpu cpu, word gfn, word level)
{
	return gfn >> level_shift(cpu, level) & (((word)1 << cpu.bits) - 1);
}

static inline word round_gfn(struct cpu cpu, word gfn, word level)
{
	return gfn >> level_shift(cpu, level) << level_shift(cpu, level);
}

static inline word table_of_page(struct cpu cpu, word page)
{
	return config(cpu, C_TABLES) + (page << cpu.bits);
}

static inline word child_table(struct cpu cpu, word spte)
{
	return table_of_page(cpu, pfn_of(spte));
}

static inline word *record_of(struct cpu cpu, word page)
{
	return &cpu.words[config(cpu, C_RECORDS) + page * RECORD_WORDS];
}

/* --- Page-table pages ------------------------------------------------------------------------- */

static inline word host_page(struct cpu cpu)
{
	word *pool = &cpu.words[POOL], fresh;

	if (read_once(&pool[POOL_TOP - POOL]) > 0) {
		write_once(&pool[POOL_TOP - POOL], read_once(&pool[POOL_TOP - POOL]) - 1);
		return read_once(&cpu.words[config(cpu, C_POOL) + pool[POOL_TOP - POOL]]);
	}
	fresh = read_once(&pool[POOL_FRESH - POOL]);
	if (fresh >= config(cpu, C_TABLE_PAGES))
		return 0;
	write_once(&pool[POOL_FRESH - POOL], fresh + 1);
	return fresh;
}

static inline int topup_table_cache(struct cpu cpu, word needed)
{
	word cached = cpu.own[TABLE_CACHE_COUNT], page;

	assert_may_sleep(cpu);
	if (cached >= needed)
		return 1;
	pool_lock(cpu);
	while (cached < TABLE_CACHE_MAX && (page = host_page(cpu)) != 0)
		cpu.own[TABLE_CACHE + cached++] = page;
	pool_unlock(cpu);
	cpu.own[TABLE_CACHE_COUNT] = cached;
	return cached >= needed;
}

static inline word alloc_table(struct cpu cpu)
{
	word cached = cpu.own[TABLE_CACHE_COUNT];

	if (cached == 0)
		return 0;
	cpu.own[TABLE_CACHE_COUNT] = cached - 1;
	cpu.own[N_TABLES_ALLOCATED]++;
	return cpu.own[TABLE_CACHE + cached - 1];
}

static inline void free_unlinked_table(struct cpu cpu, word page)
{
	word cached = cpu.own[TABLE_CACHE_COUNT], table = table_of_page(cpu, page);

	for (word i = 0; i < (word)1 << cpu.bits; i++)
		write_once(&cpu.words[table + i], 0);
	cpu.own[TABLE_CACHE + cached] = page;
	cpu.own[TABLE_CACHE_COUNT] = cached + 1;
	cpu.own[N_TABLES_ALLOCATED]--;
}

static inline void init_child_sp(struct cpu cpu, word page, word gfn, word level,
				 word nx_disallowed)
{
	word *record = record_of(cpu, page);

	write_once(&record[SP_GFN], gfn);
	write_once(&record[SP_LEVEL], level);
	write_once(&record[SP_NX_DISALLOWED], nx_disallowed);
	write_once(&record[SP_PARENT], 0);
	write_once(&record[SP_LINKED], 0);
	write_once(&record[SP_GENERATION], read_once(&record[SP_GENERATION]) + 1);
}

/* --- Changing entries ------------------------------------------------------------------------- */

static inline void check_leaf(struct cpu cpu, word *sptep, word gfn, word old, word new, word level)
{
	int misplaced = level > LEVEL_1G || ((gfn | pfn_of(new)) & (pages_of(cpu, level) - 1)) != 0;

	warn(cpu, misplaced, TRANSITION_LEVEL, gfn, level, new);
	warn(cpu, !ladder_holds(new), TRANSITION_LADDER, sptep - cpu.words, old, new);
}

static inline void handle_changed_spte(struct cpu cpu, word *sptep, word gfn, word old, word new,
				       word level)
{
	int was_leaf = is_present(old) && is_leaf(old, level);
	int is_leaf_now = is_present(new) && is_leaf(new, level);

	if (is_leaf_now)
		check_leaf(cpu, sptep, gfn, old, new, level);
	if (was_leaf && is_leaf_now)
		warn(cpu, pfn_of(old) != pfn_of(new), TRANSITION_PFN, sptep - cpu.words, old, new);
	if (old == new)
		return;
	if (!is_present(old) && !is_present(new)) {
		warn(cpu, old != FROZEN && new != FROZEN, TRANSITION_NONPRESENT,
		     sptep - cpu.words, old, new);
		return;
	}
	if (was_leaf != is_leaf_now)
		fetch_add(&cpu.words[STAT_PAGES_4K + LINE * (level - 1)], is_leaf_now - was_leaf);
	warn(cpu, is_present(old) && !was_leaf, TRANSITION_REMOVED, gfn, old, new);
}

/* DONE, or the entry's present value: then nothing was changed. */
static inline word set_spte_atomic(struct cpu cpu, word *sptep, word gfn, word level, word old,
				   word new)
{
	word seen;

	assert_held(cpu, HELD_MMU);
	warn(cpu, old == FROZEN, TRANSITION_FROZEN, sptep - cpu.words, old, new);
	seen = cmpxchg(sptep, old, new);
	if (seen != old) {
		cpu.own[N_CMPXCHG_FAILED]++;
		return seen;
	}
	handle_changed_spte(cpu, sptep, gfn, old, new, level);
	return DONE;
}

static inline word link_sp(struct cpu cpu, word *sptep, word gfn, word level, word old, word page)
{
	word *record = record_of(cpu, page), result;

	write_once(&record[SP_PARENT], sptep - cpu.words);
	write_once(&record[SP_LINKED], 1);
	result = set_spte_atomic(cpu, sptep, gfn, level, old, make_nonleaf(page));
	if (result == DONE) {
		cpu.own[N_TABLES_LINKED]++;
		fetch_add(&cpu.words[STAT_TABLES], 1);
	}
	return result;
}

/* --- Mapping ---------------------------------------------------------------------------------- */

static inline word install_leaf(struct cpu cpu, word *sptep, word gfn, word level, word old,
				word pfn, int writable)
{
	word first = round_gfn(cpu, gfn, level);
	int executable = level == LEVEL_4K || config(cpu, C_NX_HUGE_PAGES) == 0;
	word new = make_leaf(pfn - (gfn - first), level, writable, executable);

	if (new == old)
		return RET_PF_SPURIOUS;
	if (set_spte_atomic(cpu, sptep, first, level, old, new) != DONE)
		return RET_PF_RETRY;
	return RET_PF_FIXED;
}

/* Word index of the new table, 0: somebody was faster. */
static inline word make_table(struct cpu cpu, word *sptep, word gfn, word level, word old,
			      int nx_disallowed)
{
	word first = round_gfn(cpu, gfn, level), page = alloc_table(cpu);

	if (page == 0)
		return 0;
	init_child_sp(cpu, page, first, level - 1, nx_disallowed);
	if (link_sp(cpu, sptep, first, level, old, page) != DONE) {
		free_unlinked_table(cpu, page);
		return 0;
	}
	return table_of_page(cpu, page);
}

static inline word adjusted_goal(struct cpu cpu, word spte, word level, word goal)
{
	if (level != goal || goal <= LEVEL_4K || !is_present(spte) || is_leaf(spte, level))
		return goal;
	if (read_once(&record_of(cpu, pfn_of(spte))[SP_NX_DISALLOWED]) != 0)
		return goal - 1;
	return goal;
}

static inline word tdp_mmu_map(struct cpu cpu, word root, word gfn, word access, word requested,
			       word pfn, int writable)
{
	int huge_disallowed = (access & ACCESS_EXECUTE) && config(cpu, C_NX_HUGE_PAGES) != 0;
	word goal = huge_disallowed ? LEVEL_4K : requested, table = root, spte, *sptep;

	assert_held(cpu, HELD_MMU_READ);
	for (word level = cpu.levels;; level--) {
		sptep = &cpu.words[table + index_of(cpu, gfn, level)];
		spte = read_once(sptep);
		goal = adjusted_goal(cpu, spte, level, goal);
		if (spte == FROZEN)
			return RET_PF_RETRY;
		if (is_present(spte) && !is_leaf(spte, level)) {
			table = child_table(cpu, spte);
			continue;
		}
		if (level <= goal)
			return install_leaf(cpu, sptep, gfn, level, spte, pfn, writable);
		if (is_present(spte))
			outside("huge pages");
		table = make_table(cpu, sptep, gfn, level, spte, huge_disallowed);
		if (table == 0)
			return RET_PF_RETRY;
	}
}

/* --- The fault -------------------------------------------------------------------------------- */

static inline word host_mapping(struct cpu cpu, word gfn)
{
	word relative = gfn - config(cpu, C_GFN_BASE);
	word mapping = read_once(&cpu.words[config(cpu, C_MAPPING) + relative]);

	if (mapping != 0)
		return mapping;
	return MAPPED | MAPPING_RWX | config(cpu, C_BACKING_LEVEL) << MAPPING_LEVEL_SHIFT |
	       relative << MAPPING_FRAME_SHIFT;
}

static inline int holds(struct cpu cpu, word slot, word gfn)
{
	word relative = gfn - config(cpu, slot + SLOT_BASE);

	return relative >= 0 && relative < config(cpu, slot + SLOT_PAGES);
}

static inline word slot_of(struct cpu cpu, word gfn)
{
	word slot = cpu.own[SLOT_CACHED];

	if (slot != 0 && holds(cpu, slot, gfn))
		return slot;
	for (word number = 0; number < config(cpu, C_SLOT_COUNT); number++) {
		slot = config(cpu, C_SLOTS) + number * SLOT_WORDS;
		if (holds(cpu, slot, gfn))
			return cpu.own[SLOT_CACHED] = slot;
	}
	return 0;
}

static inline word max_mapping_level(struct cpu cpu, word slot, word gfn, word mapping)
{
	word level = mapping >> MAPPING_LEVEL_SHIFT & 15;
	word base = config(cpu, slot + SLOT_BASE), end = base + config(cpu, slot + SLOT_PAGES);
	word first, pages;

	if (level > cpu.levels - 1)
		level = cpu.levels - 1;
	for (; level > LEVEL_4K; level--) {
		pages = pages_of(cpu, level);
		first = gfn & ~(pages - 1);
		if (first >= base && first + pages <= end)
			break;
	}
	return level;
}

static inline word slow_fault(struct cpu cpu, word gfn, word access, word slot)
{
	word mapping, requested, pfn, result;

	topup_table_cache(cpu, LEVELS_MAX);
	mapping = host_mapping(cpu, gfn);
	mmu_read_lock(cpu);
	if (read_once(&cpu.words[slot + SLOT_LOGGED]) != 0)
		outside("dirty logging");
	requested = max_mapping_level(cpu, slot, gfn, mapping);
	rcu_read_lock(cpu);
	pfn = ((mapping & ~MAPPED) >> MAPPING_FRAME_SHIFT) + config(cpu, C_FRAME_PFN);
	result = tdp_mmu_map(cpu, cpu.own[VCPU_ROOT], gfn, access, requested, pfn,
			     (mapping & SPTE_W) != 0);
	rcu_read_unlock(cpu);
	mmu_read_unlock(cpu);
	return result;
}

static inline word fault(struct cpu cpu, word gfn, word access, int present)
{
	word slot = slot_of(cpu, gfn);

	if (slot == 0) {
		cpu.own[N_MMIO_EXITS]++;
		return RET_PF_EMULATE;
	}
	if (present && access == ACCESS_WRITE)
		outside("write protection");
	return slow_fault(cpu, gfn, access, slot);
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
	if (timed)
		record_latency(cpu, H_FAULT, cycles() - began);
	return result;
}
