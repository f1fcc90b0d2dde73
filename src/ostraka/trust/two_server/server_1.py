"""Server 1 of `two_server`: holds the shares, runs the rule on the small matrix, commits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.net import Abort, Net, Trace
from ostraka.protocols import turns
from ostraka.protocols.compare import triples_1, triples_needed
from ostraka.protocols.gram_sharing import gram_1
from ostraka.protocols.last_aggregate import give_last
from ostraka.protocols.linear_image import open_image
from ostraka.protocols.norm_check import no_longer
from ostraka.protocols.opening import Words, commit_1, refuse_1, take_aggregate_1
from ostraka.protocols.public_model import model_hash, show_digest
from ostraka.protocols.upload import Collected, SharePart, agree_1, collect_shares
from ostraka.protocols.wrap_check import within_reach, wrap_triples
from ostraka.rules.gram import Geometry
from ostraka.sharing.additive import Map, Masks, Shares, products_with
from ostraka.trust.public_step import step
from ostraka.trust.two_server.decide import (
    ENDINGS,
    PublicRow,
    RoundEndsError,
    Standing,
    aggregate_of,
    decide,
    dither_bits,
    geometry_of,
)
from ostraka.trust.two_server.plan import Committed, Plan, State1


async def server_1(
    net: Net,
    plan: Plan,
    state: State1,
    *,
    own: Key,
    commit: Callable[[State1], None],
    trace: Trace,
    map: Map = map,
) -> State1:
    """Server 1's whole life: follow server 0 through attempts and rounds to the final model.

    ``own`` is secret and fresh in every process. ``commit`` makes a state durable before it
    returns. Raises Timeout when an operator is gone, Abort when a round's bound fails or server 0
    holds another model. ``map`` spreads the arithmetic.
    """
    server = _Server(net, plan, state, own, commit, trace, map)
    server.keep(replace(state, boot=state.boot + 1))
    turns.say_boot(net, plan.server_0, turns.OF_SERVER_1, server.state.boot)
    turn, opening = await turns.next_turn(net, plan.server_0, turns.BEFORE_ALL)
    while True:
        ended, value = await net.race(
            server.attempt(turn, opening), turns.next_turn(net, plan.server_0, turn)
        )
        if ended == 0 and value:
            return server.state
        turn, opening = value if ended else await turns.next_turn(net, plan.server_0, turn)


LAST_ATTEMPT = (1 << 64) - 1


@dataclass
class _Server:
    """One process of server 1: what it keeps, and the steps of an attempt."""

    net: Net
    plan: Plan
    state: State1
    own: Key
    commit: Callable[[State1], None]
    trace: Trace
    map: Map

    def keep(self, state: State1) -> None:
        """Store a state, then go on from it."""
        self.commit(state)
        self.state = state

    async def attempt(self, turn: turns.Turn, opening: turns.Open) -> bool:
        """One attempt as server 0 has opened it; True when all rounds are over."""
        net, plan = turns.at(self.net, turn), self.plan
        self.net.window(turns.PATH, turn, (turn[0] + 1, LAST_ATTEMPT))
        self.follow(turn[0], opening)
        status, record = self.standing_at(turn[0])
        attempt = 0 if record is None else record.attempt
        fresh = self.own.derive("turn", *turn)
        nonce = turns.nonce_of(fresh)
        net.send(plan.server_0, turns.Ready(status, attempt, self.state.boot, nonce))
        if opening.lacking:
            self.give_back(net.sub(turns.RESTORE), status, record)
        if record is not None and status == turns.COMMITTED:
            net.sub(turns.FINISH).send(plan.server_0, Words(record.words))
            await self.finish(net.sub(turns.FINISH), record)
            return False
        if record is not None:
            await self.finish(net.sub(turns.CATCH_UP), record)
            caught_up = turns.Ready(turns.FRESH, 0, self.state.boot, nonce)
            net.sub(turns.CATCH_UP).send(plan.server_0, caught_up)

        model = model_hash(self.state.model)
        if model != opening.model or opening.final != (turn[0] >= plan.rounds):
            raise Abort(
                f"{plan.server_0} opens round {turn[0]} with another model than the one computed "
                "here: it lies, or one of the two states is an old copy"
            )
        if opening.final:
            show_digest(self.net, plan.workers, turn[0], model, final=True)
            return True

        run = await turns.await_go(net, plan.server_0, nonce, timeout_s=plan.patience_s)
        if run is None:
            return False
        show_digest(self.net, plan.workers, turn[0], model, final=False)
        key = await turns.pair_key(run, plan.dealer, fresh, timeout_s=plan.patience_s)
        held = await collect_shares(
            net, plan.context(turn), plan.fixed.d, self.map, timeout_s=plan.deadline_s
        )
        try:
            standing, shares = await self.check(run, turn, held, key)
            gram = await self.gram(run, standing, shares, key)
            await self.aggregate(run, turn, standing, shares, gram)
        except ENDINGS:
            if turn[1] == 1:
                raise
        return False

    def follow(self, round: int, opening: turns.Open) -> None:
        """Leave a round that server 0 has passed over, unless it is committed here."""
        state = self.state
        committed = state.committed is not None and state.committed.round == state.round
        if opening.passed_over and state.round == round - 1 and not committed:
            self.keep(replace(state, round=round))

    def give_back(self, net: Net, status: int, record: Committed | None) -> None:
        """Send what server 0 had, and lost, of the round before: nothing that is new to it."""
        if record is not None and status == turns.BEHIND:
            net.send(self.plan.server_0, Words(record.words))
        else:
            give_last(net, self.plan.server_0, self.state.previous)

    def standing_at(self, round: int) -> tuple[int, Committed | None]:
        """What server 0 must know: whether a round is committed, or its outcome is lacking."""
        state, committed = self.state, self.state.committed
        held = None if committed is None else committed.round
        if committed is not None and held == state.round == round:
            return turns.COMMITTED, committed
        if committed is not None and held == state.round == round - 1:
            return turns.BEHIND, committed
        if state.round == round:
            return turns.FRESH, None
        raise Abort(
            f"{self.plan.server_0} opens round {round}, but round {state.round} is next here: one "
            "of the two states is an old copy; restore the newest one"
        )

    async def check(
        self, net: Net, turn: turns.Turn, held: Collected[SharePart], key: Key
    ) -> tuple[Standing, Shares]:
        """Steps 3 and 4: who takes part, the wraparound check."""
        plan = self.plan
        context = plan.context(turn)
        roster = await agree_1(
            net,
            plan.server_0,
            plan.dealer,
            context,
            held,
            timeout_s=plan.deadline_s + plan.patience_s,
        )
        standing = Standing(plan, turn[0], roster)
        standing.require()

        shares = Shares([held.parts[name].share for name in roster.active], plan.fixed.d, self.map)
        triples = await triples_1(
            net.sub("wrap"),
            plan.dealer,
            key.derive("wrap triples"),
            wrap_triples(shares.n, plan.projections),
            timeout_s=plan.patience_s,
        )
        passed = await within_reach(
            net.sub("wrap"),
            1,
            plan.server_0,
            shares,
            plan.fixed.projection_limit,
            plan.projections,
            self.own.derive("coin", *turn),
            triples,
            timeout_s=plan.patience_s,
        )
        standing.drop(passed, "overflow")
        standing.require()
        return standing, shares

    async def gram(self, net: Net, standing: Standing, shares: Shares, key: Key) -> Ring:
        """Step 5 and the norm check: this server's share of 2 X X^T."""
        plan = self.plan
        gram = await gram_1(
            net.sub("gram"),
            plan.server_0,
            plan.dealer,
            shares,
            gram_mask(key, standing.roster.active, plan.fixed.d, self.map),
            plan.image.full,
            timeout_s=plan.patience_s,
        )
        triples = await triples_1(
            net.sub("norm"),
            plan.dealer,
            key.derive("norm triples"),
            triples_needed(shares.n, 2),
            timeout_s=plan.patience_s,
        )
        passed = await no_longer(
            net.sub("norm"),
            1,
            plan.server_0,
            gram,
            plan.fixed.norm_limit,
            triples,
            timeout_s=plan.patience_s,
        )
        standing.drop(passed, "norm")
        standing.require()
        return gram

    async def aggregate(
        self, net: Net, turn: turns.Turn, standing: Standing, shares: Shares, gram: Ring
    ) -> None:
        """Steps 6 and 7: the rule on what is opened, the commit point, the step."""
        plan, image = self.plan, self.plan.image
        public = PublicRow.of(plan, self.state.previous) if image.products else None
        products = None if public is None else products_with(shares, public.words)
        survivors = standing.survivors
        share = image.of(gram, products, survivors)
        if image.labels:
            opened = await open_image(
                net, plan.server_0, image, share, len(survivors), timeout_s=plan.patience_s
            )
            try:
                geometry = geometry_of(plan, opened, len(survivors), public)
            except ValueError as impossible:
                raise Abort(
                    f"{plan.server_0} sent a share of an image that no rows have: {impossible}"
                ) from impossible
        else:
            geometry = Geometry.blank(len(survivors))
        try:
            weights = decide(plan, standing, geometry)
        except RoundEndsError:
            refuse_1(net, plan.server_0, len(survivors))
            raise

        bits = dither_bits(plan, weights.count)
        dither = None if bits is None else (self.own.derive("dither", *turn), bits)

        def record(words: Ring) -> Committed:
            return Committed(*turn, standing.names, weights.values, weights.count, words)

        words = await commit_1(
            net,
            plan.server_0,
            shares,
            survivors,
            weights,
            dither,
            lambda words: self.keep(replace(self.state, committed=record(words))),
            timeout_s=plan.patience_s,
        )
        await self.finish(net, record(words))

    async def finish(self, net: Net, record: Committed) -> None:
        """Take the aggregate from server 0 and the step, as server 0 does."""
        plan, state = self.plan, self.state
        words = await take_aggregate_1(net, plan.server_0, plan.fixed.d, timeout_s=plan.patience_s)
        aggregate = aggregate_of(
            plan, words, record.values, record.count, state.previous, plan.server_0
        )
        model = step(state.model, aggregate, plan.rate(state.round))
        self.keep(State1(state.boot, state.round + 1, np.asarray(model), aggregate, record))


def gram_mask(key: Key, workers: tuple[str, ...], d: int, map: Map) -> Masks:
    """B of the shared Gram matrix: a stream for each active worker, from the dealer's key."""
    return Masks([key.derive("gram mask", name.encode()) for name in workers], d, map)
