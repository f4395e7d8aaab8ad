"""What `bugs check` makes of how commands ended, and what the tables say of it."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bugs.catalogue import bugs_in
from harness.bugs.check import (
    REPLAYS,
    Clean,
    Examined,
    bug_table,
    clean_table,
    examine,
    look_at_clean,
    problems,
)
from harness.bugs.interpreters import Ended
from harness.bugs.kept import keep, kept, told
from harness.explore.reproducer import KEY, read
from tests.bugs.catalogues import entry
from workloads.errors import RunFailed, UsageError

REPLAYED = Ended(1, "reproduced, 100 times: roots: broke\n", "")
INTERPRETED = Ended(1, "  vcpu 0\nreproduced: roots: broke\n", "")
CRASHED = Ended(1, "", "Traceback (most recent call last):\nKeyError: 'x'\n")
STEP = {"actor": "a", "do": "read", "word": "x", "occurrence": 1, "saw": 0, "stored": 0}


@pytest.fixture
def bug(tmp_path):
    entry(tmp_path / "catalogue", "b01-first", "the diff\n", scenario="put-get", oracle="roots")
    return bugs_in(tmp_path / "catalogue")["b01"]


def document(*oracles: str, exhausted: bool = False) -> str:
    violations = [{"oracle": each, "message": f"{each} broke", "actors": []} for each in oracles]
    return json.dumps(
        {
            "violations": violations,
            "strategy": "auto",
            "executions": 1234,
            "seconds": 1.5,
            "exhausted": exhausted,
        }
    )


def store(words, *oracles: str, steps: int = 3, model: str = "m") -> None:
    """The reproducers that explore would have stored."""
    folder = Path(words[words.index("--results") + 1]) / "run"
    folder.mkdir(parents=True)
    for number, oracle in enumerate(oracles):
        violation = {"oracle": oracle, "message": "", "actor": ""}
        content = {
            KEY: 1,
            "scenario": "put-get",
            "model": model,
            "strategy": "auto",
            "seed": 1,
            "patch": {"file": "x.diff", "diff": "the diff\n"},
            "violation": violation,
            "steps": [STEP] * (steps + number),
        }
        name = f"{number + 1}-reproducer.json" if number else "reproducer.json"
        (folder / name).write_text(json.dumps(content))


def drive(chain, *endings) -> tuple[list, object]:
    """The commands, and what came of their endings; an ending may be made of the command."""
    asked = [next(chain)]
    for ending in endings:
        ended = ending(asked[-1]) if callable(ending) else ending
        try:
            asked.append(chain.send(ended))
        except StopIteration as end:
            return asked, end.value
    raise AssertionError(f"one more command: {asked[-1]}")


def found_by(*oracles: str, stored: tuple[str, ...] | None = None, **more):
    def ending(words) -> Ended:
        store(words, *(oracles if stored is None else stored), **more)
        return Ended(1, document(*oracles), "")

    return ending


# --- A bug ---------------------------------------------------------------------------------------


def test_a_bug_that_is_found_replayed_and_told(bug, tmp_path):
    asked, examined = drive(examine(bug, 7.5, tmp_path), found_by("roots"), REPLAYED, INTERPRETED)
    assert examined == Examined(
        id="b01",
        name="b01-first",
        scenario="put-get",
        wanted="roots",
        found=True,
        strategy="auto",
        executions=1234,
        seconds=1.5,
        oracle="roots",
        shrunk_steps=3,
        replayed=REPLAYS,
        interpreted=True,
        reproducer=examined.reproducer,
    )
    explored, replayed, interpreted = map(shlex.join, asked)
    assert explored.startswith(f"explore put-get --seconds 7.5 -j 1 --seed 1 --patch {bug.diff} ")
    assert replayed.startswith(f"replay {tmp_path}/b01-first/run/reproducer.json --times 100")
    assert interpreted.startswith(f"replay {tmp_path}/b01-first/run/reproducer.json --explain")
    row = examined.row()
    assert json.loads(json.dumps(row)) == row
    assert "reproducer" not in row
    assert problems([examined], []) == []
    assert str(examined) == "b01-first: found by roots, 1,234 executions, 1.5 s, 3 steps"
    assert bug_table([examined]).splitlines()[-1].split("|")[-2].strip() == "found"


def test_of_several_reproducers_the_oracles_own(bug, tmp_path):
    endings = found_by("dirty", "roots"), REPLAYED, INTERPRETED
    asked, examined = drive(examine(bug, 10, tmp_path), *endings)
    assert (examined.found, examined.oracle, examined.problem) == (True, "roots", "")
    assert examined.shrunk_steps == 4
    assert "2-reproducer.json" in asked[1][1]


@pytest.mark.parametrize(
    ("endings", "said", "verdict"),
    [
        ((Ended(0, document(), ""),), "nothing was found in 1,234 executions", "NOT FOUND"),
        ((Ended(0, document(exhausted=True), ""),), "in 1.5 s, all there are", "NOT FOUND"),
        ((found_by("dirty"),), "found by dirty: dirty broke", "NOT FOUND"),
        ((Ended(2, "", "x\ntdprace: no such\n"),), "no such", "NOT FOUND"),
        ((Ended(-9, "", ""),), "exit status -9", "NOT FOUND"),
        ((found_by("roots", stored=()),), "no reproducer of roots was stored", "NOT REPRODUCED"),
        (
            (found_by("roots"), Ended(4, "", "tdprace: diverged\n")),
            "replayed: diverged",
            "NOT REPRODUCED",
        ),
        ((found_by("roots", steps=0),), "no step at all", "NOT REPRODUCED"),
        ((CRASHED,), "KeyError: 'x'", "NOT FOUND"),
        ((found_by("roots"), CRASHED), "replayed: KeyError: 'x'", "NOT REPRODUCED"),
        ((found_by("roots"), INTERPRETED), "replayed: exit status 1", "NOT REPRODUCED"),
        ((found_by("roots"), REPLAYED, CRASHED), "interpreted: KeyError: 'x'", "NOT REPRODUCED"),
        ((found_by("roots"), Ended(0, "", "")), "replayed: exit status 0", "NOT REPRODUCED"),
        (
            (found_by("roots"), REPLAYED, Ended(4, "", "tdprace: diverged\n")),
            "interpreted: diverged",
            "NOT REPRODUCED",
        ),
    ],
)
def test_whatever_else_is_a_problem(bug, tmp_path, endings, said, verdict):
    _, examined = drive(examine(bug, 10, tmp_path), *endings)
    assert said in examined.problem
    assert examined.found == (verdict == "NOT REPRODUCED")
    assert not examined.interpreted
    (text,) = problems([examined], [])
    assert text.startswith(f"b01-first (by roots): {verdict}: ")
    assert bug_table([examined]).splitlines()[-1].split("|")[-2].strip() == verdict


# --- The clean model -----------------------------------------------------------------------------


def test_the_clean_model(tmp_path):
    chain = look_at_clean("put-get", 10, tmp_path)
    (words,), clean = drive(chain, Ended(0, document(exhausted=True), ""))
    assert "--patch" not in words
    assert words[words.index("--seconds") + 1] == "5"
    assert clean == Clean("put-get", 1234, True, 1.5)
    assert clean.row()["exhausted"] is True
    assert problems([], [clean]) == []
    assert str(clean) == "clean model, put-get: exhausted"
    assert "exhausted | clean" in clean_table([clean])
    assert "1.5 s" in clean_table([replace(clean, exhausted=False)])


def test_the_clean_model_accused(tmp_path):
    _, clean = drive(look_at_clean("put-get", 10, tmp_path), found_by("dirty"))
    again = "tdprace explore put-get --seconds 5 -j 1 --seed 1"
    assert [(each["oracle"], each["reproducer"]) for each in clean.violations] == [("dirty", again)]
    assert problems([], [clean]) == ["clean model, put-get: dirty: dirty broke"]
    assert "ACCUSED" in clean_table([clean])


def test_the_clean_model_not_explored(tmp_path):
    _, clean = drive(look_at_clean("put-get", 10, tmp_path), Ended(4, "", "tdprace: died\n"))
    assert problems([], [clean]) == ["clean model, put-get: died"]
    assert "NOT EXPLORED" in clean_table([clean])


# --- What is kept --------------------------------------------------------------------------------


def reproducer(tmp_path, name: str, **more):
    store(("--results", tmp_path / name), "roots", **more)
    return read(tmp_path / name / "run" / "reproducer.json")


def test_the_shortest_of_a_model_is_kept(bug, tmp_path):
    assert kept(bug) is None
    assert keep(bug, reproducer(tmp_path, "first", steps=5))
    assert not keep(bug, reproducer(tmp_path, "same", steps=5))
    assert not keep(bug, reproducer(tmp_path, "longer", steps=6))
    assert keep(bug, reproducer(tmp_path, "shorter", steps=4))
    assert len(kept(bug).steps) == 4
    assert keep(bug, reproducer(tmp_path, "newer", steps=9, model="m2"))
    assert len(kept(bug).steps) == 9
    bug.reproducer.write_text("half a fi")
    assert keep(bug, reproducer(tmp_path, "whole", steps=9))
    assert sorted(path.name for path in bug.folder.iterdir()) == [
        *("patch.diff", "reproducer.json", "story.md"),
    ]


def test_what_is_kept_names_the_diff_beside_it(bug, tmp_path):
    keep(bug, reproducer(tmp_path, "first"))
    text = bug.reproducer.read_text()
    assert json.loads(text)["patch"] == {"file": "patch.diff"}
    assert str(tmp_path) not in text
    assert kept(bug).patch.diff == "the diff\n"
    bug.diff.write_text("another\n")
    assert kept(bug).patch.diff == "another\n"


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"file": "patch.diff"}, "patch: cannot read patch.diff, which belongs beside it"),
        ({"file": "../b02-second/patch.diff"}, "is not the name of a file beside it"),
        ({"file": "patch.diff", "diff": 3}, "'diff' is 3, not of type str"),
        ({"diff": "the diff"}, "'file' is missing"),
        ("patch.diff", "'file' is missing"),
    ],
)
def test_a_diff_that_is_not_beside_it_is_named(bug, tmp_path, patch, said):
    keep(bug, reproducer(tmp_path, "first"))
    content = json.loads(bug.reproducer.read_text()) | {"patch": patch}
    bug.reproducer.write_text(json.dumps(content))
    bug.diff.unlink()
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        kept(bug)
    assert str(error.value).startswith(f"{bug.reproducer}: patch: ")


def test_telling_what_is_kept(bug):
    asked, text = drive(told(bug), Ended(1, "\n   one  other\nreproduced: x\n", ""))
    assert asked == [("replay", str(bug.reproducer), "--explain", "--quiet")]
    assert text == "   one  other\nreproduced: x"
    with pytest.raises(RunFailed, match=r"b01: what is kept does not show .*: diverged; make it"):
        drive(told(bug), Ended(4, "", "tdprace: diverged\n"))
    with pytest.raises(RunFailed, match="KeyError"):
        drive(told(bug), CRASHED)
