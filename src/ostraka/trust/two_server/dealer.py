"""The dealer of `two_server`: gets 32-byte seeds, deals randomness, learns who is there."""

from __future__ import annotations

from ostraka.crypto.prg import Key
from ostraka.net import Net
from ostraka.protocols import turns
from ostraka.protocols.compare import deal, triples_needed
from ostraka.protocols.gram_sharing import gram_dealer
from ostraka.protocols.upload import agree, collect_seeds
from ostraka.protocols.wrap_check import wrap_triples
from ostraka.sharing.additive import Map, Masks
from ostraka.trust.two_server.plan import Plan
from ostraka.trust.two_server.server_1 import LAST_ATTEMPT, gram_mask


async def dealer(net: Net, plan: Plan, boot: int, *, own: Key, map: Map = map) -> None:
    """The dealer's whole life. It keeps nothing; ``boot`` must rise with every process.

    ``own`` is secret and fresh in every process. Raises Timeout when a server is gone. ``map``
    spreads the arithmetic.
    """
    turns.say_boot(net, plan.server_0, turns.OF_DEALER, boot)
    turn, opening = await turns.next_turn(net, plan.server_0, turns.BEFORE_ALL)
    while not opening.final:
        ended, value = await net.race(
            _attempt(net, plan, turn, boot, own, map), turns.next_turn(net, plan.server_0, turn)
        )
        turn, opening = value if ended else await turns.next_turn(net, plan.server_0, turn)


async def _attempt(net: Net, plan: Plan, turn: turns.Turn, boot: int, own: Key, map: Map) -> None:
    """One attempt: a key with each server, the seeds, who takes part, then everything dealt."""
    net.window(turns.PATH, turn, (turn[0] + 1, LAST_ATTEMPT))
    net = turns.at(net, turn)
    fresh = own.derive("turn", *turn)
    nonce = turns.nonce_of(fresh)
    net.send(plan.server_0, turns.Ready(turns.FRESH, 0, boot, nonce))
    run = await turns.await_go(net, plan.server_0, nonce, dealer=True, timeout_s=plan.patience_s)
    if run is None:
        return
    key_0 = await turns.pair_key(run, plan.server_0, fresh, timeout_s=plan.patience_s)
    key_1 = await turns.pair_key(run, plan.server_1, fresh, timeout_s=plan.patience_s)

    context = plan.context(turn)
    held = await collect_seeds(net, context, timeout_s=plan.deadline_s)
    roster = await agree(
        run, plan.server_1, context, held, timeout_s=plan.deadline_s + plan.patience_s
    )
    n = len(roster.active)
    if not n:
        return

    for use, count in (
        ("wrap", wrap_triples(n, plan.projections)),
        ("norm", triples_needed(n, 2)),
    ):
        name = f"{use} triples"
        deal(run.sub(use), plan.server_1, key_0.derive(name), key_1.derive(name), count)
    seeds = [context.mask(w, held.parts[w].seed) for w in roster.active]
    masks = Masks(seeds, plan.fixed.d, map)
    gram_dealer(
        run.sub("gram"),
        plan.server_1,
        masks,
        gram_mask(key_1, roster.active, plan.fixed.d, map),
        key_0.derive("gram blinding"),
        plan.image.full,
    )
