"""What a failed assertion of the model says to a reader: its values by the names that they have."""

from __future__ import annotations

from collections.abc import Callable

from mmu.host.frames import NOBODY
from mmu.machine.conditions import CONDITIONS
from mmu.machine.events import STEP_NAMES
from mmu.machine.lock import LOCK_NAMES


def held_text(held: int) -> str:
    """Names of the locks in a HELD word."""
    return ", ".join(name for bit, name in LOCK_NAMES.items() if held & bit) or "nothing"


def _step_text(kind: int) -> str:
    return STEP_NAMES.get(kind, f"kind {kind}")


def _owner_text(page: int) -> str:
    return "nobody" if page == NOBODY else f"host page {page:#x}"


_FORMATS: dict[str, Callable[[int], str]] = {
    "held": held_text,
    "step": _step_text,
    "owner": _owner_text,
}


class _Value(int):
    """A value in a sentence, which knows the formats that only we have."""

    def __format__(self, form: str) -> str:
        known = _FORMATS.get(form)
        return super().__format__(form) if known is None else known(int(self))


# What is read from the memory of a broken run may be anything.
_UNKNOWN = ("?", "a condition that nobody knows failed: {a} {b} {c}")


def tell(condition: int, a: int, b: int, c: int) -> tuple[str, str]:
    """The oracle of a failed condition, and the sentence with the values that `warn` was given."""
    oracle, sentence = CONDITIONS.get(condition, _UNKNOWN)
    return oracle, sentence.format(a=_Value(a), b=_Value(b), c=_Value(c))
