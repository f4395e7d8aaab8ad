"""Each oracle is quiet about the model and reports the mutations that it must catch."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.oracles.verdict import ORACLES
from tests.command import tdprace
from tests.oracles import check
from tests.oracles.proofs import (
    BUGS,
    CATALOGUE,
    CHECKED,
    CROWDED,
    MUTATIONS,
    PROOFS,
    SMALL,
    TORTURE,
)

# What torture finds is in tests/cli/test_explore_from.py; `make check-oracles` runs everything.
# This one's model is compiled for tests/cli/test_inject_and_ring.py too.
CAUGHT = next(proof for proof in PROOFS["transitions"] if proof.mutation == "transitions-ladder")


def stress(tmp_path: Path, *words: str) -> tuple[int, dict, str]:
    done = tdprace("stress", *words, "--quiet", "--json", "-", "--results", tmp_path)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_every_mutation_has_its_oracle():
    proved = {proof.mutation for proofs in PROOFS.values() for proof in proofs} | set(CHECKED)
    proved -= {path.parent.name for path in CATALOGUE.glob("*/patch.diff")}
    assert proved == {path.stem for folder in (BUGS, MUTATIONS) for path in folder.glob("*.diff")}


def test_every_oracle_is_proved_in_both_ways():
    assert list(PROOFS) == [oracle.NAME for oracle in ORACLES]
    for oracle, proofs in PROOFS.items():
        assert len({proof.mutation for proof in proofs if proof.scenario}) >= 3, oracle
        assert any(proof.stress for proof in proofs), oracle
        assert len({proof.mutation for proof in proofs}) == len(proofs), oracle


@pytest.mark.parametrize("folder", [BUGS, MUTATIONS])
def test_a_mutation_is_small(folder):
    for path in folder.glob("*.diff"):
        lines = [line for line in path.read_text().splitlines() if line[:1] in "+-"]
        assert len([line for line in lines if line[:3] not in ("+++", "---")]) <= 10, path


def test_what_is_not_found_is_an_error(monkeypatch, capsys):
    """A run that reports nothing, another oracle, or the clean model: each is said."""
    proof = PROOFS["roots"][0]
    job = check.jobs_of(proof)[0]
    clean = check.Job(job.command, job.words)
    nothing = check.Done(frozenset(), 5, 0.1)
    right = check.Done(frozenset({"roots"}), 5, 0.1)
    monkeypatch.setitem(PROOFS, "roots", (replace(proof, stress=()),))
    assert check.report({clean: nothing, job: right}, ["roots"]) == 0
    assert check.report({clean: nothing, job: nothing}, ["roots"]) == 1
    assert check.report({clean: nothing, job: replace(right, oracles={"leaks"})}, ["roots"]) == 1
    assert check.report({clean: right, job: right}, ["roots"]) == 1
    assert "NOT by explore" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("words", [SMALL, CROWDED, (*SMALL, "--huge-split", "fault"), TORTURE])
def test_the_model_is_not_accused(tmp_path, words):
    status, document, _ = stress(tmp_path, *words)
    assert (status, document["outcome"], document["violations"]) == (0, "clean", [])


@pytest.mark.slow
def test_a_mutation_is_caught(tmp_path):
    words = (*CAUGHT.stress, "--patch", str(MUTATIONS / f"{CAUGHT.mutation}.diff"))
    status, document, errors = stress(tmp_path, *words)
    assert (status, document["outcome"]) == (1, "violation"), errors
    assert document["patch"]["file"] == f"{CAUGHT.mutation}.diff"
    assert "transitions" in {found["oracle"] for found in document["violations"]}
    assert all(found["message"] for found in document["violations"])
