"""Tell a story in columns, one an actor, as a kernel engineer would draw a race."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator

from harness.explore.shrink.order import order_of
from harness.explore.story import Story, Told
from harness.explore.world import World

WIDTH_DEFAULT = 120
COLUMN_MIN = 24
NUMBER_WIDTH = 4
# Regions whose words matter to a story even if one actor alone touches them.
TOLD = ("tables", "frames", "bitmap", "harvest", "marks")


def explain(
    world: World, story: Story, *, everything: bool = False, brief: bool = False, width: int = 0
) -> str:
    """The story as text; without `everything`, steps that concern one actor alone are folded.

    `brief`: only steps that must come before or after another actor's, or that change an entry, one
    line each.
    """
    # Who does nothing here needs no column.
    seen = sorted({told.actor for told in story.told} | {story.actor} - {-1})
    columns = {actor: place for place, actor in enumerate(seen)}
    names = [world.scenario.actors[actor].name for actor in seen]
    column = max(((width or WIDTH_DEFAULT) - NUMBER_WIDTH) // max(len(names), 1) - 2, COLUMN_MIN)
    lines = [_row(["", *names], column), _row(["", *["-" * len(name) for name in names]], column)]
    boring = _unrelated(world, story) if brief else set()
    if not brief and not everything:
        private = _private_words(world, story)
        boring = {told.number for told in story.told if told.word in private}
    held: dict[int, str] = defaultdict(str)
    for run in _runs(story.told, boring):
        first = run[0]
        if brief:
            text = [_in_brief(world, run, boring, held)]
            number = None if first.number in boring else first.number
            lines += _cells(number, columns[first.actor], text, names, column)
            continue
        if first.number in boring:
            text = [f"... {_count(len(run), 'private ')}"]
            lines += _cells(None, columns[first.actor], text, names, column)
            held[first.actor] = run[-1].held
            continue
        text = [f"{first.function} ({first.place})", f"  {_what(world, first)}"]
        if first.held != held[first.actor]:
            text.append(f"  holds {first.held or 'nothing'}")
            held[first.actor] = first.held
        lines += _cells(first.number, columns[first.actor], text, names, column)
    if story.oracle:
        who = story.actor if story.actor >= 0 else (story.told[-1].actor if story.told else 0)
        text = [f"OOPS {story.oracle}: {story.message}"]
        lines += _cells(None, columns.get(who, 0), text, names, column)
    else:
        lines.append("nothing was broken")
    return "\n".join(line.rstrip() for line in lines)


def _count(steps: int, what: str = "") -> str:
    return f"{steps} {what}step{'s' * (steps != 1)}"


def _in_brief(world: World, run: list[Told], boring: set[int], held: dict[int, str]) -> str:
    """One line: a step, or how many were folded; and what is held now, if that is news."""
    first, last = run[0], run[-1]
    news = ""
    if last.held != held[first.actor]:
        news = f"holds {last.held or 'nothing'}"
        held[first.actor] = last.held
    if first.number in boring:
        return f"... {_count(len(run))}" + (f", then {news}" if news else "")
    return f"{first.function}: {_what(world, first)}" + (f"; {news}" if news else "")


def _unrelated(world: World, story: Story) -> set[int]:
    """Numbers of steps whose place among other actors' does not matter and that change no entry."""
    order = order_of(story.trace)
    related = {len(story.told)}
    for row, before in enumerate(order.before):
        others = [each for each in before if story.trace[each].actor != story.trace[row].actor]
        if others:
            related |= {row + 1, *(each + 1 for each in others)}
    told = _told_words(world)
    related |= {t.number for t in story.told if t.word in told and t.before != t.after}
    return {each.number for each in story.told if each.number not in related}


def _told_words(world: World) -> set[int]:
    """Words of the regions that every story tells of."""
    if world.vm is None:
        return set()
    return {
        word
        for region in world.vm.layout.regions.values()
        if region.name.split()[0] in TOLD
        for word in range(region.start, region.end)
    }


def _private_words(world: World, story: Story) -> set[int]:
    """Words that only one actor touches here and that no reader would miss."""
    users: dict[int, set[int]] = defaultdict(set)
    for told in story.told:
        users[told.word].add(told.actor)
    private = {word for word, actors in users.items() if len(actors) == 1}
    if world.vm is not None:
        private -= _told_words(world)
        # Statistics that everybody counts, locks that nobody fights for: told where they matter.
        private |= {told.word for told in story.told if told.do == "count"}
    else:
        private -= {told.word for told in story.told if told.do not in ("read", "write")}
        private = {word for word in private if len(story.told) > COLUMN_MIN}
    return private


def _runs(told: list[Told], boring: set[int]) -> Iterator[list[Told]]:
    """Single steps, and runs of folded ones of one actor."""
    run: list[Told] = []
    for step in told:
        folded = step.number in boring
        if run and folded and run[0].number in boring and run[0].actor == step.actor:
            run.append(step)
            continue
        if run:
            yield run
        run = [step]
    if run:
        yield run


def _what(world: World, told: Told) -> str:
    """`cmpxchg table 3 entry 0: empty -> frozen`."""
    name = world.name_of(told.word)
    mine = f"{world.scenario.actors[told.actor].name}: "
    name = name.removeprefix(mine)
    if told.do in ("read", "load_acquire", "peek", "wait"):
        return f"{told.do} {name}: {told.before}"
    if told.do == "cmpxchg" and told.before == told.after:
        return f"cmpxchg {name} fails: {told.before}"
    if told.do in ("acquire", "release"):
        return f"{told.do} {name}: {told.after}"
    return f"{told.do} {name}: {told.before} -> {told.after}"


def _cells(
    number: int | None, actor: int, texts: list[str], names: list[str], column: int
) -> list[str]:
    """Rows in which only the actor's column is filled."""
    rows = []
    wrapped = [
        line
        for text in texts
        for line in textwrap.wrap(text, column, subsequent_indent="    ") or [""]
    ]
    for i, line in enumerate(wrapped):
        cells = ["" if number is None or i else str(number), *[""] * len(names)]
        cells[1 + actor] = line
        rows.append(_row(cells, column))
    return rows


def _row(cells: list[str], column: int) -> str:
    return f"{cells[0]:>{NUMBER_WIDTH}}" + "".join(f"  {cell:<{column}}" for cell in cells[1:])
