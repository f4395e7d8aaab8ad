"""What a command says: to stdout, and once more into the stored table."""

from __future__ import annotations


class Speaker:
    """Prints to stdout, and remembers it for the stored table; silent when stdout is JSON."""

    def __init__(self, silent: bool) -> None:
        self._silent = silent
        self.text = ""

    def __call__(self, text: str) -> None:
        """Say one text."""
        self.text += text + "\n"
        if not self._silent:
            print(text, flush=True)
