"""Whatever legal rounds are asked, with restarts anywhere: each answer is that of a straight run.

A straight run trains, once each and in order, the rounds that the asker has gone through.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ostraka.drivers.checkpoint import Checkpoints
from ostraka.learn.app import App, Examples
from ostraka.learn.settings import Privacy, Training
from ostraka.learn.vectors import FlatModel
from ostraka.learn.worker import Trainer

UNDO = 2
ROUNDS = 12


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.2), nn.Linear(3, 2))


def examples():
    g = torch.Generator().manual_seed(0)
    return Examples(torch.randn(9, 4, generator=g), torch.randint(0, 2, (9,), generator=g))


APP, DATA = App(mlp, lambda site: None), examples()
SHARED = FlatModel(mlp())
THETA = SHARED.vector()


def trainer(momentum=0.9, undo=UNDO, privacy=None, data=DATA):
    training = Training(batch_size=4, momentum=momentum)
    return Trainer(APP, data, training, privacy, 3, 1, SHARED, undo=undo)


def theta(round, variant=0):
    return THETA + np.float32(0.01 * round + variant)


def straight(rounds, **kinds):
    """The last answer of a run through these (round, variant), each asked once, in order."""
    party = trainer(**kinds)
    return [party.update(r, theta(r, v)) for r, v in rounds][-1]


def through_a_file(history, folder):
    """As a party stores and finds it."""
    Checkpoints(folder).save(0, {f"own/{k}": v for k, v in history.items()}, {})
    found, passed = Checkpoints(folder).load()
    assert not passed
    return {k.removeprefix("own/"): v for k, v in found.arrays.items()}


ASK = st.tuples(st.integers(-3, 3), st.integers(0, 1), st.booleans())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(ASK, max_size=14), st.sampled_from([0.0, 0.9]), st.booleans())
def test_any_sequence_of_asks_and_restarts(tmp_path_factory, asks, momentum, private):
    kinds = {"momentum": momentum, "privacy": Privacy("participant", 1.0, 1.0, 1e-5)}
    kinds = kinds if private else {"momentum": momentum}
    folder = tmp_path_factory.mktemp("state")
    party, kept, path = trainer(**kinds), [-1], []
    for offset, variant, restart in asks:
        if restart:
            stored = through_a_file(party.history(), folder)
            party = trainer(**kinds)
            party.restore_history(stored)
        round = kept[0] + offset
        if round <= kept[-1]:
            with pytest.raises(ValueError, match="is over"):
                party.update(round, theta(round, variant))
            continue
        path = [(r, v) for r, v in path if r < round] + [(round, variant)]
        kept = [round, *(r for r in kept if r < round)][: UNDO + 1]
        assert np.array_equal(party.update(round, theta(round, variant)), straight(path, **kinds))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_server_that_fell_back_is_answered_by_a_party_that_restarted(momentum):
    party = trainer(momentum)
    sent = [party.update(r, theta(r)) for r in range(5)]
    for asked in ([4, 5], [5], [3, 4, 5]):
        again = trainer(momentum)
        again.restore_history(party.history())
        for round in asked:
            want = (
                sent[round]
                if round < 5
                else straight([(r, 0) for r in range(6)], momentum=momentum)
            )
            assert np.array_equal(again.update(round, theta(round)), want)
    assert np.array_equal(party.update(3, theta(3)), sent[3])
    with pytest.raises(ValueError, match=r"round 2 is over \(the last one was 3\)"):
        party.update(2, theta(2))


def test_rounds_after_one_that_is_asked_again_are_forgotten():
    party = trainer()
    for r in range(5):
        party.update(r, theta(r))
    party.update(3, theta(3, 1))
    assert party.history()["rounds"].tolist() == [3, 2]
    want = straight([(0, 0), (1, 0), (2, 0), (3, 1), (4, 0)])
    assert np.array_equal(party.update(4, theta(4)), want)
    assert not np.array_equal(straight([(r, 0) for r in range(5)]), want)


def test_peeks_leave_the_answers():
    party = trainer()
    sent = [party.update(r, theta(r)) for r in range(5)]
    history = party.history()
    for round in (3, 4, 3, 5, 4):
        party.peek(round, theta(round, 1))
    for name, value in party.history().items():
        assert np.array_equal(value, history[name])
    assert np.array_equal(party.peek(4, theta(4)), sent[4])
    assert np.array_equal(party.update(4, theta(4)), sent[4])
    want = straight([(r, 0) for r in range(6)])
    assert np.array_equal(party.update(5, theta(5)), want)


def test_a_peek_ahead_takes_the_oldest_generations_place():
    party = trainer()
    sent = [party.update(r, theta(r)) for r in range(5)]
    party.peek(9, theta(9))
    assert party.history()["rounds"].tolist() == [4, 3]
    with pytest.raises(ValueError, match="round 3 is over"):
        party.update(3, theta(3))
    assert np.array_equal(party.update(4, theta(4)), sent[4])


def test_an_app_that_fails_leaves_the_last_round_and_the_next():
    party = trainer()
    sent = [party.update(r, theta(r)) for r in range(3)]
    good = party._app
    party._app = App(mlp, lambda site: None, loss=lambda out, y: 1 // 0)
    for round in (1, 3, 2):
        with pytest.raises(ZeroDivisionError):
            party.update(round, theta(round, 1))
    party._app = good
    assert np.array_equal(party.update(2, theta(2)), sent[2])
    assert np.array_equal(party.update(3, theta(3)), straight([(r, 0) for r in range(4)]))


def test_a_history_is_a_copy_and_no_longer_than_needed():
    party = trainer()
    assert party.history()["rounds"].tolist() == [-1]
    for r in range(6):
        party.update(r, theta(r))
    history = party.history()
    assert history["rounds"].tolist() == [5, 4, 3]
    assert history["momenta"].shape == (3, SHARED.parameters)
    assert history["momenta"].dtype == np.float32
    short = trainer(undo=1)
    short.restore_history(history)
    history["momenta"][:] = np.nan
    assert short.history()["rounds"].tolist() == [5, 4]
    assert np.isfinite(short.update(6, theta(6))).all()
    assert np.isfinite(party.update(6, theta(6))).all()


def test_without_momentum_nothing_is_stored_and_older_states_are_read():
    party = trainer(momentum=0.0)
    for r in range(3):
        sent = party.update(r, theta(r))
    assert party.history()["momenta"].shape == (3, 0)
    assert party.state()["momentum"].shape == (0,)
    old = {"momentum": np.ones(SHARED.parameters, np.float32), "round": np.array(1)}
    again = trainer(momentum=0.0)
    again.restore(old)
    assert np.array_equal(again.update(2, theta(2)), sent)


def test_without_momentum_a_round_does_not_rest_on_the_ones_before():
    """Not even on an infinite one."""
    party, fresh = trainer(momentum=0.0), trainer(momentum=0.0)
    assert not np.isfinite(party.update(0, THETA * np.float32(1e38))).all()
    assert np.array_equal(party.update(1, THETA), fresh.update(1, THETA))


def good_history():
    return {
        "rounds": np.array([4, 2], np.int64),
        "momenta": np.zeros((2, SHARED.parameters), np.float32),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": np.array([4, 4])}, "falling rounds"),
        ({"rounds": np.array([2, 4])}, "falling rounds"),
        ({"rounds": np.array([4, -2])}, "falling rounds"),
        ({"rounds": np.array([4])}, "falling rounds"),
        ({"rounds": np.array([4.0, 2.0])}, "falling rounds"),
        ({"rounds": np.array(4)}, "falling rounds"),
        ({"rounds": np.zeros(0, np.int64), "momenta": np.zeros((0, 3))}, "falling rounds"),
        ({"momenta": np.zeros(())}, "falling rounds"),
        ({"momenta": np.zeros((2, 3), np.float32)}, "expected a momentum"),
        ({"momenta": np.zeros((2, 0), np.float32)}, "expected a momentum"),
        ({"momenta": np.zeros((2, SHARED.parameters))}, "expected a momentum"),
    ],
)
def test_what_is_no_history_is_refused_and_changes_nothing(change, said):
    party = trainer()
    sent = party.update(0, theta(0))
    with pytest.raises(ValueError, match=said):
        party.restore_history(good_history() | change)
    with pytest.raises(ValueError, match="rounds and momenta, got momenta"):
        party.restore_history({"momenta": good_history()["momenta"]})
    assert party.history()["rounds"].tolist() == [0, -1]
    assert np.array_equal(party.update(0, theta(0)), sent)
    party.restore_history(good_history())
    assert party.history()["rounds"].tolist() == [4, 2]


def test_a_servers_checkpoint_in_the_middle_of_a_round():
    """state(before): as the round found it, also when its answer or a later peek is there."""
    party = trainer(undo=1)
    for r in range(3):
        party.update(r, theta(r))
    middle = party.state(before=2)
    assert middle["round"] == 1
    assert party.state(before=3)["round"] == 2
    again = trainer(undo=1)
    again.restore(middle)
    assert np.array_equal(again.update(2, theta(2)), party.update(2, theta(2)))
    with pytest.raises(ValueError, match="round 1 is over"):
        party.state(before=1)
    party.peek(3, theta(3))
    with pytest.raises(ValueError, match="round 2 is over"):
        party.state(before=2)
    assert party.state(before=3)["round"] == 2


def test_at_least_one_round_can_be_undone():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        trainer(undo=0)
