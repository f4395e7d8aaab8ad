"""Tables in the documents are what their commands print; links and commands are real."""

import re
import subprocess
import sys

import pytest

from tests import tables
from tests.command import tdprace


@pytest.mark.slow
def test_counters_in_the_documents_are_what_a_new_run_counts():
    # Forked: with its kernels loaded, a command needs a third of the time.
    assert tables.check(lambda module, *words: tdprace(*words)) == 0


def test_a_changed_counter_is_noticed():
    row = "| enable | splits_2m | 0 | 0 | 128 |"
    assert tables.counters_in(row) == ["enable | splits_2m | 0 | 0 | 128"]
    assert tables.counters_in(row) != tables.counters_in(row.replace("128", "127"))
    assert tables.counters_in("| populate | 0.006s | 0.004s |") == []
    assert tables.counters_in("| whole run | quiet_points | 1 | 2 |") == []


def test_links_between_documents_lead_somewhere():
    for path in tables.documents():
        for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_python_example_prints_what_the_readme_says():
    text = (tables.ROOT / "README.md").read_text()
    (source, printed), *more = re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL
    )
    assert not more
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (printed, "")


def test_make_targets_in_the_readme_exist():
    makefile = (tables.ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", (tables.ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
