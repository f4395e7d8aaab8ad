"""What a campaign has shown: who was killed, by whom, and who survived with which diff."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from harness.bugs.mutants.campaign import Record
from harness.bugs.mutants.catalogue import Mutant
from harness.bugs.mutants.explained import Explanation
from harness.bugs.mutants.hunt import FAILED, KILLED, SURVIVED, UNCOMPILED
from harness.bugs.mutants.operators import KINDS
from harness.report.tables import Cell, render

Records = Mapping[str, Record]


def kill_table(
    mutants: Sequence[Mutant], records: Records, explained: Mapping[str, Explanation]
) -> str:
    """Kill rates by operator: of those that compile, and of these without the equivalent ones."""
    same = {name for name, each in explained.items() if each.verdict == "equivalent"}
    operators = dict.fromkeys(each.operator for each in mutants)
    order = sorted(operators, key=lambda each: (KINDS.index(each.split("-")[0]), each))
    rows = [_row(each, [m for m in mutants if m.operator == each], records, same) for each in order]
    rows.append(_row("all", mutants, records, same))
    heads = ["operator", "mutants", "killed", "survive", "equivalent", "rate", "of the rest"]
    return render([*heads, "no code", "failed", "left", "s each"], rows)


def _row(name: str, mutants: Sequence[Mutant], records: Records, same: Set[str]) -> list[Cell]:
    found = [records[each.name] for each in mutants if each.name in records]
    counted = Counter(each["outcome"] for each in found)
    judged = counted[KILLED] + counted[SURVIVED]
    equivalent = sum(each["outcome"] == SURVIVED and each["name"] in same for each in found)
    seconds = [each["wall_seconds"] for each in found]
    return [
        name,
        len(mutants),
        counted[KILLED],
        counted[SURVIVED],
        equivalent,
        _rate(counted[KILLED], judged),
        _rate(counted[KILLED], judged - equivalent),
        counted[UNCOMPILED],
        counted[FAILED],
        len(mutants) - len(found),
        f"{sum(seconds) / len(seconds):.1f}" if seconds else "-",
    ]


def _rate(killed: int, judged: int) -> str:
    return f"{100 * killed / judged:.0f} %" if judged else "-"


def oracle_table(records: Records) -> str:
    """Who killed how many, and how long that took."""
    kills = [record for record in records.values() if record["outcome"] == KILLED]
    oracles = Counter(record["kill"]["oracle"] for record in kills)
    rows: list[list[Cell]] = []
    for oracle, count in oracles.most_common():
        seconds = sorted(r["seconds"] for r in kills if r["kill"]["oracle"] == oracle)
        rows.append([oracle, count, f"{seconds[len(seconds) // 2]:.1f}", f"{seconds[-1]:.1f}"])
    return render(["oracle", "killed", "median s", "longest s"], rows)


def remainders(
    mutants: Sequence[Mutant], records: Records, explained: Mapping[str, Explanation]
) -> list[str]:
    """Survivors with why or with their diffs, what could not be judged, and wrong explanations."""
    texts = []
    for mutant in mutants:
        record = records.get(mutant.name, {})
        outcome = record.get("outcome")
        known = explained.get(mutant.name)
        if outcome == SURVIVED:
            tried = (
                f"{record['executions']:,} executions, {record['exhausted']} of"
                f" {record['scenarios']} scenarios exhausted"
            )
            why = f"unexplained\n{mutant.diff}"
            if known is not None:
                why = f"{known.verdict}: {known.text}\n"
            texts.append(f"SURVIVES {mutant.name}: {tried}; {why}")
        elif outcome in (UNCOMPILED, FAILED):
            texts.append(f"{outcome.upper()} {mutant.name}: {record['message']}\n{mutant.diff}")
        elif outcome == KILLED and known is not None and known.verdict == "equivalent":
            kill = record["kill"]
            texts.append(
                f"NOT EQUIVALENT {mutant.name}: killed by {kill['oracle']} in {kill['scenario']}"
                f" ({kill['strategy']}): {kill['message']}\n"
            )
    return texts


def how_far(mutants: Sequence[Mutant], records: Records) -> str:
    """`12 of 150: 10 killed, 2 survive`."""
    outcomes = Counter(records[each.name]["outcome"] for each in mutants if each.name in records)
    words = {KILLED: "killed", SURVIVED: "survive", UNCOMPILED: "not compiled", FAILED: "failed"}
    told = ", ".join(f"{outcomes[each]} {word}" for each, word in words.items() if outcomes[each])
    return f"{outcomes.total()} of {len(mutants)}: {told or 'none yet'}"
