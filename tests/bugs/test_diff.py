"""Unified diffs: applied exactly or refused in one line, and written again where they apply."""

import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.bugs import diff as diffs_of_models
from tests.bugs.diffs import MAP, diff, split
from workloads.errors import UsageError

TEXT = "".join(f"line {number}\n" for number in range(1, 21))

# Few words, so that hunks often fit in several places.
texts = st.lists(
    st.sampled_from(["a", "b", "c", "", "- x", "+ y", "-- z", "é", "@@ -1 +1 @@"])
).map("\n".join)


def apply(diff_text: str, old: str, path: str = MAP) -> str:
    changed = diffs_of_models.apply(diff_text, {path: old}.__getitem__, "bug.diff")
    assert list(changed) == [path]
    return changed[path]


def refusal(diff_text: str, old: str = TEXT, do: Callable = diffs_of_models.apply) -> str:
    def read(path: str) -> str:
        if path != MAP:
            raise FileNotFoundError(path)
        return old

    with pytest.raises(UsageError) as error:
        do(diff_text, read, "bug.diff")
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith("bug.diff: ")
    return str(error.value)


@given(texts, texts, st.integers(min_value=1, max_value=4))
def test_the_diff_of_a_and_b_makes_b_of_a(a: str, b: str, context: int) -> None:
    assume(a != b)
    assert apply(diff(a, b, context=context), a) == b


@given(texts, texts)
def test_line_ends_of_another_system_do_not_matter(a: str, b: str) -> None:
    assume(a != b)
    delta = diff(a, b)
    assert apply(delta.replace("\n", "\r\n"), a) == b
    if a.count("\n"):
        assert apply(delta, a.replace("\n", "\r\n")) == b.replace("\n", "\r\n")


@given(texts, texts, st.integers(min_value=1, max_value=30))
def test_a_hunk_that_moved_applies_where_it_fits(a: str, b: str, by: int) -> None:
    assume(a)
    assume(a != b)
    # No line of the texts is among those ahead: the only place is behind them.
    ahead = "".join(f"ahead {number}\n" for number in range(by))
    assert apply(diff(a, b, context=100), ahead + a) == ahead + b


def test_a_hunk_that_moved_takes_the_next_along() -> None:
    new = TEXT.replace("line 3\n", "line three\n").replace("line 15\n", "")
    delta = diff(TEXT, new, context=1)
    assert delta.count("@@ -") == 2
    # Its context stands twice; the first hunk's offset says which place the second one means.
    twice = "0\n0\n" + TEXT + "line 14\nline 15\nline 16\n"
    assert apply(delta, twice) == "0\n0\n" + new + "line 14\nline 15\nline 16\n"


def test_a_hunk_that_fits_several_places_is_refused() -> None:
    delta = diff("x\ny\nz\n", "x\nY\nz\n")
    message = refusal(delta, "q\nx\ny\nz\nx\ny\nz\n")
    assert message.startswith(f"bug.diff: hunk 1 (line 3) does not apply to {MAP}: ")
    assert "2 places, lines 2, 5" in message
    assert apply(delta, "x\ny\nz\nx\ny\nz\n") == "x\nY\nz\nx\ny\nz\n"


def test_a_hunk_that_fits_nowhere_names_hunk_line_and_what_is_missing() -> None:
    new = TEXT.replace("line 3\n", "line three\n").replace("line 15\n", "line fifteen\n")
    delta = diff(TEXT, new, context=1)
    message = refusal(delta, TEXT.replace("line 16", "line sixteen"))
    assert message.startswith(f"bug.diff: hunk 2 (line 8) does not apply to {MAP}: ")
    assert "no line 'line 16'" in message
    assert "not together" in refusal(delta, TEXT.replace("line 15\n", "") + "line 15\n")


def test_hunks_do_not_overtake_each_other() -> None:
    delta = diff("a\nb\nc\nd\ne\n", "a\nB\nc\nD\ne\n", context=0)
    assert delta.count("@@ -") == 2
    assert "hunk 2 (line 6) does not apply" in refusal(delta, "d\na\nb\nc\n")


def test_white_space_counts() -> None:
    delta = diff("if a:\n    b\n", "if a:\n    c\n")
    assert "does not apply" in refusal(delta, "if a:\n\tb\n")


@pytest.mark.parametrize("prefixes", ["ab", "iw", ""])
def test_git_prefixes_or_none(prefixes: str) -> None:
    assert apply(diff("a\n", "b\n", prefixes=prefixes), "a\n") == "b\n"


def test_either_name_may_be_the_models() -> None:
    body = "@@ -1 +1 @@\n-a\n+b\n"
    assert apply(f"--- {MAP}\t2026-01-01\n+++ /tmp/new.py\t2026-01-01\n{body}", "a\n") == "b\n"
    assert apply(f"--- {MAP}.orig\n+++ ./{MAP}\n{body}", "a\n") == "b\n"


def test_a_mailed_patch_with_its_text_and_signature() -> None:
    delta = diff("a\n--\nb\n", "a\n--\nc\n")
    mail = f"Subject: x\n\n--- is not a heading\n---\n {MAP} | 2 +-\n\n{delta}-- \n2.40.1\n\n"
    assert apply(mail, "a\n--\nb\n") == "a\n--\nc\n"


def test_deleted_lines_that_look_like_headings() -> None:
    old, new = "x\n-- a\n++ b\n", "x\n"
    assert "\n--- a\n" in diff(old, new)
    assert apply(diff(old, new), old) == new


def test_several_files_and_the_same_file_twice() -> None:
    sources = {"mmu/a.py": "1\n2\n", "mmu/b.py": "x\n"}
    delta = (
        diff("1\n2\n", "1\n3\n", "mmu/a.py")
        + diff("x\n", "y\n", "mmu/b.py")
        + diff("1\n3\n", "1\n4\n", "mmu/a.py")
    )
    assert diffs_of_models.apply(delta, sources.__getitem__) == {
        "mmu/a.py": "1\n4\n",
        "mmu/b.py": "y\n",
    }


def test_empty_context_lines_may_have_lost_their_blank() -> None:
    assert apply(diff("a\n\nb\n", "a\n\nc\n").replace("\n \n", "\n\n"), "a\n\nb\n") == "a\n\nc\n"


def refused_diffs() -> Iterator[tuple[str, str]]:
    body = "@@ -1 +1 @@\n-a\n+b\n"
    yield "", "no unified diff"
    yield "just text\n", "no unified diff"
    yield body, "hunk of no file"
    yield f"--- a/{MAP}\n+++ b/{MAP}\n", "no hunk"
    yield diff("a\n", "b\n", "harness/cli/main.py"), "changes b/harness/cli/main.py"
    yield diff("a\n", "b\n", "mmu/../harness/x.py"), "lines of mmu/ only"
    yield diff("a\n", "b\n", "/etc/mmu/x.py", prefixes=""), "lines of mmu/ only"
    yield diff("a\n", "b\n", "xmmu/x.py"), "lines of mmu/ only"
    yield diff("a\n", "b\n", "mmu/absent.py"), "cannot read mmu/absent.py"
    yield f"--- /dev/null\n+++ b/{MAP}\n{body}", "makes b/mmu/tdp/map.py"
    yield f"--- a/{MAP}\n+++ /dev/null\n{body}", "deletes a/mmu/tdp/map.py"
    git = f"diff --git a/{MAP} b/{MAP}\n"
    yield f"{git}new file mode 100644\nindex 0000000..e69de29\n", "makes a new file"
    yield f"{git}deleted file mode 100644\n", "deletes a file"
    yield f"{git}similarity index 100%\nrename from {MAP}\nrename to mmu/x.py\n", "renames"
    yield f"{git}index 1..2 100644\nGIT binary patch\nliteral 1\n", "binary"
    yield f"{git}Binary files a/{MAP} and b/{MAP} differ\n", "binary"
    heading = f"--- a/{MAP}\n+++ b/{MAP}\n"
    yield f"{heading}@@ -1,2 +1,2 @@\n line 1\n", "more or fewer lines"
    yield f"{heading}@@ -1,2 +1,2 @@\n line 1\n-line 2\n?\n", "more or fewer lines"
    yield f"{heading}@@ -1,1 +1,1 @@\n-line 1\n+x\n+y\n", "more or fewer lines"
    yield f"{heading}@@ -1,1 +1,2 @@\n-line 1\n-line 2\n+x\n+y\n", "more or fewer lines"
    yield f"{heading}@@ -1,1 +1,1 @@\n line 1\n", "changes nothing"
    yield f"{heading}@@ -1,0 +2,1 @@\n+x\n", "no context"


@pytest.mark.parametrize(("diff_text", "reason"), list(refused_diffs()))
def test_what_is_no_patch_of_the_model_is_refused(diff_text: str, reason: str) -> None:
    assert reason in refusal(diff_text)


@given(st.data())
def test_a_diff_that_lost_a_line_is_refused(data: st.DataObject) -> None:
    new = TEXT.replace("line 3\n", "line three\n").replace("line 15\n", "")
    lines = split(diff(TEXT, new))
    index = data.draw(st.integers(min_value=2, max_value=len(lines) - 1))
    assert refusal("".join(lines[:index] + lines[index + 1 :]))


# --- Written again -------------------------------------------------------------------------------


def anchored(diff_text: str, old: str) -> str:
    return diffs_of_models.anchored(diff_text, {MAP: old}.__getitem__, "bug.diff")


def applied_blindly(diff_text: str, old: str) -> str:
    """Each hunk exactly where it says, found by nobody; AssertionError if it is not there."""
    lines = split(old)
    shift = 0
    hunks = re.split(r"^(@@ .*)\n", diff_text, flags=re.MULTILINE)[1:]
    for header, body in zip(hunks[::2], hunks[1::2], strict=True):
        numbers = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", header)
        assert numbers is not None
        start, old_count, new_start, new_count = (
            1 if text is None else int(text) for text in numbers.groups()
        )
        marked = body.replace("\n\\ No newline at end of file\n", "")
        went = [line[1:] for line in split(marked) if line[0] != "+"]
        came = [line[1:] for line in split(marked) if line[0] != "-"]
        assert (len(went), len(came)) == (old_count, new_count)
        at = start - 1 + shift if old_count else start + shift
        assert at == (new_start - 1 if new_count else new_start)
        assert lines[at : at + len(went)] == went
        lines[at : at + len(went)] = came
        shift += len(came) - len(went)
    return "".join(lines)


@given(texts, texts, st.integers(min_value=0, max_value=9), st.sampled_from([1, 2, 3, 100]))
def test_written_again_it_applies_exactly_and_does_the_same(
    a: str, b: str, by: int, context: int
) -> None:
    # A newline at the end, where the blind one is blind; `fresh` lines fit no hunk.
    a, b = f"{a}\nend\n", f"{b}\nend\n"
    assume(a != b)
    delta = diff(a, b, context=context)
    moved = "".join(f"fresh {number}\n" for number in range(by)) + a
    try:
        wanted = apply(delta, moved)
    except UsageError:
        assume(False)
    again = anchored(delta, moved)
    assert applied_blindly(again, moved) == wanted
    assert anchored(again, moved) == again
    headings = [line for line in again.splitlines() if line.startswith(("--- a/", "+++ b/"))]
    assert headings == [f"--- a/{MAP}", f"+++ b/{MAP}"]


@given(texts, texts)
def test_what_is_as_it_would_be_made_now_stays(a: str, b: str) -> None:
    assume(a != b)
    delta = diff(a, b, context=1)
    assume("-0,0" not in delta)
    assert anchored(delta, a) == delta


def test_written_again_context_is_one_line_and_the_text_around_stays() -> None:
    new = TEXT.replace("line 10\n", "line ten\n").replace("line 16\n", "")
    delta = f"Subject: why\n\n{diff(TEXT, new, context=5)}-- \n2.40.1\n"
    assert delta.count("@@ -") == 1
    again = anchored(delta, "new\n" + TEXT)
    assert again == (
        f"Subject: why\n\n--- a/{MAP}\n+++ b/{MAP}\n"
        "@@ -10,3 +10,3 @@\n line 9\n-line 10\n+line ten\n line 11\n"
        "@@ -16,3 +16,2 @@\n line 15\n-line 16\n line 17\n"
        "-- \n2.40.1\n"
    )


def test_changes_whose_context_meets_share_a_hunk() -> None:
    new = TEXT.replace("line 10\n", "").replace("line 12\n", "line twelve\n")
    again = anchored(diff(TEXT, new, context=0).replace("-10 ", "-10,1 "), TEXT)
    assert again.count("@@ -") == 1
    assert applied_blindly(again, TEXT) == new


def test_of_several_files_each_is_written_again() -> None:
    sources = {"mmu/a.py": "0\n1\n2\n", "mmu/b.py": "0\nx\n"}
    delta = (
        diff("1\n2\n", "1\n3\n", "mmu/a.py")
        + diff("x\n", "y\n", "mmu/b.py")
        + diff("1\n3\n", "1\n4\n", "mmu/a.py")
    )
    again = diffs_of_models.anchored(delta, sources.__getitem__)
    assert re.findall("@@ -(.*) @@", again) == ["2,2 +2,2", "1,2 +1,2", "2,2 +2,2"]
    assert diffs_of_models.apply(again, sources.__getitem__) == {
        "mmu/a.py": "0\n1\n4\n",
        "mmu/b.py": "0\ny\n",
    }


@pytest.mark.parametrize(("diff_text", "reason"), list(refused_diffs()))
def test_what_is_refused_is_not_written_again(diff_text: str, reason: str) -> None:
    assert reason in refusal(diff_text, do=diffs_of_models.anchored)
