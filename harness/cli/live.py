"""One line that says how far a command is: redrawn in a terminal, said now and then elsewhere.

It goes to stderr and is drawn by the command's own loop: no thread, since processes are forked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text


class LiveLine:
    """`show` it as often as there is time to look; `close` it before anything else is printed."""

    def __init__(self, quiet: bool, *, plain_s: float, redraw_s: float = 0.0) -> None:
        """A plain line every `plain_s`, none for what takes less; a terminal's every `redraw_s`."""
        self._quiet = quiet
        self._plain_s = plain_s
        self._redraw_s = redraw_s
        self._said = time.monotonic()
        self._live: Live | None = None
        console = Console(stderr=True)
        if not quiet and console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start(refresh=False)
            self._said -= redraw_s

    def show(self, text: Callable[[], str]) -> None:
        """Draw what `text` gives, if it is time."""
        every = self._plain_s if self._live is None else self._redraw_s
        now = time.monotonic()
        if self._quiet or now - self._said < every:
            return
        self._said = now
        if self._live is not None:
            self._live.update(Text(text()), refresh=True)
        else:
            print(text(), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays, above the live one."""
        if self._live is not None:
            self._live.console.print(Text(text), soft_wrap=True)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None
