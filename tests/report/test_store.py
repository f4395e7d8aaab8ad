import calendar
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.report import store
from workloads.errors import MachineError, UsageError

ROOT = Path(__file__).parents[2]
DOCUMENT = {"schema": 1, "command": "stress", "workload": "dirty-log"}


def stored(results: Path, name: str, document: dict[str, object] | None = None) -> Path:
    folder = results / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(document or DOCUMENT))
    return folder


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_nothing_appears_before_the_first_write(tmp_path: Path) -> None:
    results = tmp_path / "deep" / "results"
    run = store.open_run(results, "stress", "dirty-log")
    run.write_text("table.txt", "a table\n")
    assert os.listdir(results) == []
    run.write(DOCUMENT)
    assert os.listdir(results) == [run.path.name]
    assert sorted(os.listdir(run.path)) == ["run.json", "table.txt"]
    assert (run.path / "table.txt").read_text() == "a table\n"
    assert store.load(run.path) == DOCUMENT


def test_a_folder_is_complete_when_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], list[str]]] = []
    rename = Path.rename

    def look_and_rename(source: Path, target: Path) -> Path:
        seen.append((os.listdir(tmp_path), sorted(os.listdir(source))))
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", look_and_rename)
    run = store.open_run(tmp_path, "stress", "x")
    run.write_text("table.txt", "a table\n")
    run.write(DOCUMENT)
    (((name,), content),) = seen
    assert name.startswith(store.TEMPORARY_PREFIX)
    assert content == ["run.json", "table.txt"]
    assert os.listdir(tmp_path) == [run.path.name]


def test_later_writes_replace_and_leave_nothing_else(tmp_path: Path) -> None:
    run = store.open_run(tmp_path, "stress", "dirty-log")
    run.write(DOCUMENT)
    run.write(DOCUMENT | {"outcome": "clean"})
    run.write_text("table.txt", "old")
    run.write_text("table.txt", "new")
    assert store.load(run.path / "run.json")["outcome"] == "clean"
    assert (run.path / "table.txt").read_text() == "new"
    assert sorted(os.listdir(run.path)) == ["run.json", "table.txt"]


def test_folder_names_say_when_what_and_which(tmp_path: Path) -> None:
    run = store.open_run(tmp_path, "explore", "../my races.py::zap/../x")
    utc, command, rest = run.path.name.split("-", 2)
    assert abs(time.time() - _utc_s(utc)) < 60
    assert command == "explore"
    name, _, run_id = rest.rpartition("-")
    assert name == "my-races.py-zap-..-x"
    assert len(run_id) == 6
    int(run_id, 16)
    assert run.path.parent == tmp_path
    assert len(store.open_run(tmp_path, "explore", "n" * 1000).path.name) < 130


def _utc_s(utc: str) -> int:
    return calendar.timegm(time.strptime(utc, "%Y%m%dT%H%M%SZ"))


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "run.json", "", ".."])
def test_only_plain_files_go_beside_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="beside"):
        store.open_run(tmp_path, "stress", "x").write_text(name, "")


def test_a_file_in_the_place_of_results_is_a_machine_error(tmp_path: Path) -> None:
    file = tmp_path / "results"
    file.write_text("")
    for results in (file, file / "below"):
        with pytest.raises(MachineError) as error:
            store.open_run(results, "stress", "x")
        assert str(results) in one_line(error)
        assert "--results" in one_line(error)


def test_an_unwritable_folder_is_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MachineError, match=r"/proc/tdprace"):
        store.open_run(Path("/proc/tdprace"), "stress", "x")
    # Root may write everywhere, so the refusal itself has to be played.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MachineError, match="not writable"):
        store.open_run(tmp_path, "stress", "x")


def test_a_full_or_vanished_folder_is_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.open_run(tmp_path / "results", "stress", "x")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", _refuse)
        with pytest.raises(MachineError, match="No space left"):
            run.write(DOCUMENT)
    assert os.listdir(tmp_path / "results") == []
    run.write(DOCUMENT)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", _refuse)
        with pytest.raises(MachineError, match="No space left"):
            run.write(DOCUMENT | {"outcome": "failed"})
    assert store.load(run.path) == DOCUMENT
    (run.path / "run.json").unlink()
    run.path.rmdir()
    with pytest.raises(MachineError):
        run.write(DOCUMENT)


def _refuse(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_nan_is_refused_and_keys_keep_their_order() -> None:
    assert store.dump({"b": 1, "a": [1.5]}) == '{\n "b": 1,\n "a": [\n  1.5\n ]\n}\n'
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            store.dump({"x": number})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a whole JSON"),
        (json.dumps(DOCUMENT).encode()[:-9], "not a whole JSON"),
        (b"\xff\xfe", "not a whole JSON"),
        (b'{"schema": 1, "x": NaN}', "not a whole JSON"),
        (b'{"schema": 1, "x": 1e999}', "not a whole JSON"),
        (b"[" * 100_000, "not a whole JSON"),
        (b"[]", "no schema"),
        (b"{}", "no schema"),
        (b'{"schema": true}', "no schema"),
        (b'{"schema": 2}', "schema 2"),
    ],
)
def test_load_refuses_what_is_no_whole_run(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    for path in (file, tmp_path):
        with pytest.raises(UsageError, match=reason) as error:
            store.load(path)
        assert one_line(error).startswith(str(file))


def test_load_of_nothing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent: .*No such file"):
        store.load(tmp_path / "absent")


def test_find_by_path_id_prefix_and_latest(tmp_path: Path) -> None:
    old = stored(tmp_path, "20250101T000000Z-stress-dirty-log-aaaaa1")
    new = stored(tmp_path, "20260101T000000Z-stress-dirty-log-bbbbb2")
    stored(tmp_path / "reference", "20270101T000000Z-stress-dirty-log-ccccc3")
    assert store.find(tmp_path, str(old)) == old
    assert store.find(tmp_path, str(old / "run.json")) == old / "run.json"
    assert store.find(tmp_path, "aaaaa1") == old
    assert store.find(tmp_path, "2025") == old
    assert store.find(tmp_path, new.name) == new
    assert store.find(tmp_path, "latest") == new


def test_find_lists_at_most_five_candidates(tmp_path: Path) -> None:
    folders = [stored(tmp_path, f"2026010{n}T000000Z-stress-x-00000{n}") for n in range(1, 8)]
    for reference, message in (
        ("2026", "means 7 runs"),
        ("nope", "is not in"),
        ("", "is not in"),
        ("x" * 5000, "is not in"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            store.find(tmp_path, reference)
        named = [folder.name in one_line(error) for folder in folders]
        assert named == [False, False, True, True, True, True, True]


def test_a_whole_name_is_meant_even_if_another_begins_with_it(tmp_path: Path) -> None:
    short = stored(tmp_path, "20260101T000000Z-stress-x-aaaaaa")
    stored(tmp_path, "20260101T000000Z-stress-x-aaaaaa-bbbbbb")
    assert store.find(tmp_path, short.name) == short


def test_find_without_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no runs are stored"):
        store.find(tmp_path / "absent", "latest")


def test_runs_of_one_second_are_in_order_of_their_writing(tmp_path: Path) -> None:
    first = stored(tmp_path, "20260101T000000Z-stress-x-ffffff")
    second = stored(tmp_path, "20260101T000000Z-explore-x-000000")
    os.utime(first, (1000, 1000))
    os.utime(second, (2000, 2000))
    assert store.find(tmp_path, "latest") == second


def test_recent_is_newest_first_and_counts_the_unreadable(tmp_path: Path) -> None:
    names = [f"2026010{n}T000000Z-stress-x-00000{n}" for n in range(1, 6)]
    for name in names:
        stored(tmp_path, name)
    (tmp_path / names[4] / "run.json").write_text("{")
    (tmp_path / "notes").mkdir()
    (tmp_path / f"{store.TEMPORARY_PREFIX}{names[0]}").mkdir()
    found = store.recent(tmp_path, 2)
    assert [run.path.name for run in found.runs] == [names[3], names[2]]
    assert (found.stored_count, found.unreadable_count) == (5, 1)
    assert len(store.recent(tmp_path, 100).runs) == 4
    assert store.recent(tmp_path / "absent", 5) == ([], 0, 0)


def test_open_sweeps_old_temporaries_and_nothing_else(tmp_path: Path) -> None:
    run = stored(tmp_path, "20260101T000000Z-stress-x-000001")
    prefix = store.TEMPORARY_PREFIX
    old = [tmp_path / f"{prefix}folder", run / f"{prefix}file", tmp_path / ".mine", tmp_path / "f"]
    old[0].mkdir()
    (old[0] / "run.json").write_text("{")
    for file in old[1:]:
        file.write_text("")
    young = tmp_path / f"{prefix}young"
    young.mkdir()
    for path in old:
        os.utime(path, (0, 0))
    store.open_run(tmp_path, "stress", "x")
    assert [path.exists() for path in old] == [False, False, True, True]
    assert young.exists()


def test_replace_text_keeps_links_and_devices(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    store.replace_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    store.replace_text(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(MachineError, match="Is a directory"):
        store.replace_text(tmp_path, "x")
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


# Large enough for a kill to fall into the writing, of a new folder or of a file.
WRITER_OF_STORE = """
import sys, pathlib
from harness.report import store
runs = 0
while True:
    if runs % 4 == 0:
        run = store.open_run(pathlib.Path(sys.argv[1]), "stress", "x")
        run.write_text("table.txt", "x" * 4_000_000)
    run.write({"schema": 1, "n": runs, "pad": ["x" * 100] * (200 + runs % 7 * 300)})
    runs += 1
    print(runs, flush=True) if runs == 9 else None
"""
WRITER_NAIVE = """
import sys, pathlib, json
folder = pathlib.Path(sys.argv[1]) / "20260101T000000Z-stress-x-000000"
folder.mkdir()
text = json.dumps({"schema": 1, "pad": ["x" * 100] * 2000})
print(1, flush=True)
while True:
    with open(folder / "run.json", "w", buffering=512) as file:
        for start in range(0, len(text), 1000):
            file.write(text[start : start + 1000])
"""


def _torn_after_kill(writer: str, results: Path, delay_s: float) -> bool:
    """Kills a process that writes in a loop; whether a run that it left cannot be read."""
    results.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", writer, str(results)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    assert child.stdout.readline()
    time.sleep(delay_s)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    found = store.recent(results, 100_000)
    assert found.stored_count > 0
    return found.unreadable_count > 0


def test_a_killed_writer_never_leaves_a_torn_run(tmp_path: Path) -> None:
    for attempt in range(12):
        delay_s = 0.0137 * attempt
        assert not _torn_after_kill(WRITER_OF_STORE, tmp_path / f"{attempt}", delay_s)


def test_the_kill_test_would_see_a_torn_run(tmp_path: Path) -> None:
    assert any(
        _torn_after_kill(WRITER_NAIVE, tmp_path / f"{attempt}", 0.0137 * attempt)
        for attempt in range(12)
    )
