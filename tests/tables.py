"""Every table in README.md and docs/ comes from a command; this runs them again.

A block looks like this, and only its inside is replaced:

    <!-- table: tdprace stress dirty-log ... -->
    ```text
    ...
    ```
    <!-- end -->

`python -m tests.tables` (make tables) measures everything again.  `--check` runs the commands
that print counters and compares these, not the times; CI does that.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]  # of a module's name and its words
BLOCK = re.compile(r"(<!-- table: (.+?) -->\n```text\n)(.*?)(```\n<!-- end -->)", re.DOTALL)

# Rows that the scheduler and the machine decide, not the options.
VOLATILE = re.compile(
    r"exits|quiet_points|memory,|cmpxchg_failed|lock_|tlb_misses|mmio|pf_retry|pf_spurious|yields"
)


def documents() -> list[Path]:
    """Where tables may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def in_fresh_interpreter(*module: str) -> Done:
    """`python -m MODULE WORDS` in the checkout."""
    command = [sys.executable, "-m", *module]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def output_of(command: str, run: Run = in_fresh_interpreter) -> str:
    """What a command prints, without the line that says where the run lies."""
    words = shlex.split(command)
    with tempfile.TemporaryDirectory() as folder:
        runs = words[1] in ("stress", "scale", "explore")
        more = ["--quiet", "--results", folder] if runs else []
        module = ["harness", *words[1:], *more]
        if command == "make bench":
            module = ["tests.bench"]
        elif words[0] == "python":
            module = words[2:]
        done = run(*module)
    # A replay that reproduces its violation says so by 1.
    if done.returncode != (1 if words[1] == "replay" else 0):
        raise SystemExit(f"{command}: exit status {done.returncode}: {done.stderr}")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("stored: ")]
    if words[1] == "stress":
        lines = times_and_counters(lines)
    return "\n".join(lines).strip("\n") + "\n"


def times_and_counters(lines: list[str]) -> list[str]:
    """What a document has room for: a run's first two tables and its last line.

    Of a run that ends in a comparison of its workload's own, that table and what follows it.
    """
    blocks = [block for block in "\n".join(lines).split("\n\n") if block.strip()]
    tables = [number for number, block in enumerate(blocks) if block.startswith("|")]
    if " latency " not in blocks[tables[-1]].splitlines()[0]:
        return "\n\n".join(blocks[tables[-1] :]).splitlines()
    return "\n\n".join([*(blocks[number] for number in tables[:2]), lines[-1]]).splitlines()


def counters_in(text: str) -> list[str]:
    """Table rows that name a counter and hold whole numbers only, white space folded."""
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 3 or VOLATILE.search(line):
            continue
        if all(re.fullmatch(r"[0-9,]*", cell) for cell in cells[2:]):
            rows.append(" | ".join(cells))
    return rows


def regenerate() -> None:
    """Run every command and put its output into its block."""
    for path in documents():
        text = path.read_text()
        new = BLOCK.sub(lambda m: m[1] + output_of(m[2]) + m[4], text)
        if new != text:
            path.write_text(new)
        print(f"{path.relative_to(ROOT)}: {len(BLOCK.findall(text))} tables")


def check(run: Run = in_fresh_interpreter) -> int:
    """Compare the counters of every table with a new run; 1 if any differ."""
    wrong = compared = 0
    for path in documents():
        for _, command, body, _ in BLOCK.findall(path.read_text()):
            stated = counters_in(body)
            if not stated or not command.startswith("tdprace stress"):
                continue  # times only
            found = counters_in(output_of(command, run))
            compared += len(stated)
            for row in sorted(set(stated) ^ set(found)):
                wrong += 1
                where = "only in the document" if row in stated else "only in a new run"
                print(f"{path.relative_to(ROOT)}: {command}: {where}: {row}")
    print(f"{compared} counters compared, {wrong} differ")
    return 1 if wrong or not compared else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    regenerate()
