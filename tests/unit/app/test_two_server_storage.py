"""Invariant: wherever a server of two-server dies, it finds the last state that it stored, or the
one that it was storing; what no crash leaves behind is refused.
"""

import itertools
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.runtime.disk_faults import WRITES, half, hooked

from ostraka.app.errors import UserError
from ostraka.app.folder import Folder
from ostraka.app.parties.two_server_storage import Store0, Store1
from ostraka.drivers.journal import Journal
from ostraka.trust.two_server import Committed, Lost, Prepared, State0, State1

D = 40
START = np.full(D, 0.5, np.float32)
NAMES = ("a", "b")


class Died(BaseException):
    """The process is gone: nothing that it would have cleaned up is cleaned up."""


class Death:
    """At the k-th call, before it, after it or half-way through a write, the process dies."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.count = at, how, 0

    def __call__(self, name: str, call: Any, args: Any, named: Any) -> Any:
        if name == "close":  # the system closes the files of the dead
            return call(*args, **named)
        self.count += 1
        if self.count > self.at:
            raise Died
        if self.count < self.at:
            return call(*args, **named)
        if self.how == "after":
            call(*args, **named)
        if self.how == "half" and name in WRITES:
            call(*half(args), **named)
        raise Died


def store_0(path: Path) -> Store0:
    folder = Folder(path)
    journal = Journal(folder.journal)
    start, _ = folder.checkpoints.load()
    return Store0(folder, journal, start, START, dict)


def store_1(path: Path) -> Store1:
    folder = Folder(path)
    journal = Journal(folder.journal)
    start, _ = folder.checkpoints.load()
    return Store1(folder, journal, start, START)


def vector(seed: int, dtype: Any) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 50, D).astype(dtype)


def prepared(round: int, attempt: int) -> Prepared:
    told = {"refused": {"c": ["norm", ""]}, "missing": [], "capped": False}
    values = np.array([1, attempt])
    return Prepared(attempt, NAMES, values, 0, vector(10 * round + attempt, np.uint64), told)


def states_0() -> list[State0]:
    """Two rounds: the first with a first attempt that server 1 did not commit to."""
    state = State0.initial(START)
    story = []
    for round in range(2):
        for attempt in range(1, 3 - round):
            state = replace(state, attempt=attempt, prepared=None)
            story.append(state)
            state = replace(state, opened=attempt)
            story.append(state)
            state = replace(state, prepared=prepared(round, attempt))
            story.append(state)
        story.append(replace(state, received=True))
        model, previous = vector(round, np.float32), vector(round, np.float64)
        state = State0(round + 1, 0, 0, model, previous, vector(round, np.int64))
        story.append(state)
    return story


def passed_over_0() -> list[State0]:
    """Its last round is tried twice and passed over; another one begins."""
    tried = replace(states_0()[-1], attempt=2)
    over = replace(tried, round=tried.round + 1, attempt=0, passed_over=True)
    return [*states_0(), tried, over, replace(over, attempt=1)]


def states_1() -> list[State1]:
    state = State1.initial(START)
    story = []
    for round in range(3):
        state = replace(state, boot=state.boot + 1)
        story.append(state)
        words = vector(100 + round, np.uint64)
        record = Committed(round, 1 + round, NAMES, np.array([1, round]), 2, words)
        state = replace(state, committed=record)
        story.append(state)
        model, previous = vector(round, np.float32), vector(round, np.float64)
        state = State1(state.boot, round + 1, model, previous, record)
        story.append(state)
    return story


def passed_over_1() -> list[State1]:
    begun = replace(states_1()[-1], boot=9)
    return [*states_1(), begun, replace(begun, round=begun.round + 1)]


def alike(a: Any, b: Any) -> bool:
    """Equal in every field, arrays in dtype and bits."""
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and np.array_equal(a, b))
    if isinstance(a, State0 | State1 | Prepared | Committed | Lost):
        pairs = ((getattr(a, f.name), getattr(b, f.name, None)) for f in fields(a))
        return type(a) is type(b) and all(alike(x, y) for x, y in pairs)
    return bool(a == b)


def acknowledged(path: Path, opened: Callable[[Path], Any], rest: Sequence[Any]) -> set[int]:
    """Live on to the end, and begin once more: the rounds that the journal has models of."""
    store = opened(path)
    for state in rest:
        store.save(state)
    store = opened(path)
    store.save(store.last)
    return {r["round"] for r in Journal(path / "journal").records if "model" in r}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["before", "after", "half"])
@pytest.mark.parametrize(
    ("opened", "story"),
    [(store_0, passed_over_0()), (store_1, passed_over_1())],
    ids=["server-0", "server-1"],
)
def test_a_death_at_every_call_leaves_the_last_state(
    tmp_path: Path, opened: Callable[[Path], Any], story: Sequence[Any], how: str
) -> None:
    deaths, rounds = 0, set(range(1, story[-1].round + 1))
    for at in itertools.count(1):
        path = tmp_path / str(at)
        path.mkdir()
        stored = -1
        death = Death(at, how)
        with suppress(Died), hooked(death):
            store = opened(path)
            for state in story:
                store.save(state)
                stored += 1
        found = opened(path).last
        initial = type(story[0]).initial(START)
        expected = [initial, *story][stored + 1 : stored + 3]
        assert any(alike(found, state) for state in expected), (at, stored, found)
        rest = story[stored + 1 + (not alike(found, expected[0])) :]
        assert acknowledged(path, opened, rest) == rounds
        shutil.rmtree(path)
        if death.count < at:
            break
        deaths += 1
    assert stored == len(story) - 1
    assert deaths > 5 * len(story), "every state takes several calls"


def lived(path: Path, opened: Callable[[Path], Any], story: Sequence[Any]) -> Any:
    path.mkdir()
    store = opened(path)
    for state in story:
        store.save(state)
    return opened(path).last


def tear(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def test_a_process_goes_on_from_what_another_stored(tmp_path: Path) -> None:
    story = states_0()
    for count in range(1, len(story) + 1):
        assert alike(lived(tmp_path / str(count), store_0, story[:count]), story[count - 1])
    story = states_1()
    for count in range(1, len(story) + 1):
        found = lived(tmp_path / f"s{count}", store_1, story[:count])
        assert alike(found, story[count - 1])


def test_an_attempt_alone_writes_no_model(tmp_path: Path) -> None:
    store = store_0(tmp_path)
    store.save(replace(State0.initial(START), attempt=1))
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "prepared").exists()


def test_records_of_shares_can_be_read_by_their_owner_alone(tmp_path: Path) -> None:
    lived(tmp_path / "0", store_0, states_0()[:3])
    lived(tmp_path / "1", store_1, states_1()[:2])
    for path in (*(tmp_path / "0" / "prepared").iterdir(), *(tmp_path / "1/committed").iterdir()):
        assert path.stat().st_mode & 0o077 == 0


def without_newest(path: Path, story: Sequence[State0]) -> State0:
    """Live this story, then damage the newest model; gives what is found."""
    lived(path, store_0, story)
    tear(sorted((path / "checkpoints").iterdir())[-1])
    return store_0(path).last


def lacking(story: Sequence[State0], part: Prepared | None) -> State0:
    """The last state, but for its model: that is of the last state of the round before."""
    last = story[-1]
    older = next(s for s in reversed(story) if s.round == last.round - 1)
    lost = Lost(last.model_hash, part)
    return replace(last, model=older.model, previous=older.previous, words=older.words, lost=lost)


@pytest.mark.parametrize("more", [0, 1, 3])
def test_server_0_without_its_newest_model_knows_what_it_lacks(tmp_path: Path, more: int) -> None:
    """With its part of the sum that led there, unless a later one has taken that record's place."""
    begun = replace(states_0()[-1], attempt=1)
    later = [begun, replace(begun, opened=1), replace(begun, opened=1, prepared=prepared(2, 1))]
    story = [*states_0(), *later[:more]]
    found = without_newest(tmp_path / "x", story)
    assert alike(found, lacking(story, prepared(1, 1) if more < 3 else None))
    assert (found.round, found.model_round) == (2, 1)
    assert any("of round 2, is damaged" in note for note in store_0(tmp_path / "x").notes)


def test_a_round_that_was_passed_over_is_found_again_without_help(tmp_path: Path) -> None:
    story = passed_over_0()
    assert alike(without_newest(tmp_path / "x", story), story[-1])


def test_server_0_without_its_two_newest_models_refuses(tmp_path: Path) -> None:
    lived(tmp_path / "x", store_0, states_0())
    for path in (tmp_path / "x" / "checkpoints").iterdir():
        tear(path)
    with pytest.raises(UserError, match="ends at round 2, but of the checkpoints") as refusal:
        store_0(tmp_path / "x")
    assert refusal.value.code == 74
    assert "is none" in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["before", "after", "half"])
def test_a_death_at_every_call_while_a_model_is_given_back(tmp_path: Path, how: str) -> None:
    """It is lacking, or it is there again; never another one, and the round is told once."""
    story = states_0()
    lost = replace(lacking(story, prepared(1, 1)), attempt=1)
    back = replace(story[-1], attempt=1)
    life = [lost, back, replace(back, attempt=2)]
    for at in itertools.count(1):
        path = tmp_path / str(at)
        without_newest(path, story)
        stored = -1
        death = Death(at, how)
        with suppress(Died), hooked(death):
            store = store_0(path)
            for state in life:
                store.save(state)
                stored += 1
        found = store_0(path).last
        expected = [replace(lost, attempt=0), *life][stored + 1 : stored + 3]
        assert any(alike(found, state) for state in expected), (at, stored, found)
        rest = life[stored + 1 + (not alike(found, expected[0])) :]
        assert acknowledged(path, store_0, rest) == {1, 2}
        shutil.rmtree(path)
        if death.count < at:
            break
    assert stored == len(life) - 1
    assert at > 3 * len(life)


def test_server_0_without_its_part_of_a_sum_refuses(tmp_path: Path) -> None:
    lived(tmp_path / "x", store_0, states_0()[:3])
    tear(next((tmp_path / "x" / "prepared").iterdir()))
    with pytest.raises(
        UserError, match="does not hold the record of round 0, attempt 1"
    ) as refusal:
        store_0(tmp_path / "x")
    assert refusal.value.code == 74


def test_server_1_goes_back_one_round_and_no_further(tmp_path: Path) -> None:
    story = states_1()
    lived(tmp_path / "x", store_1, story)
    files = sorted((tmp_path / "x" / "checkpoints").iterdir())
    tear(files[-1])
    store = store_1(tmp_path / "x")
    found, last = store.last, story[-1]
    assert (found.round, found.boot) == (2, last.boot)
    assert alike(found.committed, last.committed), "server 0 can bring it to the newest round"
    assert store.seen == 3
    tear(files[-2])
    with pytest.raises(UserError, match="newest sound one is none") as refusal:
        store_1(tmp_path / "x")
    assert refusal.value.code == 74


def test_server_1_never_forgets_a_commit_point(tmp_path: Path) -> None:
    """With the older record alone it would open a second sum of the round."""
    lived(tmp_path / "x", store_1, states_1()[:5])
    tear(sorted((tmp_path / "x" / "committed").iterdir())[-1])
    with pytest.raises(UserError, match="no second sum of a round is ever opened") as refusal:
        store_1(tmp_path / "x")
    assert refusal.value.code == 74


@pytest.mark.parametrize(
    ("opened", "story"),
    [(store_0, states_0()), (store_1, states_1())],
    ids=["server-0", "server-1"],
)
def test_an_old_journal_beside_new_checkpoints_is_refused(
    tmp_path: Path, opened: Callable[[Path], Any], story: Sequence[Any]
) -> None:
    path = tmp_path / "x"
    lived(path, opened, story[:1])
    old = (path / "journal").read_bytes()
    store = opened(path)
    for state in story[1:]:
        store.save(state)
    (path / "journal").write_bytes(old)
    with pytest.raises(UserError, match=r"the journal is an old copy|record of round") as refusal:
        opened(path)
    assert refusal.value.code == 74
