"""Server 0 of `two_server`: keeps the model, opens rounds, holds the seeds, sees the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.net import Abort, Net, Path, Timeout, Trace
from ostraka.protocols import turns
from ostraka.protocols.compare import triples_0, triples_needed
from ostraka.protocols.gram_sharing import gram_0
from ostraka.protocols.linear_image import NOTHING, send_image
from ostraka.protocols.norm_check import no_longer
from ostraka.protocols.opening import Weights, prepare_0, send_aggregate_0
from ostraka.protocols.public_model import show_model
from ostraka.protocols.upload import Collected, SeedPart, agree, collect_seeds
from ostraka.protocols.wrap_check import within_reach, wrap_triples
from ostraka.sharing.additive import Map, Masks, products_with
from ostraka.trust.public_step import step
from ostraka.trust.two_server import resume
from ostraka.trust.two_server.decide import (
    ENDINGS,
    PublicRow,
    RoundEndsError,
    Standing,
    check_weights,
    influence,
    told,
)
from ostraka.trust.two_server.plan import MOST_ATTEMPTS, Plan, Prepared, State0

GREETING_S = 0.3
"""How long a restarted server 0 listens before it opens an attempt that old news would undo."""


async def server_0(
    net: Net,
    plan: Plan,
    state: State0,
    *,
    own: Key,
    commit: Callable[[State0], None],
    trace: Trace,
    map: Map = map,
    together: bool = False,
) -> State0:
    """Server 0's whole life: rounds until the last, then the model to everybody.

    ``own`` is secret and fresh in every process. ``commit`` makes a state durable before it
    returns; a restart goes on from the last one. ``map`` spreads the arithmetic. Raises Timeout
    when a round brings nothing or an operator is gone, Abort when a round's bound fails; the state
    is kept. ``together``: the other operators begin now as well, also where rounds are done.
    """
    server = _Server(net, plan, state, own, commit, trace, map)
    if together or state.attempt == state.round == 0:  # else they may have begun long ago
        server.boots = {
            name: await turns.await_boot(net, name, path, turns.BEFORE_ALL)
            for name, path in server.others.items()
        }
    else:
        await server.hear_old_boots()
    while True:
        turn = server.next_turn()
        ended, over = await net.race(
            server.attempt(turn), *(server.restarted(name) for name in server.others)
        )
        if ended == 0 and over:
            return server.state
        if ended > 0:
            who = list(server.others)[ended - 1]
            trace("interrupted", round=turn[0], attempt=turn[1], party=who)


@dataclass
class _Server:
    """One process of server 0: what it keeps, and the steps of an attempt."""

    net: Net
    plan: Plan
    state: State0
    own: Key
    commit: Callable[[State0], None]
    trace: Trace
    map: Map

    def __post_init__(self) -> None:
        self.others = {
            self.plan.server_1: turns.OF_SERVER_1,
            self.plan.dealer: turns.OF_DEALER,
        }
        self.boots: dict[str, tuple[int, ...]] = dict.fromkeys(self.others, turns.BEFORE_ALL)
        self.answered: dict[str, int] = {}

    def keep(self, state: State0) -> None:
        """Store a state, then go on from it."""
        self.commit(state)
        self.state = state

    def next_turn(self) -> turns.Turn:
        """The label of a new attempt, stored before anybody hears of it."""
        state = self.state
        self.keep(replace(state, attempt=state.attempt + 1))
        return (state.round, state.attempt + 1)

    async def restarted(self, name: str) -> None:
        """End when another process of this operator begins than takes part in the attempt."""
        while True:
            path, known = self.others[name], self.boots[name]
            self.boots[name] = await turns.await_boot(self.net, name, path, known)
            if self.boots[name][0] != self.answered.get(name):
                return

    async def hear_old_boots(self) -> None:
        """Take in what others said when they began: it is brought to a new process once more."""

        async def hear(name: str, path: Path) -> None:
            said = turns.await_boot(self.net, name, path, turns.BEFORE_ALL)
            heard, number = await self.net.race(said, self.net.sleep(GREETING_S))
            if heard == 0:
                self.boots[name] = number

        await self.net.par(*(hear(name, path) for name, path in self.others.items()))

    async def ready(self, net: Net, name: str) -> turns.Ready:
        """An operator's answer to the opening."""
        done = self.state.round >= self.plan.rounds
        wait_s = self.plan.deadline_s if done else self.plan.patience_s
        ready = await net.recv(turns.Ready.form(), name, timeout_s=wait_s)
        self.answered[name] = ready.boot
        return ready

    async def attempt(self, turn: turns.Turn) -> bool:
        """One attempt of a round; True when all rounds are over."""
        net, plan = turns.at(self.net, turn), self.plan
        self.net.window(turns.PATH, turn, turn)
        self.answered.clear()
        final, lost = turn[0] >= plan.rounds, self.state.lost
        if final and lost is None:
            show_model(net, plan.workers, self.state.model, final=True)
        opening = turns.Open(final, self.state.passed_over, self.state.model_hash, lost is not None)
        net.send(plan.server_1, opening)
        net.send(plan.dealer, replace(opening, model=bytes(32)))
        try:
            ready = await self.ready(net, plan.server_1)
        except Timeout:
            if final and lost is None:  # server 1 has left: done, and the workers have its word
                return True
            raise
        resume.refuse_old_copy(plan, self.state, ready)
        if lost is not None:
            back = net.sub(turns.RESTORE)
            self.keep(await resume.restored(back, plan, self.state, lost, ready))
            if final:
                show_model(net, plan.workers, self.state.model, final=True)
        if ready.status == turns.COMMITTED:
            record = resume.committed(plan, self.state, ready.attempt)
            await self.finish(net.sub(turns.FINISH), record)
            return False
        if ready.status == turns.BEHIND:
            words = resume.words_for_server_1(plan, self.state)
            send_aggregate_0(net.sub(turns.CATCH_UP), plan.server_1, words)
            ready = await self.ready(net.sub(turns.CATCH_UP), plan.server_1)
        if self.state.prepared is not None:  # server 1 never committed to it, and never will now
            self.keep(replace(self.state, prepared=None))
        if final:
            return True
        if self.state.opened >= MOST_ATTEMPTS:
            self.pass_over(f"the rule has read something in {MOST_ATTEMPTS} attempts already")
            return False

        here = await self.ready(net, plan.dealer)
        run = turns.go_on(net, plan.server_1, plan.dealer, turns.Go(ready.nonce, here.nonce))
        key = await turns.pair_key(
            run, plan.dealer, self.own.derive("turn", *turn), timeout_s=plan.patience_s
        )
        show_model(net, plan.workers, self.state.model, final=False)
        held = await collect_seeds(net, plan.context(turn), timeout_s=plan.deadline_s)
        standing = await self.agreed(run, turn, held)
        try:
            masks = await self.check(run, turn, standing, held, key)
            await self.aggregate(run, turn, standing, masks, key)
        except (Abort, Timeout) as ending:
            self.tell_absent(standing.refused, standing.roster.missing)
            if turn[1] == 1 or not isinstance(ending, ENDINGS):
                raise
            # Who has restarted stays out of a round that it may have answered: another attempt
            # with too few would be followed by others like it, for ever.
            self.pass_over(str(ending))
            return False
        await self.finish(run, resume.committed(plan, self.state, turn[1]))
        return False

    def pass_over(self, why: str) -> None:
        """Go on to the next round with the same model."""
        state = self.state
        self.trace("passed-over", round=state.round, why=why)
        self.keep(
            replace(
                state, round=state.round + 1, attempt=0, opened=0, prepared=None, passed_over=True
            )
        )

    async def agreed(self, net: Net, turn: turns.Turn, held: Collected[SeedPart]) -> Standing:
        """Step 3: whose uploads are complete."""
        plan = self.plan
        wait_s = plan.deadline_s + plan.patience_s
        roster = await agree(net, plan.server_1, plan.context(turn), held, timeout_s=wait_s)
        return Standing(plan, turn[0], roster)

    async def check(
        self,
        net: Net,
        turn: turns.Turn,
        standing: Standing,
        held: Collected[SeedPart],
        key: Key,
    ) -> Masks:
        """Step 4: the wraparound check."""
        plan, roster = self.plan, standing.roster
        context = plan.context(turn)
        standing.require()

        seeds = [context.mask(name, held.parts[name].seed) for name in roster.active]
        masks = Masks(seeds, plan.fixed.d, self.map)
        triples = triples_0(key.derive("wrap triples"), wrap_triples(masks.n, plan.projections))
        passed = await within_reach(
            net.sub("wrap"),
            0,
            plan.server_1,
            masks,
            plan.fixed.projection_limit,
            plan.projections,
            self.own.derive("coin", *turn),
            triples,
            timeout_s=plan.patience_s,
        )
        standing.drop(passed, "overflow")
        standing.require()
        return masks

    async def aggregate(
        self, net: Net, turn: turns.Turn, standing: Standing, masks: Masks, key: Key
    ) -> None:
        """Steps 5 to 7, up to the commit point: this server's part of the sum is stored."""
        plan, image = self.plan, self.plan.image
        gram = await gram_0(
            net.sub("gram"),
            plan.server_1,
            masks,
            key.derive("gram blinding"),
            image.full,
            timeout_s=plan.patience_s,
        )
        triples = triples_0(key.derive("norm triples"), triples_needed(masks.n, 2))
        passed = await no_longer(
            net.sub("norm"),
            0,
            plan.server_1,
            gram,
            plan.fixed.norm_limit,
            triples,
            timeout_s=plan.patience_s,
        )
        standing.drop(passed, "norm")
        standing.require()
        products = None
        if image.products:
            products = products_with(masks, PublicRow.of(plan, self.state.previous).words)
        if image.labels:
            self.keep(replace(self.state, opened=self.state.opened + 1))
            share = image.of(gram, products, standing.survivors)
            send_image(net, plan.server_1, share)

        def store(weights: Weights, words: Ring) -> None:
            self.keep(replace(self.state, prepared=self.record(turn, standing, weights, words)))

        prepared = await prepare_0(
            net,
            plan.server_1,
            masks,
            standing.survivors,
            lambda weights: check_weights(plan, standing, weights),
            store,
            timeout_s=plan.patience_s,
        )
        if prepared is None:
            least = f"min_contributors = {plan.min_contributors}"
            why = f"too few updates would cover for one another in the sum ({least})"
            raise RoundEndsError(standing.ending(why))

    def record(self, turn: turns.Turn, standing: Standing, weights: Weights, own: Ring) -> Prepared:
        """What must be on disk before server 1 commits."""
        return Prepared(
            turn[1], standing.names, weights.values, weights.count, own, told(standing, weights)
        )

    async def finish(self, net: Net, record: Prepared) -> None:
        """Open the aggregate, take the step, store, tell server 1 and whoever listens."""
        plan, state = self.plan, self.state
        aggregate, words = await resume.opened(net, plan, state, record, self.note_received)
        model = step(state.model, aggregate, plan.rate(state.round))
        self.tell(record)
        self.keep(State0(state.round + 1, 0, 0, model, aggregate, words))
        send_aggregate_0(net, plan.server_1, words)

    def note_received(self) -> None:
        """Store that server 1 has sent its words, so that it cannot forget them unnoticed."""
        if not self.state.received:
            self.keep(replace(self.state, received=True))

    def tell_absent(self, refused: Mapping[str, Sequence[str]], missing: Sequence[str]) -> None:
        """Say who was refused and why, and who was missing."""
        for name, (reason, detail) in refused.items():
            self.trace("excluded", round=self.state.round, party=name, reason=reason, detail=detail)
        for name in missing:
            self.trace("missing", round=self.state.round, party=name)

    def tell(self, record: Prepared) -> None:
        """Say who was refused or missing, what was opened to whom, and every worker's weight."""
        at, image, trace = self.state.round, self.plan.image, self.trace
        self.tell_absent(record.told["refused"], record.told["missing"])
        if record.told["capped"]:
            trace("capped", round=at, least=self.plan.min_contributors)
        m = len(record.names)
        for label in image.labels:
            words = replace(NOTHING, **{label: True}).count(m)
            trace("opened", round=at, label=label, to=self.plan.server_1, words=words)
        kind = "sum" if record.count else "rounded aggregate"
        trace("opened", round=at, label=kind, to="both servers", words=self.plan.fixed.d)
        weights = influence(record.names, record.values, record.count)
        trace("aggregated", round=at, influence=weights)
