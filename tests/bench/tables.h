/*
 * Tables, from bits to a mapped page: what spte.py, tdp_iter.py, pages.py, tdp_mmu.py, tdp/split.py
 * and tdp/map.py of the model do while a guest populates 4K pages.
 */
#pragma once

#include "machine.h"

/* --- Entries and geometry -------------------------------------------------------------------- */

static inline int is_present(word spte) { return (spte & MMU_PRESENT) != 0; }
static inline int is_frozen(word spte) { return spte == FROZEN; }
static inline int is_poison(word spte) { return spte == POISON; }
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

static inline word root_level(word root) { return root & 7; }
static inline word root_page(word root) { return root >> ROOT_LEVEL_BITS; }

static inline word root_table(struct cpu cpu, word root)
{
	return table_of_page(cpu, root_page(root));
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
	word top = read_once(&cpu.words[POOL_TOP]), fresh;

	if (top > 0) {
		write_once(&cpu.words[POOL_TOP], top - 1);
		return read_once(&cpu.words[config(cpu, C_POOL) + top - 1]);
	}
	fresh = read_once(&cpu.words[POOL_FRESH]);
	if (fresh >= config(cpu, C_TABLE_PAGES))
		return 0;
	write_once(&cpu.words[POOL_FRESH], fresh + 1);
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
	word cached = cpu.own[TABLE_CACHE_COUNT], page, *record;

	if (cached == 0)
		return 0;
	cpu.own[TABLE_CACHE_COUNT] = cached - 1;
	page = cpu.own[TABLE_CACHE + cached - 1];
	record = record_of(cpu, page);
	if (read_once(&record[SP_STATE]) == SP_FREE)
		outside("pages that were freed");
	write_once(&record[SP_STATE], SP_FRESH);
	cpu.own[N_TABLES_ALLOCATED]++;
	return page;
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

static inline void maybe_free_deferred(struct cpu cpu)
{
	if (cpu.own[DEFERRED_COUNT] >= config(cpu, C_RCU_BATCH))
		outside("removed tables");
}

static inline void init_child_sp(struct cpu cpu, word page, word gfn, word level,
				 word nx_disallowed)
{
	word *record = record_of(cpu, page);

	write_once(&record[SP_GFN], gfn);
	write_once(&record[SP_LEVEL], level);
	write_once(&record[SP_NX_DISALLOWED], nx_disallowed);
	write_once(&record[SP_PARENT], 0);
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
	if (was_leaf && !is_leaf_now && !is_present(new))
		outside("zapped leafs");
	else if (was_leaf && is_leaf_now && (old & ~new & DIRTY) != 0)
		outside("lost D bits");
	if (!is_present(old) && !is_present(new)) {
		warn(cpu, !is_frozen(old) && !is_frozen(new), TRANSITION_NONPRESENT,
		     sptep - cpu.words, old, new);
		return;
	}
	if (was_leaf && !is_leaf_now)
		fetch_add(&cpu.words[STAT_PAGES_4K + LINE * (level - 1)], -1);
	else if (is_leaf_now && !was_leaf)
		fetch_add(&cpu.words[STAT_PAGES_4K + LINE * (level - 1)], 1);
	if (is_present(old) && !was_leaf && (is_leaf_now || !is_present(new)))
		outside("removed tables");
}

/* DONE, or the entry's present value: then nothing was changed. */
static inline word set_spte_atomic(struct cpu cpu, word *sptep, word gfn, word level, word old,
				   word new)
{
	word seen;

	assert_held(cpu, HELD_MMU);
	warn(cpu, is_frozen(old), FROZEN_CHANGED, sptep - cpu.words, old, new);
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
	write_once(&record[SP_STATE], SP_LINKED);
	result = set_spte_atomic(cpu, sptep, gfn, level, old, make_nonleaf(page));
	if (result == DONE) {
		cpu.own[N_TABLES_LINKED]++;
		fetch_add(&cpu.words[STAT_TABLES], 1);
	}
	return result;
}

/* --- Mapping ---------------------------------------------------------------------------------- */

static inline word install_leaf(struct cpu cpu, word *sptep, word gfn, word level, word old,
				word pfn, word access, int writable)
{
	int was_leaf = is_present(old) && is_leaf(old, level);
	int executable = level == LEVEL_4K || config(cpu, C_NX_HUGE_PAGES) == 0;
	word first, new;

	if (was_leaf && (old & access) == access)
		return RET_PF_SPURIOUS;
	first = round_gfn(cpu, gfn, level);
	new = make_leaf(pfn - (gfn - first), level, writable, executable);
	if (config(cpu, C_WRITE_TRACKED) != 0)
		outside("write tracking");
	if (new == old)
		return RET_PF_SPURIOUS;
	if (set_spte_atomic(cpu, sptep, first, level, old, new) != DONE)
		return RET_PF_RETRY;
	if (is_present(old) && (!was_leaf || (old & ~new & MMU_WRITABLE) != 0))
		outside("remote flushes");
	return RET_PF_FIXED;
}

/* Word index of the new table, 0: somebody was faster, or no page is at hand. */
static inline word make_table(struct cpu cpu, word *sptep, word gfn, word level, word old,
			      int nx_disallowed, int tracked)
{
	word first = round_gfn(cpu, gfn, level), page = alloc_table(cpu);

	if (page == 0)
		return 0;
	init_child_sp(cpu, page, first, level - 1, nx_disallowed);
	if (is_present(old))
		outside("huge pages");
	if (link_sp(cpu, sptep, first, level, old, page) != DONE) {
		free_unlinked_table(cpu, page);
		return 0;
	}
	if (tracked)
		outside("possible huge pages");
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
	word goal = huge_disallowed ? LEVEL_4K : requested, table, spte, *sptep;

	assert_held(cpu, HELD_MMU_READ);
	table = root_table(cpu, root);
	for (word level = root_level(root);; level--) {
		sptep = &cpu.words[table + index_of(cpu, gfn, level)];
		spte = read_once(sptep);
		goal = adjusted_goal(cpu, spte, level, goal);
		if (is_frozen(spte))
			return RET_PF_RETRY;
		warn(cpu, is_poison(spte), LIFETIME_WALK, gfn, sptep - cpu.words, level);
		if (level <= goal)
			return install_leaf(cpu, sptep, gfn, level, spte, pfn, access, writable);
		if (is_present(spte) && !is_leaf(spte, level)) {
			table = child_table(cpu, spte);
			continue;
		}
		table = make_table(cpu, sptep, gfn, level, spte, huge_disallowed,
				   huge_disallowed && requested >= level);
		if (table == 0)
			return RET_PF_RETRY;
	}
}
