/*
 * The model's hot path once more, in C: what "as fast as C" is measured against.
 *
 * The same algorithm on the same words: a guest that populates 4K pages in order (static memslots,
 * a host that takes nothing away, no dirty logging, no huge pages), from guest access to guest
 * access, with the slow paths of mmu_lock and of the page allocator, since processes contend.
 * Functions are named and cut as in mmu/, so that the two can be read side by side; there is no
 * hook here.  A test holds the shared block equal to the model's, word for word.
 *
 * layout.h is generated from the model's Python constants: no number is typed twice.  What the
 * twin does not model ends the process with a message instead of going on differently.
 */
#include "fault.h"

/* --- The vCPU's translation caches ------------------------------------------------------------ */

static inline word *place_of(struct cpu cpu, word number, word tag_number)
{
	word mask = ((word)1 << config(cpu, C_TLB_BITS_4K + number - 1)) - 1;

	return &cpu.own[config(cpu, C_TLB + number - 1) + 2 * (tag_number & mask)];
}

static inline word cache_lookup(struct cpu cpu, word number, word tag_number)
{
	word *place = place_of(cpu, number, tag_number);
	word tag = tag_number << TLB_GENERATION_BITS | cpu.own[TLB_GENERATION];

	return place[0] == tag ? place[1] : 0;
}

static inline void cache_fill(struct cpu cpu, word number, word tag_number, word value)
{
	word *place = place_of(cpu, number, tag_number);

	place[0] = tag_number << TLB_GENERATION_BITS | cpu.own[TLB_GENERATION];
	place[1] = value;
}

static inline void structure_drop(struct cpu cpu, word gfn)
{
	place_of(cpu, STRUCTURES, gfn >> level_shift(cpu, LEVEL_2M))[0] = 0;
}

/* A leaf's value, its frame adjusted to the page. */
static inline word page_entry(struct cpu cpu, word spte, word gfn, word level)
{
	return spte + ((gfn & (((word)1 << level_shift(cpu, level)) - 1)) << PFN_SHIFT);
}

static inline word tlb_lookup(struct cpu cpu, word gfn)
{
	word entry;

	for (word level = LEVEL_4K; level <= LEVEL_1G; level++) {
		entry = cache_lookup(cpu, level, gfn >> level_shift(cpu, level));
		if (entry != 0)
			return page_entry(cpu, entry, gfn, level);
	}
	return 0;
}

/* --- The hardware walker ---------------------------------------------------------------------- */

static inline void pml_log(struct cpu cpu, word gfn)
{
	cpu.own[config(cpu, C_PML) + cpu.own[PML_INDEX]++] = gfn;
	cpu.own[N_PML_ENTRIES]++;
}

/* The entry as it is now, 0 if it changed under the walker. */
static inline word set_accessed_dirty(struct cpu cpu, word *sptep, word spte, word gfn, word access)
{
	word wanted = access & ACCESS_WRITE ? ACCESSED | DIRTY : ACCESSED;

	if ((spte & wanted) == wanted)
		return spte;
	if (cmpxchg(sptep, spte, spte | wanted) != spte)
		return 0;
	if ((wanted & ~spte & DIRTY) && cpu.own[PML_ON] != 0)
		pml_log(cpu, gfn);
	return spte | wanted;
}

/* The entry that grants the access (now cached), or why there is none. */
static inline word walk(struct cpu cpu, word gfn, word access)
{
	word level, table, root, spte, granted, *sptep;

again:
	level = LEVEL_4K;
	table = cache_lookup(cpu, STRUCTURES, gfn >> level_shift(cpu, LEVEL_2M));
	if (table == 0) {
		root = cpu.own[VCPU_ROOT];
		level = root_level(root);
		table = root_table(cpu, root);
	}
	for (;;) {
		sptep = &cpu.words[table + index_of(cpu, gfn, level)];
		spte = read_once(sptep);
		if ((spte & RWX) == 0) {
			warn(cpu, is_poison(spte), LIFETIME_WALK, gfn, sptep - cpu.words, level);
			structure_drop(cpu, gfn);
			return VIOLATION_NOT_PRESENT;
		}
		if (is_leaf(spte, level))
			break;
		table = child_table(cpu, spte);
		if (--level == LEVEL_4K)
			cache_fill(cpu, STRUCTURES, gfn >> level_shift(cpu, LEVEL_2M), table);
	}
	if ((spte & (access | SPTE_R)) != (access | SPTE_R)) {
		structure_drop(cpu, gfn);
		if ((spte & RWX) == MMIO_VALUE)
			return MISCONFIGURATION;
		return VIOLATION_PERMISSION;
	}
	granted = set_accessed_dirty(cpu, sptep, spte, gfn, access);
	if (granted == 0)
		goto again;
	cache_fill(cpu, level, gfn >> level_shift(cpu, level), granted);
	cpu.own[N_TLB_MISSES_4K + level - 1]++;
	return page_entry(cpu, granted, gfn, level);
}

/* --- Guest mode ------------------------------------------------------------------------------- */

static inline int request_pending(struct cpu cpu)
{
	return read_once(&cpu.own[REQUEST]) != cpu.own[REQUEST_SEEN];
}

static inline void leave_guest(struct cpu cpu, word srcu)
{
	xchg(&cpu.own[VCPU_STATE], cpu.own[REQUEST_SEEN] << REQUEST_SHIFT | srcu);
	wake(&cpu.own[VCPU_STATE]);
}

static inline void enter_guest(struct cpu cpu)
{
	word number = read_once(&cpu.own[REQUEST]);

	for (;;) {
		if (number != cpu.own[REQUEST_SEEN])
			outside("requests to a vCPU");
		xchg(&cpu.own[VCPU_STATE], number << REQUEST_SHIFT | IN_GUEST_MODE);
		wake(&cpu.own[VCPU_STATE]);
		number = read_once(&cpu.own[REQUEST]);
		if (number == cpu.own[REQUEST_SEEN])
			return;
		leave_guest(cpu, SRCU_HELD);
	}
}

static inline void vm_exit(struct cpu cpu)
{
	leave_guest(cpu, SRCU_HELD);
	if (cpu.own[PML_INDEX] != 0)
		outside("the page-modification log");
	cpu.own[N_EXITS]++;
}

static inline void exit_and_enter(struct cpu cpu)
{
	vm_exit(cpu);
	enter_guest(cpu);
}

static inline int permits(word entry, word access)
{
	return (entry & access) == access && (access != ACCESS_WRITE || (entry & DIRTY));
}

static inline int fault_in(struct cpu cpu, word gfn, word access, word reason)
{
	word result;

	vm_exit(cpu);
	if (reason == MISCONFIGURATION)
		outside("holes");
	result = handle_page_fault(cpu, gfn, access, reason == VIOLATION_PERMISSION);
	if (result == RET_PF_RETRY) {
		_mm_pause();
		sched_yield();
	}
	enter_guest(cpu);
	return result == RET_PF_EMULATE;
}

static inline word translate(struct cpu cpu, word gfn, word access)
{
	word entry;

	for (;;) {
		if (request_pending(cpu))
			exit_and_enter(cpu);
		entry = tlb_lookup(cpu, gfn);
		if (entry != 0 && permits(entry, access))
			return entry;
		entry = walk(cpu, gfn, access);
		if (entry > 0)
			return entry;
		if (fault_in(cpu, gfn, access, entry))
			return 0;
	}
}

static inline void access_frame(struct cpu cpu, word gfn, word pfn, word access)
{
	word page = host_page_of(cpu, gfn), frame = pfn - config(cpu, C_FRAME_PFN);
	word *newest_word = &cpu.words[config(cpu, C_NEWEST) + page];
	word *at = &cpu.words[config(cpu, C_FRAMES) + frame];
	word newest = hint(newest_word), seen, now, owner, value, behind;

	if (access & ACCESS_WRITE) {
		seen = fetch_add(at, VALUE_ONE);
		now = seen + VALUE_ONE;
	} else {
		seen = now = read_once(at);
	}
	owner = (seen & OWNER_MASK) ^ frame;
	warn(cpu, owner != page, MAPPING_OWNER, gfn, pfn, owner + config(cpu, C_GFN_BASE));
	value = seen >> VALUE_SHIFT & VALUE_MASK;
	behind = (value - newest) & VALUE_MASK;
	warn(cpu, behind > VALUE_MASK >> 1, MEMORY_OLDER, gfn, value, newest);
	value = now >> VALUE_SHIFT & VALUE_MASK;
	if (value != newest)
		set_hint(newest_word, value);
}

static inline int guest_access(struct cpu cpu, word gfn, word access)
{
	word entry = translate(cpu, gfn, access);

	if (entry == 0)
		return 0;
	warn(cpu, (entry & access) != access, MAPPING_PERMISSION, gfn, access, entry & RWX);
	access_frame(cpu, gfn, pfn_of(entry), access);
	cpu.own[N_ACCESSES]++;
	if (access == ACCESS_WRITE) {
		cpu.own[N_WRITES]++;
		if (cpu.own[PML_INDEX] == config(cpu, C_PML_SIZE)) {
			cpu.own[N_PML_FULL]++;
			exit_and_enter(cpu);
		}
	} else if (access == ACCESS_READ) {
		cpu.own[N_READS]++;
	} else {
		cpu.own[N_EXECUTES]++;
	}
	return 1;
}

static inline int quiet_due(struct cpu cpu)
{
	if (hint(&cpu.words[WAITERS]) != 0)
		return 1;
	return cycles() - cpu.own[QUIET_BEGAN] > config(cpu, C_QUIET_CYCLES);
}

static inline void quiet_point(struct cpu cpu)
{
	warn(cpu, cpu.own[HELD] != 0, LOCK_HELD, 0, cpu.own[HELD], 0);
	leave_guest(cpu, SRCU_HELD);
	if (cpu.own[PML_PUBLISHED] != cpu.own[PML_INDEX])
		outside("the page-modification log");
	leave_guest(cpu, 0);
	sched_yield();
	cpu.own[QUIET_BEGAN] = cpu.own[TICK_BEGAN] = cycles();
	cpu.own[N_QUIET_POINTS]++;
	enter_guest(cpu);
}

/* --- What Python calls ------------------------------------------------------------------------ */

static inline struct cpu cpu_of(word *words, word own, word id, word geometry)
{
	return (struct cpu){words, words + own, id, geometry & 0xFF};
}

static inline word next_random(word state)
{
	return (word)((uint64_t)state * RANDOM_MULTIPLIER + RANDOM_INCREMENT) & RANDOM_MASK;
}

/* The root was loaded by the model's own kernel: that happens once, before the clock starts. */
void twin_vcpu_load(word *words, word own, word id, word geometry)
{
	struct cpu cpu = cpu_of(words, own, id, geometry);

	if (cpu.own[VCPU_ROOT] == 0)
		outside("loading a root");
	enter_guest(cpu);
}

/* One batch of the selftests' memstress; how many pages are left. */
word twin_memstress_batch(word *words, word own, word id, word geometry, word first, word pages,
			  word write_percent, word at_random, word kind, word regions,
			  word limit)
{
	struct cpu cpu = cpu_of(words, own, id, geometry);
	word done = cpu.own[WORK_DONE], state = cpu.own[RANDOM], batch, page, access;
	word end = done + limit < pages ? done + limit : pages;

	while (done < end && hint(&cpu.words[STOP_WORD]) == 0) {
		batch = done + QUIET_ACCESSES < end ? done + QUIET_ACCESSES : end;
		for (; done < batch; done++) {
			page = done;
			if (at_random) {
				state = next_random(state);
				page = (state >> RANDOM_SHIFT) % pages;
			}
			access = kind;
			if (write_percent > 0) {
				state = next_random(state);
				if ((page >> REGION_SHIFT) % regions == 0 &&
				    (state >> RANDOM_SHIFT) % 100 < write_percent)
					access = ACCESS_WRITE;
			}
			guest_access(cpu, first + page, access);
		}
		if (quiet_due(cpu))
			quiet_point(cpu);
	}
	cpu.own[WORK_DONE] = done;
	cpu.own[RANDOM] = state;
	return pages - done;
}

/* `wanted` successful compare-and-swaps of one word. */
void twin_cas_loop(word *words, word at, word wanted)
{
	word seen;

	for (word i = 0; i < wanted; i++) {
		seen = read_once(&words[at]);
		while (cmpxchg(&words[at], seen, seen + 1) != seen)
			seen = read_once(&words[at]);
	}
}
