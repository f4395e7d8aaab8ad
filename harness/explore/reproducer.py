"""Reproducers: a schedule by meaning, in a file.

A step is who does what on which word, by names, for the n-th time; so it is found again after
the layout changed, a function was renamed or a step was added elsewhere.  What each step saw and
stored is kept too, and compared when it is repeated.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.explore.trace import Finding, Step
from harness.explore.world import World
from mmu.machine import events
from workloads.errors import UsageError

VERSION = 1
FILE = "reproducer.json"
KEY = "tdprace_reproducer"

OPERATIONS = {**events.STEP_NAMES, events.DRAW: "draw", events.PROBE: "probe"}
KINDS = {name: kind for kind, name in OPERATIONS.items()}


@dataclass(frozen=True)
class Recorded:
    """One step; for a draw or a probe `word` is empty, `saw` how many answers, `stored` which."""

    actor: str
    do: str
    word: str
    occurrence: int
    saw: int
    stored: int


@dataclass(frozen=True)
class Violation:
    """What the schedule breaks."""

    oracle: str
    message: str
    actor: str


@dataclass(frozen=True)
class Patch:
    """The diff that the model was patched with; without its text it lies beside the reproducer."""

    file: str
    diff: str


@dataclass(frozen=True)
class Reproducer:
    """All that is needed to see a violation again."""

    scenario: str
    model: str
    patch: Patch | None
    strategy: str
    seed: int
    violation: Violation
    steps: tuple[Recorded, ...]
    program: dict[str, Any] | None = None  # the scenario itself, if it has no name
    reduction: dict[str, Any] | None = None  # what of a scenario with a name is left out

    @classmethod
    def of(
        cls,
        world: World,
        found: Finding,
        *,
        reference: str,
        model: str,
        patch: Patch | None,
        strategy: str,
        seed: int,
        program: dict[str, Any] | None = None,
        reduction: dict[str, Any] | None = None,
    ) -> Reproducer:
        """Record a finding."""
        names = [actor.name for actor in world.scenario.actors]
        who = names[found.actor] if found.actor >= 0 else ""
        violation = Violation(found.oracle, found.message, who)
        steps = tuple(recorded(world, found.steps))
        return cls(reference, model, patch, strategy, seed, violation, steps, program, reduction)

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        document = {KEY: VERSION, **asdict(self)}
        document["steps"] = list(document["steps"])
        for key in ("program", "reduction"):
            if document[key] is None:
                del document[key]
        if self.patch is not None and not self.patch.diff:
            del document["patch"]["diff"]
        return document

    def dump(self) -> str:
        """The file's text, one step a line."""
        document = self.document()
        steps = document.pop("steps")
        head = json.dumps(document, indent=1)[:-2]
        lines = ",\n".join("  " + json.dumps(step) for step in steps)
        return (
            f'{head},\n "steps": [\n{lines}\n ]\n}}\n' if steps else f'{head},\n "steps": []\n}}\n'
        )

    @property
    def oracles(self) -> tuple[str, ...]:
        """Whose words alone count: a shrunk schedule may break other rules on its way."""
        return (self.violation.oracle,)

    def script(self, world: World) -> list[Step]:
        """The steps with the numbers that actors and words have now; UsageError if one is gone."""
        actors = {actor.name: number for number, actor in enumerate(world.scenario.actors)}
        words = world.words_by_name()
        steps = []
        for number, step in enumerate(self.steps, start=1):
            if step.actor not in actors:
                raise UsageError(f"step {number}: the scenario has no actor {step.actor!r} now")
            if step.word and step.word not in words:
                raise UsageError(f"step {number}: the scenario has no word {step.word!r} now")
            word = words[step.word] if step.word else -1
            kind = KINDS[step.do]
            steps.append(Step(actors[step.actor], kind, word, step.saw, step.stored))
        return steps


def recorded(world: World, steps: tuple[Step, ...]) -> list[Recorded]:
    """Steps by meaning."""
    times: Counter[tuple[int, int, int]] = Counter()
    result = []
    for step in steps:
        key = (step.actor, step.kind, step.word)
        times[key] += 1
        name = world.scenario.actors[step.actor].name
        word = world.name_of(step.word) if step.word >= 0 else ""
        do = OPERATIONS[step.kind]
        result.append(Recorded(name, do, word, times[key], step.old, step.new))
    return result


def read(path: Path) -> Reproducer:
    """Read a reproducer; UsageError, one line, if it is none that this version understands."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no text") from error
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}: line {error.lineno}: {error.msg}; is the file complete?"
        ) from error
    return from_document(document, path)


def from_document(document: Any, path: Path) -> Reproducer:
    """The reproducer that a document is; `path` is what errors call it."""
    if not isinstance(document, dict) or KEY not in document:
        raise UsageError(f"{path}: no reproducer of tdprace")
    if type(document[KEY]) is not int or document[KEY] != VERSION:
        raise UsageError(
            f"{path}: reproducer version {document[KEY]!r}; this tdprace reads version {VERSION}"
        )
    return _checked(path, document)


def _checked(path: Path, document: dict[str, Any]) -> Reproducer:
    where = str(path)
    patch = document.get("patch")
    steps = _field(where, document, "steps", list)
    violation = _field(where, document, "violation", dict)
    return Reproducer(
        _field(where, document, "scenario", str),
        _field(where, document, "model", str),
        None if patch is None else _patch(path, patch),
        _field(where, document, "strategy", str),
        _field(where, document, "seed", int),
        Violation(
            *(
                _field(f"{where}: violation", violation, key, str)
                for key in ("oracle", "message", "actor")
            )
        ),
        tuple(_step(f"{where}: step {number}", step) for number, step in enumerate(steps, 1)),
        *(
            _field(where, document, key, dict) if key in document else None
            for key in ("program", "reduction")
        ),
    )


def _patch(path: Path, patch: Any) -> Patch:
    """The diff, from the file itself or from the one beside it."""
    where = f"{path}: patch"
    file = _field(where, patch, "file", str)
    if "diff" in patch:
        return Patch(file, _field(where, patch, "diff", str))
    if file != Path(file).name:
        raise UsageError(f"{where}: {file!r} is not the name of a file beside it")
    try:
        return Patch(file, (path.parent / file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: cannot read {file}, which belongs beside it") from error


def _step(where: str, step: Any) -> Recorded:
    texts = [_field(where, step, key, str) for key in ("actor", "do", "word")]
    if texts[1] not in KINDS:
        raise UsageError(f"{where}: there is no operation {texts[1]!r}")
    numbers = [_field(where, step, key, int) for key in ("occurrence", "saw", "stored")]
    if not all(-(1 << 63) <= number < 1 << 63 for number in numbers):
        raise UsageError(f"{where}: a number is larger than a word")
    is_question = KINDS[texts[1]] in (events.DRAW, events.PROBE)
    if is_question != (texts[2] == ""):
        raise UsageError(f"{where}: only draws and probes have no word")
    if is_question and not 0 <= numbers[2] < numbers[1]:
        raise UsageError(f"{where}: answer {numbers[2]} of {numbers[1]}")
    return Recorded(texts[0], texts[1], texts[2], *numbers)


def _field(where: str, document: Any, key: str, kind: type) -> Any:
    if not isinstance(document, dict) or key not in document:
        raise UsageError(f"{where}: {key!r} is missing")
    value = document[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{where}: {key!r} is {value!r}, not of type {kind.__name__}")
    return value
