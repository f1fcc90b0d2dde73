"""A worker of `two_server`: trains on a model that both servers state, uploads in parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ostraka.algebra.fixed import norm, unusable
from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign
from ostraka.net import Abort, Net, Trace
from ostraka.protocols import turns
from ostraka.protocols.public_model import model_hash, next_shown
from ostraka.protocols.upload import make_parts
from ostraka.trust.public_step import Vector
from ostraka.trust.two_server.plan import Plan

Train = Callable[[int, Vector], npt.NDArray[np.floating]]
Admit = Callable[[turns.Turn, Vector], bool]
Encode = Callable[[Plan, npt.NDArray[np.floating]], Ring]


def encoded(plan: Plan, update: npt.NDArray[np.floating]) -> Ring:
    """An update as the servers take it, cut to the bound; what is no update is sure to be refused.

    Not finite or longer than ``max_norm``, it is refused in every trust model.
    """
    if plan.fixed.bound <= plan.max_norm:
        words = plan.fixed.encode_short(update)
        if words is not None:
            return words
    size = norm(update)
    if not size <= plan.max_norm:
        return unusable(plan.fixed.d)
    return plan.fixed.encode(update, size)


async def worker(
    net: Net,
    plan: Plan,
    train: Train,
    *,
    own: Key,
    sign: Sign,
    admit: Admit = lambda turn, model: True,
    encode: Encode = encoded,
    trace: Trace,
) -> Vector:
    """A worker's whole life: answer every turn until the final model, which it returns.

    ``train(round, model)`` gives the update; asked the same twice, when a server restarted, it must
    answer the same. ``own`` is secret and fresh in every process: no seed is used twice. ``admit``
    may refuse to answer; ``encode`` makes words of an update. A model that the servers do not agree
    on, or another than the plan's at the start, is never trained on.
    """
    shown = None
    while True:
        shown = await next_shown(net, plan.server_0, plan.server_1, shown, plan.fixed.d)
        model, agreed = shown.model, shown.agreed
        turn = (shown.turn[0], shown.turn[1])
        if turn[0] == 0 and plan.initial not in (None, model_hash(model.vector)):
            agreed = False
        if not agreed:
            if model.final:
                raise Abort(
                    f"{plan.server_0} ends the run with another model than {plan.server_1} states"
                )
            trace(
                "ignored",
                round=turn[0],
                party=plan.server_0,
                reason="inconsistent",
                detail=f"not the model that {plan.server_1} states, or that all began with",
            )
        elif model.final:
            return np.array(model.vector)
        elif turn[0] >= plan.rounds:
            raise Abort(f"the servers open round {turn[0]} of {plan.rounds}")
        elif admit(turn, model.vector):
            # No name for the words: they must not stay in memory until the next turn.
            _upload(net, plan, turn, encode(plan, train(turn[0], model.vector)), own, sign)


def _upload(net: Net, plan: Plan, turn: turns.Turn, words: Ring, own: Key, sign: Sign) -> None:
    seed_part, share_part = make_parts(
        plan.context(turn), net.me, words, own.derive("turn", *turn), sign
    )
    scope = turns.at(net, turn)
    scope.broadcast((plan.server_0, plan.dealer), seed_part)
    scope.send(plan.server_1, share_part)
