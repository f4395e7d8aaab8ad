"""`tdprace results`: list, show and compare stored runs.

A stored run may come from an older or a hand-edited file, so what is read here is taken as it
is found: a part that is missing or of another shape is left out, never a traceback. `compare`
first builds the document that `--json` prints and then renders it: both say the same.
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard

from harness.report import store, tables
from workloads.errors import UsageError

HELP: Final = "list, show and compare stored runs"

_Document = Mapping[str, Any]

_IDENTITY: Final = ("workload", "scenario", "version", "model", "patch", "outcome")
# Parts with a table of their own; every other part that is a list of records gets a generic one.
_OWN_TABLES: Final = ("runs", "phases", "violations")
_LATENCY: Final = ("count", "sampled", "p50", "p99", "p999", "max")
_LATENCY_COMPARED: Final = ("p50", "p99", "max")


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """Adds the three actions and their options to the parser of `tdprace results`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|compare")
    listing = actions.add_parser("list", help="the stored runs, newest first")
    listing.add_argument(
        "-n", "--limit", type=int, default=20, metavar="N", help="at most N runs (default 20)"
    )
    showing = actions.add_parser("show", help="one run: its table, configuration, host, figures")
    comparing = actions.add_parser("compare", help="two runs side by side")
    what = "a run's id, its folder or the beginning of its name, or `latest`"
    showing.add_argument("reference", metavar="RUN", help=what)
    comparing.add_argument("reference_a", metavar="A", help=what)
    comparing.add_argument("reference_b", metavar="B", help="the run to compare with A")
    for action in (listing, showing, comparing):
        action.add_argument(
            "--results",
            type=Path,
            default=Path("results"),
            metavar="DIR",
            help="where runs are stored (default: results)",
        )
        action.add_argument(
            "--json", metavar="FILE|-", help="write JSON to FILE; with -, print nothing else"
        )


def run(args: argparse.Namespace) -> int:
    """Does what was parsed and returns the exit status, 0.

    Raises `UsageError` for runs that are not there or cannot be read.
    """
    actions = {"list": _list, "show": _show, "compare": _compare}
    document, text = actions[args.action](args)
    if args.json == "-":
        sys.stdout.write(store.dump(dict(document)))
        return 0
    if args.json:
        store.replace_text(Path(args.json), store.dump(dict(document)))
    # A stored text may hold what no encoding has, such as half a surrogate pair.
    print(text.encode(errors="replace").decode())
    return 0


def _list(args: argparse.Namespace) -> tuple[_Document, str]:
    if args.limit < 1:
        raise UsageError(f"-n {args.limit}: at least one run must be listed; write -n 20")
    found = store.recent(args.results, args.limit)
    runs = [_summary(stored) for stored in found.runs]
    headers = ("run", "command", "workload", "outcome", "seconds", "violations")
    cells = [[_seconds(r[key]) if key == "seconds" else r[key] for key in headers] for r in runs]
    parts = [tables.render(headers, cells) if runs else f"no readable runs in {args.results}"]
    if found.unreadable_count:
        parts.append(f"{found.unreadable_count} skipped: not readable as runs")
    if found.stored_count > len(runs) + found.unreadable_count:
        parts.append(f"{len(runs)} newest of {found.stored_count}; -n N lists more")
    document = {
        "schema": store.SCHEMA,
        "command": "results list",
        "runs": runs,
        "stored_count": found.stored_count,
        "unreadable_count": found.unreadable_count,
    }
    return document, "\n".join(parts)


def _summary(stored: store.StoredRun) -> dict[str, Any]:
    document = stored.document
    return {
        "run": stored.path.name,
        "command": _text(document.get("command")),
        "workload": _text(document.get("workload") or document.get("scenario")),
        "outcome": _text(document.get("outcome")),
        "seconds": _total_s(document),
        "violations": _violation_count(document),
    }


def _show(args: argparse.Namespace) -> tuple[_Document, str]:
    path = store.find(args.results, args.reference)
    document = store.load(path)
    parts = [str(path)]
    table = (path if path.is_dir() else path.parent) / store.TABLE_FILE
    with contextlib.suppress(OSError):
        parts.append(table.read_text(encoding="utf-8", errors="replace").rstrip())
    plain = {
        key: value
        for key, value in document.items()
        if not isinstance(value, dict) and not _records(document, key)
    }
    parts.append(_pairs("run", plain, _value))
    parts += _records_table("violations", _records(document, "violations"))
    for name in ("config", "host"):
        if part := _part(document, name):
            # As an option is written: 1,024 could not be given back to --seed.
            parts.append(_pairs(name, _flat(part), _text))
    for variant, one in _runs(document).items():
        parts += _figures(one, f" ({variant})" if variant else "")
    for name in document:
        if name not in _OWN_TABLES:
            parts += _records_table(name, _records(document, name))
    return document, "\n\n".join(parts)


def _figures(one: _Document, suffix: str) -> Iterator[str]:
    """The tables of one run: phases, counters, latency."""
    if phases := _phases(one):
        rows = [[name, _seconds(value_s)] for (name, _), value_s in phases.items()]
        yield _titled(f"phases{suffix}", ("phase", "seconds"), rows)
    if counters := _flat(_part(one, "counters")):
        yield _pairs(f"counters{suffix}", counters, _value)
    if latency := _part(one, "latency_ns"):
        rows = [
            [name, *(_latency(figures, key) for key in _LATENCY)]
            for name, figures in latency.items()
        ]
        yield _titled(f"latency{suffix}", ("what", *_LATENCY), rows)


def _compare(args: argparse.Namespace) -> tuple[_Document, str]:
    paths = [store.find(args.results, ref) for ref in (args.reference_a, args.reference_b)]
    a, b = (store.load(path) for path in paths)
    if a.get("command") != b.get("command"):
        raise UsageError(
            f"{paths[0]} is of `{_text(a.get('command'))}`, {paths[1]} of"
            f" `{_text(b.get('command'))}`; compare runs of one command"
        )
    runs_a, runs_b = _runs(a), _runs(b)
    document = {
        "schema": store.SCHEMA,
        "command": "results compare",
        "a": str(paths[0]),
        "b": str(paths[1]),
        "differences": _differences(_identity(a), _identity(b), "what"),
        "only_a": [variant for variant in runs_a if variant not in runs_b],
        "only_b": [variant for variant in runs_b if variant not in runs_a],
        "runs": [
            {"variant": variant, **_compare_runs(one, runs_b[variant])}
            for variant, one in runs_a.items()
            if variant in runs_b
        ],
        "rows": _compare_rows(_records(a, "rows"), _records(b, "rows")),
    }
    return document, "\n\n".join(_comparison(document))


def _identity(document: _Document) -> dict[str, Any]:
    """What makes two runs comparable or not, flat, by dotted names."""
    named = {key: document.get(key) for key in _IDENTITY}
    return named | _flat({key: _part(document, key) for key in ("config", "host")})


def _differences(a: _Document, b: _Document, label: str) -> list[dict[str, Any]]:
    """The keys whose values differ, in A's order; for numbers, also by how much."""
    found = []
    for key in dict.fromkeys([*a, *b]):
        value_a, value_b = a.get(key), b.get(key)
        if value_a != value_b:
            difference = {label: key, "a": value_a, "b": value_b}
            if _is_number(value_a) and _is_number(value_b):
                difference["difference"] = value_b - value_a
            found.append(difference)
    return found


def _compare_runs(a: _Document, b: _Document) -> dict[str, Any]:
    phases_a, phases_b = _phases(a), _phases(b)
    latency_a, latency_b = _part(a, "latency_ns"), _part(b, "latency_ns")
    return {
        "phases": [
            {"name": key[0], **_ratio(phases_a.get(key), phases_b.get(key))}
            for key in dict.fromkeys([*phases_a, *phases_b])
        ],
        "counters": _differences(_counters(a), _counters(b), "name"),
        "latency_ns": [
            {"name": name, "a": latency_a.get(name), "b": latency_b.get(name)}
            for name in dict.fromkeys([*latency_a, *latency_b])
        ],
    }


def _compare_rows(a: Sequence[_Document], b: Sequence[_Document]) -> list[dict[str, Any]]:
    """Pairs the rows of two scaling tables by vCPUs, variant and phase."""
    keys = ("vcpus", "variant", "phase")
    by_key = [{tuple(_text(row.get(key)) for key in keys): row for row in rows} for rows in (a, b)]
    compared = []
    for key in dict.fromkeys([*by_key[0], *by_key[1]]):
        row_a, row_b = (rows.get(key, {}) for rows in by_key)
        named = {name: (row_a or row_b).get(name) for name in keys}
        figures = _ratio(row_a.get("seconds"), row_b.get("seconds"))
        compared.append({**named, **figures, "row_a": row_a or None, "row_b": row_b or None})
    return compared


def _comparison(document: _Document) -> Iterator[str]:
    """The text of a comparison."""
    yield f"A: {document['a']}\nB: {document['b']}"
    differences = document["differences"]
    options = [d["what"] for d in differences if d["what"].startswith("config.")]
    if options:
        names = ", ".join(option.removeprefix("config.") for option in options)
        yield f"the configs differ in {names}"
    else:
        yield "the configs are the same"
    if differences:
        rows = [[d["what"], _text(d["a"]), _text(d["b"])] for d in differences]
        yield _titled("differences", ("what", "A", "B"), rows)
    for side in ("a", "b"):
        if variants := document[f"only_{side}"]:
            names = ", ".join(variant or "the run without variants" for variant in variants)
            yield f"only in {side.upper()}: {names}"
    for one in document["runs"]:
        yield from _run_comparison(one, f" ({one['variant']})" if one["variant"] else "")
    if rows := [_row_cells(row) for row in document["rows"]]:
        headers = ("vCPUs", "variant", "phase", "A", "A quartiles", "B", "B quartiles", "B/A")
        yield _titled("scaling", (*headers, "regime"), rows)


def _run_comparison(one: _Document, suffix: str) -> Iterator[str]:
    if one["phases"]:
        rows = [
            [phase["name"], _seconds(phase["a"]), _seconds(phase["b"]), _times(phase["ratio"])]
            for phase in one["phases"]
        ]
        yield _titled(f"phases{suffix}", ("phase", "A", "B", "B/A"), rows)
    if one["counters"]:
        rows = [
            [d["name"], _value(d["a"]), _value(d["b"]), _signed(d.get("difference"))]
            for d in one["counters"]
        ]
        yield _titled(f"counters that differ{suffix}", ("name", "A", "B", "difference"), rows)
    else:
        yield f"counters{suffix}: none differs"
    if one["latency_ns"]:
        keys = list(itertools.product(_LATENCY_COMPARED, "ab"))
        rows = [
            [both["name"], *(_latency(both[side], key) for key, side in keys)]
            for both in one["latency_ns"]
        ]
        headers = ("what", *(f"{side.upper()} {key}" for key, side in keys))
        yield _titled(f"latency{suffix}", headers, rows)


def _row_cells(row: _Document) -> list[tables.Cell]:
    sides = [row["row_a"] or {}, row["row_b"] or {}]
    regimes = dict.fromkeys(_text(side.get("regime")) for side in sides if side)
    quartiles = [
        f"{_seconds(side.get('q1'))}..{_seconds(side.get('q3'))}" if side else "-" for side in sides
    ]
    return [
        *(_text(row[key]) for key in ("vcpus", "variant", "phase")),
        *(_seconds(row["a"]), quartiles[0], _seconds(row["b"]), quartiles[1]),
        *(_times(row["ratio"]), " / ".join(regimes)),
    ]


def _runs(document: _Document) -> dict[str, _Document]:
    """The runs of a document by variant; one without variants is its own run, named ``."""
    runs = _records(document, "runs")
    if not runs:
        return {"": document}
    return {_text(one.get("variant", index)): one for index, one in enumerate(runs)}


def _phases(one: _Document) -> dict[tuple[str, int], Any]:
    """Seconds by name and how often the name came before: a phase may be repeated."""
    phases: dict[tuple[str, int], Any] = {}
    for phase in _records(one, "phases"):
        name = _text(phase.get("name"))
        nth = next(nth for nth in itertools.count() if (name, nth) not in phases)
        phases[name, nth] = phase.get("seconds")
    return phases


def _counters(one: _Document) -> dict[str, Any]:
    """The run's counters, and the figures that other commands keep at the top, flat."""
    figures = {key: value for key, value in one.items() if _is_number(value) and key != "schema"}
    return figures | _flat(_part(one, "counters"))


def _total_s(document: _Document) -> float | None:
    """The seconds that the document names, or the sum of its phases."""
    if _is_number(document.get("seconds")):
        return float(document["seconds"])
    phases_s = [s for one in _runs(document).values() for s in _phases(one).values()]
    return sum(filter(_is_number, phases_s)) if phases_s else None


def _violation_count(document: _Document) -> int:
    own = len(_records(document, "violations"))
    return own or sum(len(_records(one, "violations")) for one in _records(document, "runs"))


def _part(document: _Document, name: str) -> dict[str, Any]:
    part = document.get(name)
    return part if isinstance(part, dict) else {}


def _records(document: _Document, name: str) -> list[dict[str, Any]]:
    part = document.get(name)
    return [item for item in part if isinstance(item, dict)] if isinstance(part, list) else []


def _flat(part: _Document, prefix: str = "") -> dict[str, Any]:
    """Nested parts by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in part.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _ratio(a: Any, b: Any) -> dict[str, Any]:
    # Less than a picosecond was not measured, and its quotient may not be a number.
    known = _is_number(a) and _is_number(b) and a > 1e-12
    return {"a": a, "b": b, "ratio": b / a if known else None}


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Whether to compute with it; JSON also has integers that no float can hold."""
    return type(value) in (int, float) and abs(value) < 1e100


def _titled(title: str, headers: Sequence[str], rows: Sequence[Sequence[tables.Cell]]) -> str:
    return f"{title}:\n{tables.render(headers, rows)}"


def _pairs(title: str, part: _Document, spell: Callable[[Any], str]) -> str:
    return _titled(title, ("name", "value"), [[key, spell(v)] for key, v in part.items()])


def _records_table(title: str, records: Sequence[_Document]) -> list[str]:
    if not records:
        return []
    headers = list(dict.fromkeys(itertools.chain.from_iterable(records)))
    rows = [[_value(record.get(header)) for header in headers] for record in records]
    return [_titled(title, headers, rows)]


def _text(value: Any) -> str:
    """A value as a word of its own; lists as their items."""
    if isinstance(value, list):
        return ",".join(map(_text, value)) or "none"
    return "-" if value is None else str(value)


def _value(value: Any) -> str:
    return tables.count(value) if type(value) is int else _text(value)


def _signed(value: Any) -> str:
    return f"{value:+,}" if _is_number(value) else "-"


def _seconds(value: Any) -> str:
    return tables.seconds(value) if _is_number(value) else _text(value)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _latency(figures: Any, key: str) -> str:
    """One figure of a latency; all but the two counts are nanoseconds."""
    value = figures.get(key) if isinstance(figures, dict) else None
    if key in ("count", "sampled") or not _is_number(value):
        return _value(value)
    return tables.duration_ns(value)
