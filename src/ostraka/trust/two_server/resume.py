"""Server 0 after a restart: what it and server 1 have stored fits together, or nothing is opened.

Exactly one sum of a round is ever opened. So server 0 goes on with a round that server 1 has
committed to only from its own part of that sum, notices a server 1 that has forgotten its commit
point, and computes a model that was damaged on disk again from what was opened, never anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ops import Float
from ostraka.net import Abort, Net
from ostraka.protocols import turns
from ostraka.protocols.last_aggregate import take_last
from ostraka.protocols.opening import open_sum_0
from ostraka.protocols.public_model import model_hash
from ostraka.trust.public_step import step
from ostraka.trust.two_server.decide import aggregate_of, settled
from ostraka.trust.two_server.plan import Lost, Plan, Prepared, State0

Words = npt.NDArray[np.int64]


def refuse_old_copy(plan: Plan, state: State0, ready: turns.Ready) -> None:
    """Abort when server 1 has forgotten a commit point whose words have come here.

    Another attempt would open a second sum of this round.
    """
    if state.received and state.prepared is not None and ready.status != turns.COMMITTED:
        raise Abort(
            f"{plan.server_1} does not know that it has committed to attempt "
            f"{state.prepared.attempt} of round {state.round}, though its part of that sum has "
            "come here: its state is an old copy; restore the newest one"
        )


def committed(plan: Plan, state: State0, attempt: int) -> Prepared:
    """This server's part of the sum that server 1 has committed to; Abort where it is not there."""
    kept = state.prepared
    if kept is None or kept.attempt != attempt:
        raise Abort(
            f"{plan.server_1} has committed to attempt {attempt} of round {state.round}, of which "
            "nothing is stored here: this state is an old copy"
        )
    return kept


def words_for_server_1(plan: Plan, state: State0) -> Words:
    """The words of the last aggregate, int64 (d,). Abort when it was itself given back here."""
    if not state.words.size:
        raise Abort(
            f"{plan.server_1} lacks the last aggregate, and here it was given back without the "
            "words that it follows from: restore the newest state of one of the two"
        )
    return state.words


async def opened(
    net: Net, plan: Plan, state: State0, record: Prepared, received: Callable[[], None]
) -> tuple[Float, Words]:
    """The aggregate float64 (d,) of a committed sum and its words; ``received`` is called between.

    ``state`` is that in which the sum was begun.
    """
    total = await open_sum_0(net, plan.server_1, record.own, timeout_s=plan.patience_s)
    received()
    words = settled(plan, total, record.count)
    aggregate = aggregate_of(
        plan, words, record.values, record.count, state.previous, plan.server_1
    )
    return aggregate, words


async def restored(net: Net, plan: Plan, state: State0, lost: Lost, ready: turns.Ready) -> State0:
    """The state with this round's model, from what server 1 has of the round before.

    That is the outcome, or its part of the sum that was opened; no attempt of that round is made.
    Abort unless it leads to the very model that was stored.
    """
    words = np.zeros(0, np.int64)
    if ready.status == turns.BEHIND:
        record = lost.prepared
        if record is None or record.attempt != ready.attempt:
            raise Abort(
                f"the newest model is damaged here, and {plan.server_1} lacks it too: restore "
                "the newest state of one of the two, or begin a run of another name"
            )
        aggregate, words = await opened(net, plan, state, record, lambda: None)
    else:
        aggregate = await take_last(net, plan.server_1, plan.fixed.d, timeout_s=plan.patience_s)
    model = step(state.model, aggregate, plan.rate(state.model_round))
    if model_hash(model) != lost.model:
        raise Abort(
            f"what {plan.server_1} gives does not lead to the model that was stored here for "
            f"round {state.round}: one of the two states is an old copy; restore the newest one"
        )
    return replace(state, model=model, previous=aggregate, words=words, lost=None)
