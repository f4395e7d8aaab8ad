"""`tdprace explore` as a user meets it: results, wrong input, endings."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from harness.explore import parallel
from tests.command import Running, tdprace

HEAD = """
from harness.watch.words import store_word
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import fetch_add, own, set_own, write_once
from workloads.scenario import Actor, Scenario

@kernel
def add(cpu: Cpu) -> None:
    for _ in range(12):
        fetch_add(cpu, 0, 1)

@kernel
def silent(cpu: Cpu) -> None:
    while own(cpu, 60) == 0:
        set_own(cpu, 61, own(cpu, 61) + 1)

@kernel
def endless(cpu: Cpu) -> None:
    while True:
        write_once(cpu, 0, 1)

@kernel
def crash(cpu: Cpu) -> None:
    write_once(cpu, 0, 1)
    store_word(8, 0, 1)

@kernel
def either(cpu: Cpu) -> None:
    if own(cpu, 60) == 0:
        add(cpu)
    else:
        silent(cpu)

def of(count, body):
    actors = tuple(Actor(f"a{i}", body) for i in range(count))
    return Scenario("small", "a test", actors, words=("x",))

NONE, MANY, BIG = of(0, add), of(17, add), of(3, add)
SILENT, ENDLESS, CRASH = of(1, silent), of(2, endless), of(1, crash)
EITHER = of(1, either)
NUMBER = 3
"""

SHORT_S = 4.0  # who is silent for so long


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(HEAD)
    return path


@pytest.fixture
def compiled(tmp_path, file) -> Path:
    """A file of which `add` and `silent` are kept: a command's children are workers at once."""
    assert explore(tmp_path / "before", f"{file}::EITHER", "--executions", "1").returncode == 0
    return file


def start(tmp_path: Path, *words: object) -> Running:
    return Running("explore", *words, "--quiet", "--results", tmp_path / "results")


def explore(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return tdprace("explore", *words, "--quiet", "--results", tmp_path / "results")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("FILE::NONE",), 2, "has 0 actors"),
        (("FILE::MANY",), 2, "has 17 actors"),
        (("FILE::NOTHING",), 2, "is not there"),
        (("FILE::NUMBER",), 2, "is no Scenario"),
        (("FILE",), 2, "which scenario"),
        (("FILE::ENDLESS", "--executions", "20", "--steps", "50"), 4, "none of"),
        (("FILE::SILENT",), 4, "without a step"),
        (("FILE::SILENT", "--check-determinism"), 4, "without a step"),
        (("FILE::CRASH",), 4, "died (signal SIGSEGV)"),
        (("FILE::CRASH", "--check-determinism"), 4, "died (signal SIGSEGV)"),
        (("/no/such.py::X",), 2, "no such file"),
        (("map-map-some",), 2, "do you mean map-map-same"),
        (("FILE::BIG", "--strategy", "pos", "--preemptions", "2"), 2, "does not use --preemptions"),
        (("FILE::BIG", "--strategy", "dpor", "--seed", "2"), 2, "does not use --seed"),
        (("FILE::BIG", "--strategy", "dpor", "-j", "2"), 2, "does not use -j"),
        (("FILE::BIG", "--depth", "3"), 2, "does not use --depth"),
        (("FILE::BIG", "--strategy", "wild"), 2, "invalid choice"),
        (("FILE::BIG", "--executions", "0"), 2, "less than 1"),
        (("FILE::BIG", "--steps", "1000000"), 2, "more than 50000"),
    ],
)
def test_one_line_and_its_status(tmp_path, file, monkeypatch, words, status, said):
    monkeypatch.setattr(parallel, "SILENT_S", SHORT_S)
    words = tuple(str(word).replace("FILE", str(file)) for word in words)
    done = explore(tmp_path, *words)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = (", "line 1"), ("import nothing_like_it", "nothing_like_it"), ("\n1 / 0", "line 2")],
)
def test_errors_of_the_file_are_one_line(tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_text(text)
    done = explore(tmp_path, f"{path}::X")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fetch_add(cpu, 0, 'one')", "): numba cannot compile wrong: No implementation"),
        ("fetch_add(cpu, 0, 'one')", ">>> fetch_add(Cpu, Literal[int](0), Literal[str](one))"),
        ("nothing_like_it(cpu)", "NameError: name 'nothing_like_it' is not defined"),
        ("class Local: pass", "mine.py: numba cannot compile wrong: Use of unsupported opcode"),
    ],
)
def test_a_kernel_that_numba_refuses_is_one_line(tmp_path, line, said):
    path = tmp_path / "mine.py"
    path.write_text(
        f"{HEAD}\n@kernel\ndef wrong(cpu: Cpu) -> None:\n    {line}\nWRONG = of(1, wrong)"
    )
    done = explore(tmp_path, f"{path}::WRONG", "--executions", "20")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    # Who does not need it is not kept from working.
    assert explore(tmp_path, f"{path}::BIG", "--executions", "20").returncode == 0


def test_json_says_what_happened(tmp_path):
    reference = "workloads/litmus/store_buffering.py::STORE_BUFFERING"
    done = explore(tmp_path, reference, "--strategy", "dpor", "--json", "-")
    document = json.loads(done.stdout)
    assert (done.returncode, document["outcome"]) == (0, "clean")
    assert (document["executions"], document["exhausted"], document["blocked"]) == (3, True, 0)
    assert {tuple(each["values"]): each["count"] for each in document["outcomes"]} == {
        (0, 1): 1,
        (1, 0): 1,
        (1, 1): 1,
    }
    stored = next((tmp_path / "results").glob("*/run.json"))
    assert json.loads(stored.read_text())["scenario"] == "store-buffering"


def test_a_violation_is_stored_and_replayed(tmp_path):
    done = explore(tmp_path, "workloads/litmus/lock_free_stack.py::ABA", "--check-determinism")
    assert done.returncode == 1
    assert "VIOLATION check" in done.stdout
    reproducer = next((tmp_path / "results").glob("*/reproducer.json"))
    trace = tmp_path / "trace.json"
    told = tdprace("replay", reproducer, "--explain", "--chrome-trace", trace)
    assert told.returncode == 1, told.stderr
    assert "OOPS check" in told.stdout
    assert json.loads(trace.read_text())["traceEvents"]
    corrupted = json.loads(reproducer.read_text())
    corrupted["steps"][-1]["stored"] += 1
    reproducer.write_text(json.dumps(corrupted))
    for more in ([], ["--explain"]):
        again = tdprace("replay", reproducer, *more)
        assert again.returncode == 4
        assert "diverged at step" in again.stderr


def test_ctrl_c_keeps_what_was_found(tmp_path, compiled):
    process = start(tmp_path, f"{compiled}::BIG", "--seconds", "60")
    wait_for_workers(process.pid)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "not exhausted: interrupted" in out
    document = json.loads(next((tmp_path / "results").glob("*/run.json")).read_text())
    assert document["outcome"] == "interrupted"
    assert document["executions"] > 0


def test_ctrl_c_ends_a_silent_check_of_determinism(tmp_path, compiled):
    process = start(tmp_path, f"{compiled}::SILENT", "--check-determinism")
    wait_for_workers(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "tdprace: interrupted\n")


def test_time_stopped_is_not_silence(tmp_path, compiled, monkeypatch):
    monkeypatch.setattr(parallel, "SILENT_S", SHORT_S)
    process = start(tmp_path, f"{compiled}::BIG", "--seconds", "8")
    wait_for_workers(process.pid)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(SHORT_S + 1.0)
    os.killpg(process.pid, signal.SIGCONT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "bound reached: 8 s" in out


def wait_for_workers(pid: int, seconds: float = 60.0) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        children = psutil.Process(pid).children()
        if children:
            return children
        time.sleep(0.05)
    pytest.fail("no worker was started")


@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_a_kill_leaves_nothing(tmp_path, compiled, victim):
    process = start(tmp_path, f"{compiled}::BIG", "--seconds", "60")
    workers = wait_for_workers(process.pid)
    time.sleep(0.5)
    os.kill(workers[0].pid if victim == "worker" else process.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    if victim == "worker":
        assert process.returncode == 4
        assert "the exploring process died (signal SIGKILL)" in errors
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)
