"""Commands in fresh interpreters: what each said comes back, and nobody outlives the run."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.bugs import interpreters
from harness.bugs.interpreters import Ended, Interpreters


def chain(*commands):
    """How each ended."""
    ended = []
    for words in commands:
        ended += [(yield words)]
    return ended


def run(tmp_path: Path, jobs: int = 2, **chains) -> dict:
    started = Interpreters(chains, jobs, tmp_path)
    assert started.run()
    return started.results


def test_what_they_said(tmp_path):
    found = run(tmp_path, a=chain(("--version",), ("nonsense",)), b=chain(), c=chain(("--help",)))
    version, nonsense = found["a"]
    assert (version.status, version.errors) == (0, "")
    assert version.out.startswith("tdprace ")
    assert (nonsense.status, nonsense.out) == (2, "")
    assert "invalid choice: 'nonsense'" in nonsense.complaint
    assert found["b"] == []
    assert "exit status" in found["c"][0].out
    assert list(tmp_path.iterdir()) == []


def test_complaints():
    assert Ended(4, "", "progress\ntdprace: it broke\n").complaint == "it broke"
    assert Ended(-9, "out", "").complaint == "exit status -9"


def test_no_more_than_allowed_at_once(tmp_path):
    most = []
    chains = {str(number): chain(("--version",)) for number in range(5)}
    started = Interpreters(chains, 2, tmp_path)
    assert started.run(lambda names, results: bool(most.append(len(names))) or True)
    assert max(most) == 2
    assert sorted(started.results) == list("01234")


def test_who_is_stopped_leaves_nobody(tmp_path):
    ends = []

    def watched():
        try:
            yield ("doctor",)
        finally:
            ends.append("closed")

    started = Interpreters({"a": watched(), "b": watched(), "c": watched()}, 2, tmp_path)
    seen = []

    def look(names, results):
        seen.extend(psutil.Process().children(recursive=True))
        return False

    assert not started.run(look)
    assert len(seen) >= 2
    assert [each for each in seen if each.is_running()] == []
    assert ends == ["closed", "closed"]
    assert started.results == {}


def test_an_error_in_a_chain_leaves_nobody(tmp_path):
    def broken():
        yield ("--version",)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Interpreters({"a": broken(), "b": chain(("doctor",))}, 2, tmp_path).run()
    assert psutil.Process().children() == []


def test_who_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(interpreters, "COMMAND_S_MAX", 0.0)
    (ended,) = run(tmp_path, a=chain(("doctor",)))["a"]
    assert ended.status == -9
    assert ended.complaint == "it did not end within 0 s"


PARENT = """
import sys
from pathlib import Path
from harness.bugs.interpreters import Interpreters
def chain():
    # Opening it waits for a writer, for ever.
    yield ("replay", sys.argv[1])
def look(names, results):
    print("started", flush=True)
    return True
Interpreters({"a": chain()}, 1, Path(sys.argv[2])).run(look)
"""


def test_who_is_killed_leaves_nobody(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(pipe), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"started\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.kill()
    parent.communicate()
    assert psutil.wait_procs(children, timeout=20)[1] == []
