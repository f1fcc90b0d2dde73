"""A worker answers the rounds of its plan, each under its own label, and no others."""

from typing import Any

import numpy as np
import pytest

from ostraka.drivers.sim import Simulation
from ostraka.net import Abort, Net, Timeout
from ostraka.protocols.central_round import Model, Update
from ostraka.trust.trusted import worker
from tests.protocols.test_trusted import D, plan

ROUNDS = 4


def outcomes(label: int, said: int) -> tuple[Any, Any, list[int]]:
    """A server shows a model of round ``said`` as that of round ``label``: how both end."""
    trained: list[int] = []

    async def cheat(net: Net) -> Any:
        scope = net.sub("epoch", 1).sub("round", label)
        scope.send("w0", Model(said, False, np.ones(D, np.float32)))
        return await scope.recv(Update.form(d=D), "w0", timeout_s=5.0)

    def train(round: int, model: np.ndarray) -> np.ndarray:
        trained.append(round)
        return model

    honest = plan(workers=("w0",), rounds=ROUNDS)
    simulation = Simulation({"s": cheat, "w0": lambda net: worker(net, honest, train, D)}, seed=1)
    ended = simulation.run(until_s=100.0)
    return ended["s"], ended["w0"], trained


@pytest.mark.parametrize(
    ("label", "said"),
    [(ROUNDS, ROUNDS), (ROUNDS + 1, ROUNDS + 1), (2**31, 2**31), (1, 0), (1, 2), (0, ROUNDS)],
)
def test_a_round_beyond_the_last_or_under_another_label_is_not_answered(
    label: int, said: int
) -> None:
    server, own, trained = outcomes(label, said)
    assert trained == []
    assert own.status == "failed"
    assert isinstance(own.error, Abort)
    assert f"s sent a model of round {said} as round {label}" in str(own.error)
    assert isinstance(server.error, Timeout), "nothing of the worker's data came"


@pytest.mark.parametrize("round", [0, ROUNDS - 1])
def test_every_round_of_the_plan_is_answered(round: int) -> None:
    server, own, trained = outcomes(round, round)
    assert trained == [round]
    assert server.result.round == round
    assert own.status != "failed"
