"""The live line: redrawn in a terminal, a plain line elsewhere, nothing if quiet."""

import contextlib
import pty
import time

import pytest

from harness.cli.live import LiveLine

TEXT = "3 of 4; now [b17]"


@pytest.mark.parametrize(
    ("quiet", "plain_s", "said"), [(False, 0.0, TEXT + "\n"), (False, 60.0, ""), (True, 0.0, "")]
)
def test_elsewhere_a_line_when_it_is_time(capsys, quiet, plain_s, said):
    line = LiveLine(quiet, plain_s=plain_s)
    line.show(lambda: TEXT)
    line.say("b17")
    line.close()
    assert capsys.readouterr() == ("", "" if quiet else f"{said}b17\n")


def all_of(terminal: int) -> str:
    """What was written to a terminal that nobody holds any more."""
    chunks = []
    with open(terminal, "rb", buffering=0) as stream, contextlib.suppress(OSError):
        while chunk := stream.read(10_000):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def test_in_a_terminal_it_is_drawn_and_taken_away(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with open(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        line = LiveLine(False, plain_s=60.0, redraw_s=0.01)
        line.show(lambda: TEXT)
        time.sleep(0.02)
        line.show(lambda: "4 of 4")
        line.say("b17 [found]")
        line.close()
        line.close()
    drawn = all_of(ours)
    # Brackets are no markup, and the last thing is the erased line with the cursor shown again.
    assert TEXT in drawn
    assert "4 of 4" in drawn
    assert "\x1b[2Kb17 [found]\r\n" in drawn
    assert drawn.rindex("\x1b[2K") > drawn.rindex("4 of 4")
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1
