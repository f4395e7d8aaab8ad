"""`--help` of a workload teaches: what it is about, its options' defaults, words that work."""

import shlex

import pytest

from harness.cli.common import variants
from harness.cli.main import build_parser, main
from workloads.registry import WORKLOADS, load


@pytest.mark.parametrize("name", WORKLOADS)
def test_help_begins_with_what_it_is_about_and_ends_with_examples(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["stress", name, "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    workload = load(name)
    about = " ".join(workload.__doc__.split())
    assert about in said
    assert said.index(about) < said.index("options:") < said.index("examples:")
    for words in workload.EXAMPLES:
        assert f"tdprace stress {name} {words}" in said


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_examples_can_be_typed(name):
    workload = load(name)
    assert workload.EXAMPLES
    for words in workload.EXAMPLES:
        line = ["stress", name, *shlex.split(words)]
        plans = variants(build_parser(line).parse_args(line), workload)
        assert all(plan.workload == name for plan in plans.values())
