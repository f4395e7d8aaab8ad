"""Injection: failures where the model's probes ask for them, and delays before steps.

Each actor has a random sequence of its own for each kind of injection, made from the run's seed:
the n-th answer to a kind of question is the same in every run, whatever else was asked.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from harness.watch.block import (
    CONTENTION,
    DELAY,
    KINDS,
    RETRY,
    W_CHANCES,
    W_DELAY_TICKS,
    W_IN_A_ROW,
    W_INJECTED,
    W_RANDOM,
    W_THRESHOLD,
)
from harness.watch.words import get, put, ticks
from mmu.machine.events import PROBE_RETRY
from mmu.machine.kernel import inlined_array_kernel
from workloads.actors.memstress import RANDOM_MASK, RANDOM_SHIFT, next_random
from workloads.errors import UsageError

RANDOM_BITS = 31
# So many failures in a row, then the probe is let through.  What fails for ever never ends: a fault
# that is always sent back is no rare interleaving but a livelock of the injector's making.
IN_A_ROW_MAX = 16
DELAY_NS_MAX = 1_000_000_000  # far below what the watchdog allows

_EXPECTED = "write one or more of retry=P,cmpxchg=P,contention=P,delay=P:NS"
_PROBABILITY = re.compile(r"[0-9]*\.?[0-9]+(?:[eE]-?[0-9]{1,3})?|[0-9]+\.")
_NANOSECONDS = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class Injection:
    """How often each kind is injected, as probabilities, and for how long a delay lasts."""

    retry: float = 0.0
    cmpxchg: float = 0.0
    contention: float = 0.0
    delay: float = 0.0
    delay_ns: int = 0

    def __str__(self) -> str:
        values = (self.retry, self.cmpxchg, self.contention)
        parts = [f"{name}={p:g}" for name, p in zip(KINDS, values, strict=False) if p]
        return ",".join(
            [*parts, *([f"delay={self.delay:g}:{self.delay_ns}"] if self.delay else [])]
        )

    def probabilities(self) -> tuple[float, float, float, float]:
        """In the order of `block.KINDS`."""
        return self.retry, self.cmpxchg, self.contention, self.delay


def parse_injection(text: str) -> Injection:
    """What `--inject` is given: `retry=0.01,delay=1e-5:2000`.

    Raises UsageError that says what is expected.
    """
    found: dict[str, float] = {}
    nanoseconds = 0
    for item in text.split(","):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or name not in KINDS:
            raise UsageError(f"{_short(item)} is no injection; {_EXPECTED}")
        if name in found:
            raise UsageError(f"{name} is given twice; {_EXPECTED}")
        if name == "delay":
            value, colon, length = (part.strip() for part in value.partition(":"))
            if not colon or not _NANOSECONDS.fullmatch(length):
                raise UsageError(f"{_short(item)} does not say for how long; write delay=P:NS")
            nanoseconds = int(length)
            if not 1 <= nanoseconds <= DELAY_NS_MAX:
                raise UsageError(f"{_short(item)}: a delay is 1 to {DELAY_NS_MAX} ns")
        found[name] = _probability(item, value)
    return Injection(**found, delay_ns=nanoseconds)


def _probability(item: str, text: str) -> float:
    if not _PROBABILITY.fullmatch(text) or float(text) > 1:
        raise UsageError(f"{_short(item)}: a probability is a number from 0 to 1, such as 0.001")
    return float(text)


def _short(item: str) -> str:
    return repr(item if len(item) <= 40 else item[:37] + "...")


def threshold(probability: float) -> int:
    """Below which a random number of `RANDOM_BITS` bits it happens; what is not 0 may happen."""
    wanted = round(probability * (1 << RANDOM_BITS))
    return max(wanted, 1) if probability > 0 else 0


def first_state(seed: int, actor: int, kind: int) -> int:
    """Where an actor's random sequence for a kind begins: unrelated to all others."""
    text = f"inject {seed} {actor} {KINDS[kind]}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") & RANDOM_MASK


@inlined_array_kernel
def happens(ctx: int, kind: int) -> int:
    """Draw whether a kind of injection happens now."""
    state = next_random(get(ctx, W_RANDOM + kind))
    put(ctx, W_RANDOM + kind, state)
    put(ctx, W_CHANCES + kind, get(ctx, W_CHANCES + kind) + 1)
    if state >> RANDOM_SHIFT >= get(ctx, W_THRESHOLD + kind):
        return 0
    put(ctx, W_INJECTED + kind, get(ctx, W_INJECTED + kind) + 1)
    return 1


@inlined_array_kernel
def answer_probe(ctx: int, which: int) -> int:
    """1 if the model's probe `which` is to fail."""
    kind = RETRY + which - PROBE_RETRY
    if kind < RETRY or kind > CONTENTION or get(ctx, W_THRESHOLD + kind) == 0:
        return 0
    in_a_row = get(ctx, W_IN_A_ROW + kind)
    if in_a_row >= IN_A_ROW_MAX:
        put(ctx, W_CHANCES + kind, get(ctx, W_CHANCES + kind) + 1)
        put(ctx, W_IN_A_ROW + kind, 0)
        return 0
    if happens(ctx, kind) == 0:
        put(ctx, W_IN_A_ROW + kind, 0)
        return 0
    put(ctx, W_IN_A_ROW + kind, in_a_row + 1)
    return 1


@inlined_array_kernel
def delay_step(ctx: int) -> None:
    """Now and then let time pass before a step: others get ahead where they seldom do."""
    if happens(ctx, DELAY) != 0:
        end = ticks() + get(ctx, W_DELAY_TICKS)
        while ticks() < end:
            pass
