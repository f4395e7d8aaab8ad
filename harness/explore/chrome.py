"""A story for trace viewers (chrome://tracing, Perfetto): one track an actor, one slice a step."""

from __future__ import annotations

import json

from harness.explore.story import Story
from harness.explore.world import World


def chrome_trace(world: World, story: Story) -> str:
    """Trace Event JSON; time is the step's number, in microseconds."""
    events: list[dict[str, object]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": actor.name}}
        for number, actor in enumerate(world.scenario.actors)
    ]
    for told in story.told:
        word = world.name_of(told.word)
        events.append(
            {
                "ph": "X",
                "name": f"{told.do} {word}",
                "cat": told.function,
                "pid": 1,
                "tid": told.actor,
                "ts": told.number,
                "dur": 1,
                "args": {
                    "function": told.function,
                    "place": told.place,
                    "before": told.before,
                    "after": told.after,
                    "held": told.held,
                },
            }
        )
    if story.oracle:
        events.append(
            {
                "ph": "i",
                "s": "g",
                "name": f"OOPS {story.oracle}",
                "pid": 1,
                "tid": max(story.actor, 0),
                "ts": len(story.told) + 1,
                "args": {"message": story.message},
            }
        )
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, indent=1) + "\n"
