"""memslot_perf_test: its lines, and that each of its checks notices what it is there for."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import workloads.memslot_sides as sides
from harness.cli.main import build_parser, main
from harness.run.session import Result, Session, SignalFlag
from harness.run.status import Status
from mmu.guest import vcpu_load, vcpu_put
from mmu.host.frames import VALUE_ONE
from mmu.host_changes import discard_pages
from mmu.machine.cpu import Cpu
from mmu.machine.layout import WORK_DONE
from mmu.machine.primitives import set_own
from mmu.slot_changes import delete_memslot
from mmu.vm import Vm, VmConfig
from workloads.actors.memslot_area import (
    WRITES,
    discard_batch,
    hammer_batch,
    host_write_batch,
    write_batch,
)
from workloads.errors import RunFailed, UsageError
from workloads.memslot_sides import WORKLOAD_WORDS, Arena, Host, check_area, check_noted
from workloads.memslot_tests import TESTS
from workloads.registry import load

TIME = r"\d+\.\d{9}s"
NAMES = ["map", "unmap", "unmap chunked", "move active area", "move inactive area", "RW"]


def run(*words: str) -> Result:
    line = ["stress", "memslot-perf", "-l", "0.05", *words, "--quiet"]
    args = build_parser(line).parse_args(line)
    with SignalFlag() as flag:
        plan = load(args.workload).plan(args)
        return Session(plan, Status(quiet=True)).run(flag, lambda phase, each: None)


# --- Runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_lines_of_the_selftest_in_their_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["stress", "memslot-perf", "-l", "0.05", "--results", str(tmp_path)]) == 0
    text = capfd.readouterr().out
    header, *tests = re.split(r"^Testing ", text.partition("\n\n|")[0], flags=re.MULTILINE)
    assert header == "Memslots: 512 (512 at most here; no cap would be 32,764 in KVM)\n"
    assert len(tests) == len(NAMES)
    for name, said in zip(NAMES, tests, strict=True):
        pattern = (
            rf"{name} performance with 1 runs, 0\.05 seconds each\n"
            rf"Test took {TIME} for slot setup \+ {TIME} all iterations\n"
            rf"Done (\d+) iterations, avg {TIME} each\n"
            rf"Best runtime result was {TIME} per iteration \(with (\d+) iterations\)\n"
        )
        last = rf"Best slot setup time for the whole test area was {TIME}\n?"
        found = re.fullmatch(pattern + ("\n" if name != NAMES[-1] else last), said)
        assert found, said
        assert found[1] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("-r", "2", "-v"), ("-r", "3", "-v")])
def test_the_best_of_several_runs_counts(words, tmp_path, capfd):
    main(["stress", "memslot-perf", "-e", "0", "-l", "0.05", *words, "--results", str(tmp_path)])
    text = capfd.readouterr().out
    averages = re.findall(rf"Done \d+ iterations, avg ({TIME}) each", text)
    assert len(averages) == int(words[1])
    assert re.findall(rf"Best runtime result was ({TIME})", text) == [min(averages)]
    assert "Best slot setup" not in text  # only tests of the whole area are compared
    assert "Memslots 1 to 512: 16 pages each, 16 more in the last" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("-d", "-e", "2"),
        ("-d", "-f", "5", "-s", "1"),
        ("-s", "1", "-e", "2"),
        ("-s", "2", "-f", "3", "-e", "4", "--zap-by", "worker"),
        ("-s", "511", "-f", "3", "--root-life", "owned", "--zap-steps", "root", "--flush", "all"),
    ],
)
def test_it_is_clean_with_any_number_of_memslots_and_policy(words):
    result = run(*words)
    assert result.outcome == "clean", (result.error, result.violations)


@pytest.mark.slow
def test_mmio_only_where_the_area_crosses_the_border():
    active, inactive = (
        {each.name: each.counters for each in result.phases}[TESTS[number].name]
        for number in (3, 4)
        for result in [run("-f", str(number), "-e", str(number), "-l", "0.5", "-s", "4")]
    )
    assert active["mmio_exits"] > 0
    assert inactive["mmio_exits"] == 0
    assert active["slots_changed"] > 1


@pytest.mark.slow
def test_a_discard_that_forgets_a_page_fails_the_run(monkeypatch):
    """In the middle of a half: only the guest comes by there."""

    def forgetful(cpu: Cpu, first: int, pages: int, *rest: int) -> int:
        for begin, end in ((first, first + 99), (first + 100, first + pages)):
            set_own(cpu, WORK_DONE, 0)
            while discard_batch(cpu, begin, end - begin, *rest) > 0:
                pass
        return 0

    monkeypatch.setattr(sides, "discard_batch", forgetful)
    result = run("-e", "0")
    assert result.outcome == "failed"
    said = "vcpu 0 failed: the guest finds 2 writes in page (115|4211) .*, not 1"
    assert re.search(said, str(result.error))
    verified = run("-e", "0", "-d")
    said = "vmm failed: after madvise: the host finds 1 writes in page (115|4211) .*, not 0"
    assert re.search(said, str(verified.error))


# --- Checks, on a memory of 32 pages in two memslots ----------------------------------------------


@dataclass
class Alone:
    """An actor that runs its kernels to the end."""

    cpu: Cpu
    vm: Vm
    index: int = 0

    def stopping(self) -> bool:
        return False

    def run(self, batch: Callable[..., int], *arguments: int) -> None:
        while batch(self.cpu, *arguments, 7) > 0:
            pass


@pytest.fixture
def actors() -> Iterator[tuple[Alone, Alone]]:
    """(vCPU, monitor) of a VM."""
    vm = Vm(VmConfig(vcpus=1, pages=32, slots=2, spare_frames=4, workload_words=WORKLOAD_WORDS))
    yield Alone(vm.cpu(0), vm), Alone(vm.cpu(1), vm)
    vm.close()


def guest_writes(guest: Alone, first: int, pages: int, *due: int) -> None:
    set_own(guest.cpu, WORK_DONE, 0)
    vcpu_load(guest.cpu)
    guest.run(write_batch, first, pages, *due)
    vcpu_put(guest.cpu)


def test_a_page_that_was_not_discarded_is_noticed_by_host_and_guest(actors):
    guest, host = actors
    guest_writes(guest, 0, 16, 0, 0, 0)
    check_noted(guest, "the guest", "1")
    check_area(host, 0, 16, 1, True, "before")
    discard_pages(host.cpu, 0, 5)
    discard_pages(host.cpu, 6, 16)
    check_area(host, 0, 16, 0, False, "after")  # the ends are zeros
    with pytest.raises(RunFailed, match=r"after: the host finds 1 .* page 5 \(gfn 0x100005\), not"):
        check_area(host, 0, 16, 0, True, "after")
    with pytest.raises(RunFailed, match="page 5 "):
        check_area(host, 0, 6, 0, False, "after")
    guest_writes(guest, 0, 16, 0, 0, 0)
    with pytest.raises(RunFailed, match=r"the guest finds 2 writes in page 5 .*, not 1"):
        check_noted(guest, "the guest", "1")


def test_discards_stop_at_the_borders_of_memslots(actors, monkeypatch):
    _, host = actors
    calls = []
    discard_all = discard_batch.py_func
    monkeypatch.setitem(
        discard_all.__globals__, "discard_pages", lambda cpu, first, end: calls.append((first, end))
    )
    set_own(host.cpu, WORK_DONE, 0)
    discard_all(host.cpu, 3, 29, 10, 12, 2, 1 << 14)
    assert calls == [(3, 12), (12, 22), (22, 32)]
    assert Arena(32, 3).sizes() == (10, 10, 12)


def test_reads_are_looked_at_before_writes(actors):
    guest, _ = actors
    guest_writes(guest, 0, 8, 0, 0, 0)
    guest_writes(guest, 0, 8, 1, 0, 1)
    check_noted(guest, "the guest", "2")
    guest_writes(guest, 0, 8, 1, 0, 1)
    with pytest.raises(RunFailed, match="finds 2 writes in page 0 "):
        check_noted(guest, "the guest", "1")


@pytest.mark.parametrize(("least", "noticed"), [(0, False), (1, False), (2, True)])
def test_each_side_finds_its_own_writes_and_up_to_one_of_the_other(actors, least, noticed):
    guest, host = actors
    guest_writes(guest, 0, 8, 0, 0, 0)
    set_own(host.cpu, WORK_DONE, 0)
    host.run(host_write_batch, 0, 8, least, 1)
    if noticed:
        with pytest.raises(RunFailed, match="the host finds 1 writes in page 0 "):
            check_noted(host, "the host", "2 or 3")
    else:
        check_noted(host, "the host", "0 or 1")
        check_area(host, 0, 8, 2, True, "then")


@pytest.mark.parametrize(("hole", "noticed"), [(16, False), (32, True)])
def test_mmio_is_allowed_in_the_memslot_that_moves_only(actors, hole, noticed):
    guest, host = actors
    vcpu_load(guest.cpu)
    vcpu_put(guest.cpu)
    delete_memslot(host.cpu, 1)
    vcpu_load(guest.cpu)
    assert hammer_batch(guest.cpu, 12, 8, hole, 8) == 1
    vcpu_put(guest.cpu)
    counted = guest.vm.region("workload")[WRITES : WRITES + 8]
    assert counted.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    if noticed:
        with pytest.raises(RunFailed, match=r"finds no memory \(MMIO\) in page 16 "):
            check_noted(guest, "the guest", "memory")
    else:
        check_noted(guest, "the guest", "memory")


def test_a_write_that_is_lost_while_a_memslot_moves_is_noticed(actors, monkeypatch):
    guest, host = actors
    monkeypatch.setattr(sides, "MOVE_PAGES", 8)
    vcpu_load(guest.cpu)
    hammer_batch(guest.cpu, 12, 8, 32, 24)
    vcpu_put(guest.cpu)
    judge = Host(host, Arena(32, 2))
    judge.check_writes(12)
    guest.vm.frames[14] -= VALUE_ONE
    with pytest.raises(RunFailed, match=r"finds 2 writes in page 14 .*, not 3"):
        judge.check_writes(12)


# --- Options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-s", "0"), "-s 0: give 1 to 512"),
        (("-s", "513"), "the memslot cap is -1 to 512"),
        (("-s", "1"), "needs memory before the last memslot"),
        (("-f", "6"), "the first test is 0 to 5"),
        (("-f", "3", "-e", "2"), "-f 3 is behind -e 2"),
        (("-l", "0"), "is zero"),
        (("-r", "0"), "the runs is 1 to"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    line = ["stress", "memslot-perf", *words]
    with pytest.raises(UsageError, match=said) as caught:
        load("memslot-perf").plan(build_parser(line).parse_args(line))
    assert "\n" not in str(caught.value)


def test_dry_run_and_help_say_what_it_does(capsys):
    assert main(["stress", "memslot-perf", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert float(re.search(r"time, roughly +([\d.]+) s", out)[1]) >= 30
    assert max(map(len, re.findall(r"^  slot_pages.*", out, re.MULTILINE))) < 100
    with pytest.raises(SystemExit):
        main(["stress", "memslot-perf", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "-1 means 512 here, 32,764 in the selftest" in out
    assert all(f"{number} {name}" in out for number, name in enumerate(NAMES))
