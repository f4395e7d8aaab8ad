"""Wrong input ends in one line that says what and where, with the exit status of its kind."""

import gzip
import os
import subprocess
import sys

import pytest

from tests.command import tdprace

DIRTY_LOG = ("stress", "dirty-log", "-b", "4M")
TRACE = ("stress", "access-trace", "--trace")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((*DIRTY_LOG, "-v", "0"), 2, "vCPUs is 1 to"),
        ((*DIRTY_LOG, "-v", "100000"), 2, "100000 is out of range"),
        ((*DIRTY_LOG, "-v", "two"), 2, "not a whole number"),
        (("stress", "dirty-log", "-b", "0"), 2, "zero"),
        (("stress", "dirty-log", "-b", "12Q"), 2, "'12Q' is not a size"),
        (("stress", "dirty-log", "-b", "3M", "-s", "2m"), 2, "no multiple of the backing page"),
        (("stress", "dirty-log", "-b", "64T", "-v", "2"), 2, "more guest memory than 64T"),
        (("stress", "dirty-log", "-b", "16T", "-v", "3"), 3, "are free"),
        ((*DIRTY_LOG, "-w", "101"), 2, "write percentage is 0 to 100"),
        ((*DIRTY_LOG, "-s", "64k"), 2, "'64k' is not a backing"),
        ((*DIRTY_LOG, "-x", "3"), 2, "-x 3 does not divide 1024 pages"),
        ((*DIRTY_LOG, "--huge-split", "lazy"), 2, "invalid choice: 'lazy'"),
        ((*DIRTY_LOG, "--compare", "speed"), 2, "invalid choice: 'speed'"),
        ((*DIRTY_LOG, "--no-such-flag"), 2, "--no-such-flag"),
        (("stress", "no-such-workload"), 2, "no-such-workload"),
        (("no-such-command",), 2, "no-such-command"),
        (("stress",), 2, "WORKLOAD"),
        ((*DIRTY_LOG, "--patch", "/no/such.diff"), 2, "/no/such.diff"),
        ((*TRACE, "/no/such.trace"), 2, "/no/such.trace"),
        (("scale", "dirty-log", "--vcpus", "4,,2"), 2, "not a list of counts"),
        (("results", "show", "nothing-like-it"), 2, "nothing-like-it"),
    ],
)
def test_one_line_and_its_status(tmp_path, words, status, said):
    if words[0] in ("stress", "scale", "results") and len(words) > 2:
        words = (*words, "--results", tmp_path / "results")
    done = tdprace(*words)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"I  04016b80,3\n S 1fff0005f8,8\nX  12,4\n", ":3: not a lackey record"),
        (b"", "no memory access in it"),
        (b"==1== Lackey\n==1== no records\n", "no memory access in it"),
        (b"\x7fELF\x00\x00\x01\x02" * 100, "binary"),
        (gzip.compress(b" L 04016b80,3\n" * 5000, mtime=0)[:-40], "gzip"),
    ],
)
def test_a_trace_that_is_none(tmp_path, content, said):
    trace = tmp_path / "trace"
    trace.write_bytes(content)
    done = tdprace(*TRACE, trace, "--memory", "4M", "--results", tmp_path / "results")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]


def test_a_line_that_breaks_late_is_named_too(tmp_path):
    trace = tmp_path / "late"
    trace.write_bytes(b" L 04016b80,8\n" * 100_000 + b"oops\n")
    done = tdprace(*TRACE, trace, "--memory", "4M", "--results", tmp_path / "r", "--quiet")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert ":100001: not a lackey record" in done.stderr


def test_a_trace_larger_than_the_guest_says_which_option(tmp_path):
    trace = tmp_path / "wide"
    trace.write_text("".join(f" L {page << 12:x},8\n" for page in range(2000)))
    done = tdprace(*TRACE, trace, "--memory", "4M", "--results", tmp_path / "r", "--quiet")
    assert done.returncode == 2
    assert "give --memory" in done.stderr


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_an_unwritable_results_folder(tmp_path, kind):
    (tmp_path / "taken").write_text("")
    target = tmp_path / "taken" if kind == "file" else tmp_path / "taken" / "results"
    done = tdprace(*DIRTY_LOG, "--results", target)
    assert done.returncode == 3, done.stderr
    assert str(target) in done.stderr or "taken" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_patch_that_does_not_apply(tmp_path):
    patch = tmp_path / "wrong.diff"
    patch.write_text(
        "--- a/mmu/fault.py\n+++ b/mmu/fault.py\n@@ -1,2 +1,2 @@\n no such line\n-gone\n+new\n"
    )
    done = tdprace(*DIRTY_LOG, "--patch", patch, "--results", tmp_path / "r")
    assert done.returncode == 2
    assert "wrong.diff" in done.stderr
    assert "mmu/fault.py" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("--help",), ("--version",), ("stress", "--help")])
def test_help_needs_no_compiler(words):
    code = "import sys, harness.cli.main as m; sys.argv[1:] = sys.argv[1:]\n"
    code += "try: m.main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "sys.exit('numba' in sys.modules and 'stress' not in sys.argv)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "tdprace" in done.stdout
    assert os.linesep in done.stdout
