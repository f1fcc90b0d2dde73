"""A journal reads back what was appended, drops a torn tail, and never gives a wrong record."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.drivers.journal import DamagedJournalError, Journal

RECORDS = [
    {"slot": k, "kind": ("vote", "certificate")[k % 2], "text": "aé\n\x00"[k % 4] * (9 * k)}
    for k in range(8)
]


def written(path: Path, records: list[dict] = RECORDS) -> bytes:
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
    return path.read_bytes()


def test_what_was_appended_is_read_back_after_every_opening(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for count, record in enumerate(RECORDS):
        with Journal(path) as journal:
            assert journal.records == RECORDS[:count]
            assert journal.dropped is None
            journal.append(record)
            assert len(journal.records) == count  # a long run does not fill the memory
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_format_is_as_its_twin_writes_it(tmp_path: Path) -> None:
    header, chain = b"ostraka journal 1\n", bytes(32)
    lines = [header]
    for record in RECORDS:
        body = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        chain = hashlib.sha256(header + chain + body).digest()
        lines.append(chain.hex()[:16].encode() + b" " + body + b"\n")
    assert written(tmp_path / "log") == b"".join(lines)


@pytest.mark.slow
def test_every_tear_of_the_last_line_drops_it_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log"
    before = written(path, RECORDS[:3])
    whole = written(tmp_path / "longer", RECORDS[:4])
    for size in range(len(before) + 1, len(whole)):
        path.write_bytes(whole[:size])
        with Journal(path) as journal:
            assert journal.records == RECORDS[:3]
            assert journal.dropped is not None
            assert f"{path} (line 5, {size - len(before)} bytes)" in journal.dropped
            journal.append(RECORDS[3])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("keep", [0, 1, 20, 40])
def test_zeros_where_bytes_never_reached_the_disk_are_a_tear(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "log"
    before = written(path, RECORDS[:3])
    line = written(tmp_path / "longer", RECORDS[:4])[len(before) :]
    for tail in (line[:keep] + bytes(len(line) - keep), bytes(len(line) - 2) + line[-2:]):
        path.write_bytes(before + tail)
        with Journal(path) as journal:
            assert journal.records == RECORDS[:3]
            assert journal.dropped is not None


@pytest.mark.parametrize("size", [0, 1, 10, 17])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_journal_that_was_being_made_is_made_again(
    tmp_path: Path, size: int, zeros: bool
) -> None:
    path = tmp_path / "log"
    header = written(path, [])
    path.write_bytes(header[:size] + bytes(len(header) - size if zeros else 0))
    assert written(path, RECORDS[:1]) == written(tmp_path / "other", RECORDS[:1])


def test_lines_changed_removed_or_moved_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = written(path).splitlines(keepends=True)
    last = len(lines) - 1
    other = [line.replace(b"slot", b"slop") for line in lines]
    changed = [[*lines[:k], other[k], *lines[k + 1 :]] for k in range(1, last + 1)]
    removed = [[*lines[:k], *lines[k + 1 :]] for k in range(1, last)]
    moved = [[*lines[:k], lines[k + 1], lines[k], *lines[k + 2 :]] for k in range(1, last)]
    joined = [[*lines[:k], lines[k][:-1] + b" ", *lines[k + 1 :]] for k in range(1, last)]
    for damaged in (*changed, *removed, *moved, *joined):
        path.write_bytes(b"".join(damaged))
        with pytest.raises(DamagedJournalError, match=r"line \d+ of .*log is damaged"):
            Journal(path)
        assert path.read_bytes() == b"".join(damaged)


def test_only_one_line_can_be_torn(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = written(path, RECORDS[:4]).replace(b'"slot":1', b'"slot":\0')
    path.write_bytes(whole[:-3])
    with pytest.raises(DamagedJournalError, match="line 3"):
        Journal(path)


def test_the_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(written(path).replace(b'"slot":4', b'"slot":5'))
    with pytest.raises(DamagedJournalError, match=f"line 6 of {path} is damaged") as caught:
        Journal(path)
    assert isinstance(caught.value, OSError)  # a storage failure for whoever ends the process


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for content in (b"dear diary", b"ostraka journal 2\n", bytes(5000), b"\n"):
        path.write_bytes(content)
        with pytest.raises(DamagedJournalError, match=f"line 1 of {path} is damaged"):
            Journal(path)
        assert path.read_bytes() == content


def forged(bodies: list[bytes]) -> bytes:
    """A journal whose checksums fit, whatever its lines say."""
    header, chain = b"ostraka journal 1\n", bytes(32)
    content = header
    for body in bodies:
        chain = hashlib.sha256(header + chain + body).digest()
        content += chain.hex()[:16].encode() + b" " + body + b"\n"
    return content


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 60_000, b"9" * 60_000], ids=lambda b: b[:4]
)
def test_a_line_that_is_no_object_is_damage_even_if_its_checksum_fits(
    tmp_path: Path, body: bytes
) -> None:
    path = tmp_path / "log"
    path.write_bytes(forged([b"{}", body]))
    with pytest.raises(DamagedJournalError, match="line 3"):
        Journal(path)


def test_a_line_longer_than_64_kib_is_damage_and_read_no_further(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fitting = b'{"a":"%s"}' % (b"a" * (65536 - 16 - 2 - 8))
    path.write_bytes(forged([fitting]))
    assert len(Journal(path).records) == 1
    path.write_bytes(forged([fitting.replace(b"a", b"aa", 1)]))
    with pytest.raises(DamagedJournalError, match="line 2"):
        Journal(path)
    path.write_bytes(forged([]))
    for size in (2**16 + 1, 2**36):  # holes that take no space, read as zeros
        os.truncate(path, 18 + size)
        with pytest.raises(DamagedJournalError, match="line 2"):
            Journal(path)


def test_what_json_cannot_say_or_is_too_long_is_refused_and_nothing_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with Journal(path) as journal:
        with pytest.raises(ValueError, match="JSON"):
            journal.append({"loss": float("nan")})
        with pytest.raises(ValueError, match=r"too long for .*log: at most 65536"):
            journal.append({"a": "b" * 65536})
        journal.append({"a": 1})
    assert Journal(path).records == [{"a": 1}]


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log")
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="is closed"):
        journal.append({})


def test_a_journal_that_cannot_be_opened_is_named_and_leaks_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Journal(tmp_path / "missing" / "log")
    assert str(caught.value.filename) == str(tmp_path / "missing" / "log")
    (tmp_path / "log").write_bytes(b"damaged")
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(DamagedJournalError):
            Journal(tmp_path / "log")
    assert len(os.listdir("/dev/fd")) == before


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A journal after one to three accidents."""
    body = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        lines = bytes(body).splitlines(keepends=True) or [b""]
        at = draw(st.integers(0, max(len(body) - 1, 0)))
        line, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match draw(st.sampled_from(["flip", "truncate", "delete", "swap", "zero", "insert"])):
            case "flip" if body:
                body[at] ^= 1 << draw(st.integers(0, 7))
            case "truncate":
                del body[at:]
            case "zero":
                body[at : at + 9] = bytes(len(body[at : at + 9]))
            case "insert":
                body[at:at] = draw(st.binary(min_size=1, max_size=40))
            case "delete":
                body = bytearray(b"".join(lines[:line] + lines[line + 1 :]))
            case _:
                lines[line], lines[other] = lines[other], lines[line]
                body = bytearray(b"".join(lines))
    return bytes(body)


@pytest.mark.slow
def test_a_damaged_journal_is_a_prefix_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    whole = written(path)
    ends = [len(b"".join(whole.splitlines(keepends=True)[: k + 1])) for k in range(9)]
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of them; none is asked for here
    kinds = set()

    @settings(max_examples=800)
    @given(damaged(whole))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            journal = Journal(path)
        except DamagedJournalError:
            kinds.add("damaged")
            return
        with journal:
            found = len(journal.records)
            assert journal.records == RECORDS[:found]
            if journal.dropped is None:
                assert whole[: ends[found]] == content or found == 0
            kinds.add("whole" if journal.dropped is None else "torn")
            journal.append({"more": 1})
        assert Journal(path).records == [*RECORDS[:found], {"more": 1}]

    check()
    assert kinds == {"damaged", "torn", "whole"}
