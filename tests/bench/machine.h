/*
 * What the twin stands on, as mmu/machine/ is for the model: words, atomics, waiting, locks, RCU.
 */
#pragma once

#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <x86intrin.h>

#include "layout.h"

typedef int64_t word;

/* As `Cpu` of the model: passed by value, never changed. */
struct cpu {
	word *words; /* the shared block */
	word *own;   /* the actor's own block in it */
	word id;
	word bits;   /* geometry: log2 of the entries per table */
};

/* --- Primitives ----------------------------------------------------------------------------- */

static inline word read_once(const word *at)
{
	return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static inline void write_once(word *at, word value)
{
	__atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static inline word xchg(word *at, word value)
{
	return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);
}

static inline word fetch_add(word *at, word amount)
{
	return __atomic_fetch_add(at, amount, __ATOMIC_SEQ_CST);
}

/* For advice only: nothing correct depends on it. */
static inline word hint(const word *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static inline void set_hint(word *at, word value)
{
	__atomic_store_n(at, value, __ATOMIC_RELAXED);
}

/* Returns the value seen: `old` if it was replaced. */
static inline word cmpxchg(word *at, word old, word new)
{
	__atomic_compare_exchange_n(at, &old, new, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return old;
}

static inline word config(struct cpu cpu, word index) { return cpu.words[index]; }
static inline word cycles(void) { return (word)__rdtsc(); }

__attribute__((noreturn, cold))
static void outside(const char *what)
{
	fprintf(stderr, "the C twin does not model %s\n", what);
	abort();
}

__attribute__((noinline, cold))
static void record(struct cpu cpu, word condition, word a, word b, word c)
{
	if (cpu.own[VIOLATIONS] == 0) {
		cpu.own[VIOLATION_CONDITION] = condition;
		cpu.own[VIOLATION_A] = a;
		cpu.own[VIOLATION_B] = b;
		cpu.own[VIOLATION_C] = c;
	}
	cpu.own[VIOLATIONS]++;
}

static inline void warn(struct cpu cpu, int failed, word condition, word a, word b, word c)
{
	if (failed)
		record(cpu, condition, a, b, c);
}

/* --- Latency histograms --------------------------------------------------------------------- */

static inline word bucket_of(word ticks)
{
	word octave = 0, scaled = ticks, bucket;

	if (ticks < 1 << HISTOGRAM_SUB_BITS)
		return ticks > 0 ? ticks : 0;
	for (; scaled >= 2 << HISTOGRAM_SUB_BITS; scaled >>= 1)
		octave++;
	bucket = (octave << HISTOGRAM_SUB_BITS) + scaled;
	return bucket < HISTOGRAM_WORDS - 1 ? bucket : HISTOGRAM_WORDS - 1;
}

static inline void record_latency(struct cpu cpu, word which, word ticks)
{
	word histograms = config(cpu, C_HISTOGRAMS);

	if (histograms != 0)
		cpu.own[histograms + which * HISTOGRAM_WORDS + bucket_of(ticks)]++;
}

/* --- Waiting: spin a little, then sleep on an event count (mmu/machine/blocking.py) ----------- */

static inline void futex(word *at, word operation, word value)
{
	/* The low half of our word; not FUTEX_PRIVATE, since these are different processes. */
	syscall(SYS_FUTEX, at, operation, value & 0xFFFFFFFF, NULL, NULL, 0);
}

static inline void futex_sleep(struct cpu cpu, word *line, word gate)
{
	cpu.own[WAITING_FOR] = line - cpu.words;
	futex(line + GATE, FUTEX_WAIT, gate);
	cpu.own[WAITING_FOR] = 0;
}

static inline void wake(word *line)
{
	if (read_once(line + SLEEPERS) != 0) {
		fetch_add(line + GATE, 1);
		futex(line + GATE, FUTEX_WAKE, INT32_MAX);
	}
}

/* One attempt of whoever waits since exclusive phase `phase`. */
static inline int attempt(word *line, word mask, word amount, word phase)
{
	word seen = read_once(line), change = amount, got;

	if (amount == EXCLUSIVE)
		change = EXCLUSIVE - WAITING_UNIT;
	else if (read_once(line + PHASES) == phase)
		mask |= WAITING_MASK;
	while ((seen & mask) == 0) {
		got = cmpxchg(line, seen, seen + change);
		if (got == seen)
			return 1;
		seen = got;
	}
	return 0;
}

static inline void count_wait(struct cpu cpu, word *line, word amount, word ticks)
{
	word mode = amount == EXCLUSIVE, *longest = &cpu.own[N_LOCK_READ_WAIT_MAX + mode];

	record_latency(cpu, H_BLOCK, ticks);
	if (line != &cpu.words[MMU_LOCK])
		return;
	cpu.own[N_LOCK_READ_CONTENDED + mode]++;
	cpu.own[N_LOCK_READ_WAIT + mode] += ticks;
	if (*longest < ticks)
		*longest = ticks;
}

__attribute__((noinline, cold))
static void acquire_slow(struct cpu cpu, word *line, word mask, word amount)
{
	word began = cycles(), phase = read_once(line + PHASES), gate;
	int got = 0;

	if (amount == EXCLUSIVE)
		fetch_add(line, WAITING_UNIT);
	while (!got) {
		for (int i = 0; i < SPINS_MAX && !got; i++) {
			got = attempt(line, mask, amount, phase);
			if (!got)
				_mm_pause();
		}
		if (got)
			break;
		fetch_add(line + SLEEPERS, 1);
		gate = read_once(line + GATE);
		got = attempt(line, mask, amount, phase);
		if (!got)
			futex_sleep(cpu, line, gate);
		fetch_add(line + SLEEPERS, -1);
	}
	count_wait(cpu, line, amount, cycles() - began);
}

/* Every lock is made of it: add `amount` while no bit of `mask` is set. */
static inline void acquire(struct cpu cpu, word *line, word mask, word amount)
{
	word seen = read_once(line), courtesy = amount == SHARED_UNIT ? WAITING_MASK : 0;

	if ((seen & (mask | courtesy)) != 0 || cmpxchg(line, seen, seen + amount) != seen)
		acquire_slow(cpu, line, mask, amount);
}

static inline void release(word *line, word amount)
{
	if (amount == EXCLUSIVE)
		write_once(line + PHASES, read_once(line + PHASES) + 1);
	/* With readers left nobody can go on. */
	if (fetch_add(line, -amount) - amount < SHARED_UNIT)
		wake(line);
}

/* --- Locks and RCU, with what lockdep would know ---------------------------------------------- */

static inline void take(struct cpu cpu, word forbidden, word mine)
{
	word held = cpu.own[HELD];

	warn(cpu, (held & forbidden) != 0, LOCK_ORDER, mine, held, 0);
	cpu.own[HELD] = held | mine;
}

static inline void drop(struct cpu cpu, word mine)
{
	word held = cpu.own[HELD];

	warn(cpu, (held & mine) == 0, LOCK_MODE, mine, held, 0);
	cpu.own[HELD] = held & ~mine;
}

static inline void assert_held(struct cpu cpu, word wanted)
{
	warn(cpu, (cpu.own[HELD] & wanted) == 0, LOCK_MODE, wanted, cpu.own[HELD], 0);
}

static inline void assert_may_sleep(struct cpu cpu)
{
	word held = cpu.own[HELD];

	warn(cpu, (held & ~(HELD_SLOTS | HELD_HOST)) != 0, LOCK_SLEEP, 0, held, 0);
}

static inline void mmu_read_lock(struct cpu cpu)
{
	take(cpu, HELD_MMU | HELD_PAGES | HELD_POOL | HELD_RCU, HELD_MMU_READ);
	acquire(cpu, &cpu.words[MMU_LOCK], EXCLUSIVE, SHARED_UNIT);
}

static inline void mmu_read_unlock(struct cpu cpu)
{
	drop(cpu, HELD_MMU_READ);
	release(&cpu.words[MMU_LOCK], SHARED_UNIT);
}

static inline void pool_lock(struct cpu cpu)
{
	assert_may_sleep(cpu);
	take(cpu, HELD_POOL, HELD_POOL);
	acquire(cpu, &cpu.words[POOL_LOCK], EXCLUSIVE | SHARED_MASK, EXCLUSIVE);
}

static inline void pool_unlock(struct cpu cpu)
{
	drop(cpu, HELD_POOL);
	release(&cpu.words[POOL_LOCK], EXCLUSIVE);
}

static inline void rcu_read_lock(struct cpu cpu)
{
	word mask = config(cpu, C_SAMPLE_MASK);

	xchg(&cpu.own[RCU_SECTION], cpu.own[RCU_SECTION] + 1);
	cpu.own[HELD] |= HELD_RCU;
	if (mask >= 0 && (cpu.own[FAULT_NUMBER] & mask) == 0)
		cpu.own[RCU_BEGAN] = cycles();
}

static inline void rcu_read_unlock(struct cpu cpu)
{
	assert_held(cpu, HELD_RCU);
	if (cpu.own[RCU_BEGAN] != 0) {
		record_latency(cpu, H_RCU_SECTION, cycles() - cpu.own[RCU_BEGAN]);
		cpu.own[RCU_BEGAN] = 0;
	}
	cpu.own[HELD] &= ~HELD_RCU;
	write_once(&cpu.own[RCU_SECTION], cpu.own[RCU_SECTION] + 1);
}
