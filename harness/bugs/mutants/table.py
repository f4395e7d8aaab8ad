"""What a campaign has shown: who was killed, by whom, and who survived with which diff."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.bugs.mutants.campaign import Record
from harness.bugs.mutants.catalogue import Mutant
from harness.bugs.mutants.hunt import FAILED, KILLED, SURVIVED, UNCOMPILED
from harness.bugs.mutants.operators import KINDS
from harness.report.tables import Cell, render

Records = Mapping[str, Record]


def kill_table(mutants: Sequence[Mutant], records: Records) -> str:
    """Kill rates by kind, of those that compile."""
    rows = [_row(kind, [m for m in mutants if m.kind == kind], records) for kind in KINDS]
    rows.append(_row("all", mutants, records))
    heads = ["kind", "mutants", "killed", "survive", "rate", "no code", "failed", "left"]
    return render(heads, [row for row in rows if row[1]])


def _row(kind: str, mutants: Sequence[Mutant], records: Records) -> list[Cell]:
    counted = Counter(records.get(each.name, {}).get("outcome", "") for each in mutants)
    judged = counted[KILLED] + counted[SURVIVED]
    rate = f"{100 * counted[KILLED] / judged:.0f} %" if judged else "-"
    return [
        kind,
        len(mutants),
        counted[KILLED],
        counted[SURVIVED],
        rate,
        counted[UNCOMPILED],
        counted[FAILED],
        counted[""],
    ]


def oracle_table(records: Records) -> str:
    """Who killed how many, and how long that took."""
    kills = [record for record in records.values() if record["outcome"] == KILLED]
    oracles = Counter(record["kill"]["oracle"] for record in kills)
    rows: list[list[Cell]] = []
    for oracle, count in oracles.most_common():
        seconds = sorted(r["seconds"] for r in kills if r["kill"]["oracle"] == oracle)
        rows.append([oracle, count, f"{seconds[len(seconds) // 2]:.1f}", f"{seconds[-1]:.1f}"])
    return render(["oracle", "killed", "median s", "longest s"], rows)


def remainders(mutants: Sequence[Mutant], records: Records) -> list[str]:
    """Survivors with their diffs, and what could not be judged."""
    texts = []
    for mutant in mutants:
        record = records.get(mutant.name, {})
        outcome = record.get("outcome")
        if outcome == SURVIVED:
            texts.append(
                f"SURVIVES {mutant.name}: {record['executions']:,} executions,"
                f" {record['exhausted']} scenarios exhausted\n{mutant.diff}"
            )
        elif outcome in (UNCOMPILED, FAILED):
            texts.append(f"{outcome.upper()} {mutant.name}: {record['message']}\n{mutant.diff}")
    return texts


def how_far(mutants: Sequence[Mutant], records: Records) -> str:
    """`12 of 150: 10 killed, 2 survive`."""
    outcomes = Counter(records[each.name]["outcome"] for each in mutants if each.name in records)
    words = {KILLED: "killed", SURVIVED: "survive", UNCOMPILED: "not compiled", FAILED: "failed"}
    told = ", ".join(f"{outcomes[each]} {word}" for each, word in words.items() if outcomes[each])
    return f"{outcomes.total()} of {len(mutants)}: {told or 'none yet'}"
