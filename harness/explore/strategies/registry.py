"""Which strategies there are, and which options mean something to each."""

from __future__ import annotations

from dataclasses import dataclass

EXACT_OPTIONS = frozenset(("preemptions",))
SAMPLER_OPTIONS = frozenset(("seed", "jobs"))


@dataclass(frozen=True)
class StrategyInfo:
    """One sentence, and the options that it uses beside --executions, --seconds and --steps."""

    about: str
    options: frozenset[str]


STRATEGIES = {
    "auto": StrategyInfo(
        "dpor for 40 % of the budget, then surw, urw and pos in turn (default)", SAMPLER_OPTIONS
    ),
    "dpor": StrategyInfo("every trace once: source-DPOR with sleep sets", EXACT_OPTIONS),
    "optimal": StrategyInfo("every trace once, and no execution is ever cut", EXACT_OPTIONS),
    "random": StrategyInfo("each step uniform over who can go on", SAMPLER_OPTIONS),
    "pct": StrategyInfo(
        "random priorities with --depth - 1 changes; prints its bound", SAMPLER_OPTIONS | {"depth"}
    ),
    "pos": StrategyInfo("a priority for each step, drawn again after races", SAMPLER_OPTIONS),
    "urw": StrategyInfo("uniform over interleavings, by steps left", SAMPLER_OPTIONS),
    "surw": StrategyInfo("uniform over accesses to one word, drawn each time", SAMPLER_OPTIONS),
}
OPTIONAL = ("preemptions", "depth", "seed", "jobs")
