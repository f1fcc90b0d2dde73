"""Acknowledged means durable: after a kill, a failed call or a power cut at any file-system call,
everything acknowledged is read back, and nothing is that was never written.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import disk_faults
import pytest
from disk_faults import ALL, BROKEN, FULL, OPERATIONS, Failing, Power, arrays, hooked

from ostraka.drivers.checkpoint import Checkpoints, write_durably
from ostraka.drivers.journal import Journal

FAULTS = [(how, code) for how in ("once", "half", "lasting") for code in (FULL, BROKEN)]


def read_journal(folder: Path, acknowledged: int, start: int = 0) -> int:
    """How many records are there; they are the right ones and the acknowledged among them."""
    with Journal(folder / "log") as journal:
        found = len(journal.records)
        assert journal.records == ALL[:found]
        assert start + acknowledged <= found <= start + acknowledged + 1
        journal.append({"after": "the fault"})
    with Journal(folder / "log") as journal:
        assert journal.records == [*ALL[:found], {"after": "the fault"}]
        assert journal.dropped is None
    return found


def read_torn_journal(folder: Path, acknowledged: int) -> int:
    return read_journal(folder, acknowledged, start=2)


def read_checkpoints(folder: Path, acknowledged: int) -> int:
    """The newest round that is there plus one; its content is right, no generation damaged."""
    store = Checkpoints(folder / "state" / "checkpoints", mode=0o600)
    found, passed = store.load()
    assert passed == []
    count = 0 if found is None else found.round + 1
    assert acknowledged <= count <= acknowledged + 1
    if found is not None:
        assert found.facts == {"round": found.round}
        assert found.arrays["theta"].tobytes() == arrays(found.round)["theta"].tobytes()
    store.save(count, arrays(count), {"round": count})
    after, _ = store.load()
    assert after is not None
    assert after.round == count
    names = [path.name for path in (folder / "state" / "checkpoints").iterdir()]
    assert len(names) == min(count + 1, 2), names
    return count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "read"),
    [
        ("journal", read_journal),
        ("torn-journal", read_torn_journal),
        ("checkpoints", read_checkpoints),
    ],
)
def test_a_kill_at_every_call_loses_nothing_acknowledged(
    tmp_path: Path, scenario: str, read: Callable[[Path, int], int]
) -> None:
    command = [sys.executable, disk_faults.__file__, scenario, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    lives = [json.loads(line) for line in ended.stdout.splitlines()]
    counts = {read(Path(folder), acknowledged) for _, _, folder, acknowledged in lives}
    assert lives[-1][3] == OPERATIONS  # the last life was long enough to end by itself
    assert len(lives) > 6 * OPERATIONS
    assert len(counts) > OPERATIONS - 1


def attempt(fault: Failing, action: Callable[..., object], *args: object) -> OSError | None:
    """Do something on a failing disk; gives its error."""
    try:
        with hooked(fault):
            action(*args)
    except OSError as error:
        return error
    return None


def into(opened: list[Journal], path: Path) -> None:
    opened.append(Journal(path))


@pytest.mark.parametrize(("how", "code"), FAULTS)
def test_a_journal_survives_a_failed_call(tmp_path: Path, how: str, code: int) -> None:
    """Opening it and four appends, each on the disk as it is; after two errors there is space."""
    for at in itertools.count(1):
        path = tmp_path / str(at) / "log"
        path.parent.mkdir()
        fault = Failing(at, how, code)
        opened: list[Journal] = []
        acknowledged, errors = [], []
        while not opened and len(errors) < 3:
            fault.healed = len(errors) >= 2
            if error := attempt(fault, into, opened, path):
                errors.append(error)
        for record in ALL[:4]:
            fault.healed = len(errors) >= 2
            if error := attempt(fault, opened[0].append, record):
                errors.append(error)
            else:
                acknowledged.append(record)
        opened[0].close()
        assert {(e.errno, str(e.filename)) for e in errors} <= {
            (code, str(path)),
            (code, str(path.parent)),
        }
        with Journal(path) as again:
            assert again.records == acknowledged
            assert again.dropped is None
        assert bool(errors) == bool(fault.fired)
        if not errors:
            return


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), FAULTS)
def test_checkpoints_survive_a_failed_call(tmp_path: Path, how: str, code: int) -> None:
    """Four saves, each on the disk as it is; after two errors there is space again."""
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        store = Checkpoints(folder)
        fault = Failing(at, how, code)
        done, errors = -1, []
        for round in range(4):
            fault.healed = len(errors) >= 2
            if error := attempt(fault, store.save, round, arrays(round), {}):
                errors.append(error)
            else:
                done = round
            found, passed = Checkpoints(folder).load()
            assert passed == []
            assert done <= (found.round if found else -1) <= round
        assert {e.errno for e in errors} <= {code}
        assert all(str(e.filename).startswith(str(tmp_path)) for e in errors)
        assert bool(errors) == bool(fault.fired)
        store.save(9, arrays(9), {})
        found, _ = store.load()
        assert found is not None
        assert found.arrays["theta"][0] == 9
        assert all(path.suffix != ".part" for path in folder.iterdir())
        if not errors:
            return


@pytest.mark.parametrize("how", ["once", "half", "lasting"])
def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, how: str) -> None:
    path = tmp_path / "model"
    old, new = b"old" * 100, b"new" * 100
    for at in itertools.count(1):
        write_durably(path, old)
        fault = Failing(at, how, FULL)
        error = attempt(fault, write_durably, path, new)
        assert path.read_bytes() in ((old, new) if error else (new,))
        assert [p.name for p in tmp_path.iterdir()] == ["model"]
        if error is None:
            assert fault.fired == 0
            return
        assert str(error.filename).startswith(str(tmp_path))


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all(tmp_path: Path) -> None:
    def few(name: str, call: Callable[..., int], args: tuple, named: dict) -> int:
        if name in disk_faults.WRITES:
            args = (args[0], args[1][:7], *args[2:])
        return call(*args, **named)

    with hooked(few):
        write_durably(tmp_path / "model", bytes(range(100)))
        disk_faults.append_some(tmp_path, lambda: None)
    assert (tmp_path / "model").read_bytes() == bytes(range(100))
    assert Journal(tmp_path / "log").records == ALL[:OPERATIONS]


# --- power cuts: what was not synced is gone ------------------------------------------------------


def test_a_power_cut_after_any_append_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    power = Power()
    acknowledged = itertools.count(1)

    def check() -> None:
        count = next(acknowledged)
        left = power.cut(folder, tmp_path / str(count))
        with Journal(left / "log") as journal:
            assert journal.records == ALL[:count]

    with hooked(power):
        disk_faults.append_some(folder, check)
    assert next(acknowledged) == OPERATIONS + 1


def test_a_record_that_was_read_stays_read_after_a_power_cut(tmp_path: Path) -> None:
    """A writer killed before its fsync leaves a record that only the page cache holds."""
    folder = tmp_path / "here"
    folder.mkdir()
    disk_faults.append_some(folder, lambda: None)
    power = Power()
    with hooked(power):
        Journal(folder / "log").close()
    left = power.cut(folder, tmp_path / "left")
    assert Journal(left / "log").records == ALL[:OPERATIONS]


def test_a_torn_tail_is_gone_from_the_disk_before_a_line_is_written(tmp_path: Path) -> None:
    """Else sectors of the torn line could show up in the new one's place after a power cut."""
    disk_faults.tear(tmp_path)
    calls: list[str] = []

    def note(name: str, call: Callable[..., object], args: object, named: object) -> object:
        calls.append(name)
        return call(*args, **named)  # type: ignore[misc]

    with Journal(tmp_path / "log") as journal, hooked(note):
        journal.append({})
    assert calls == ["ftruncate", "fsync", "pwrite", "fsync"]


def test_a_power_cut_after_any_save_gives_what_was_saved_last(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    store = Checkpoints(folder)
    power = Power()
    with hooked(power):
        for number, round in enumerate((1, 2, 10, 11, 8, 9)):  # from 11 back to 8
            store.save(round, arrays(round), {})
            left = power.cut(folder, tmp_path / str(number))
            found, passed = Checkpoints(left).load()
            assert found is not None
            assert (found.round, passed) == (round, [])
            assert found.arrays["count"] == round


def test_a_loaded_checkpoint_stays_the_newest_after_a_power_cut(tmp_path: Path) -> None:
    """A writer killed before it synced the folder leaves a name that only the cache holds."""
    folder = tmp_path / "here"
    power = Power()
    with hooked(power):
        Checkpoints(folder).save(1, arrays(1), {})
        power.names.clear()
        assert Checkpoints(folder).load()[0] is not None
    assert list(power.cut(folder, tmp_path / "left").iterdir())


def test_new_folders_are_durable_up_to_one_that_was_there(tmp_path: Path) -> None:
    power = Power()
    with hooked(power):
        Checkpoints(tmp_path / "a" / "b" / "c").save(1, arrays(1), {})
    for above, name in ((tmp_path, "a"), (tmp_path / "a", "b"), (tmp_path / "a" / "b", "c")):
        assert name in power.names[above.stat().st_ino]


# --- who may read, and what a dead writer leaves --------------------------------------------------


def test_private_files_are_private_even_over_a_dead_writers_draft(tmp_path: Path) -> None:
    draft = tmp_path / "round-00000003.safetensors.part"
    draft.write_bytes(b"torn")
    draft.chmod(0o666)
    store = Checkpoints(tmp_path, mode=0o600)
    store.save(3, arrays(3), {})
    assert (tmp_path / "round-00000003.safetensors").stat().st_mode & 0o777 == 0o600


def test_drafts_of_dead_writers_are_removed_and_other_files_are_not(tmp_path: Path) -> None:
    for name in ("round-00000002.safetensors.part", "mine.part", "notes"):
        (tmp_path / name).write_bytes(b"torn")
    Checkpoints(tmp_path).save(3, arrays(3), {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["mine.part", "notes", "round-00000003.safetensors"]


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OSError, match="File exists") as caught:
        Checkpoints(tmp_path / "a").save(1, arrays(1), {})
    assert str(caught.value.filename) == str(tmp_path / "a")
