"""`tdprace explore --all`: one scenario after the other, until one shows something."""

from __future__ import annotations

import json

import pytest

from harness.cli import sweep
from harness.cli.main import main
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import fetch_add, read_once, write_once
from workloads.scenario import FORBIDDEN, Actor, Outcome, Scenario


@kernel
def add(cpu: Cpu) -> None:
    fetch_add(cpu, 0, 1)


@kernel
def add_in_two_steps(cpu: Cpu) -> None:
    write_once(cpu, 0, read_once(cpu, 0) + 1)


@kernel
def endless(cpu: Cpu) -> None:
    while True:
        write_once(cpu, 0, 1)


def of(name: str, body) -> Scenario:
    return Scenario(
        name,
        "two actors add",
        (Actor("one", body), Actor("other", body)),
        words=("x",),
        outcome=("x",),
        outcomes=(Outcome((1,), FORBIDDEN, "an addition is lost"),),
    )


SCENARIOS = {
    "right": of("right", add),
    "wrong": of("wrong", add_in_two_steps),
    "wrong-too": of("wrong-too", add_in_two_steps),
}


@pytest.fixture
def explore(monkeypatch, tmp_path, capsys):
    def run(names: tuple[str, ...], *words: str) -> tuple[int, dict]:
        scenarios = SCENARIOS | {"endless": of("endless", endless)}
        monkeypatch.setattr(sweep, "SCENARIOS", dict.fromkeys(names, ""))
        monkeypatch.setattr(sweep, "load", scenarios.__getitem__)
        command = ["explore", "--all", "-j", "1", "--quiet", "--json", "-", *words]
        status = main([*command, "--results", str(tmp_path)])
        return status, json.loads(capsys.readouterr().out)

    return run


def test_what_is_right_is_exhausted(explore):
    status, document = explore(("right",))
    assert (status, document["outcome"], document["exhausted"]) == (0, "clean", True)


def test_it_ends_with_the_first_violation(explore, tmp_path):
    status, document = explore(tuple(SCENARIOS))
    assert (status, document["outcome"]) == (1, "violation")
    assert [each["scenario"] for each in document["scenarios"]] == ["right", "wrong"]
    assert [each["scenario"] for each in document["violations"]] == ["wrong"]
    assert len(list(tmp_path.glob("*/*reproducer.json"))) == 1


def test_or_goes_on(explore, tmp_path):
    status, document = explore(tuple(SCENARIOS), "--keep-going")
    assert status == 1
    assert [each["scenario"] for each in document["violations"]] == ["wrong", "wrong-too"]
    assert len(list(tmp_path.glob("*/*reproducer.json"))) == 2


def test_what_cannot_be_explored_is_no_success(explore):
    status, document = explore(("endless", "right"), "--steps", "50")
    assert (status, document["outcome"]) == (4, "failed")
    assert "none of" in document["scenarios"][0]["error"]
    assert document["scenarios"][1]["exhausted"]


@pytest.mark.parametrize("words", [["map-map-same"], ["--from", "latest"]])
def test_one_thing_at_a_time(words, capsys):
    assert main(["explore", "--all", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
