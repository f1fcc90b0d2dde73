"""Simulators of the views of `two_server`: a party's whole view from only what it may learn.

`ideal` is the specification of that: it computes in the clear, from the updates, what the page on
two_server says that each party learns of a round, and nothing else is given to the simulators. A
simulator is a set of programs that play everybody else towards one real party. They hold no
update: where an honest party would send a share, they send random words, and where such a word is
tied to something that the party learns, they choose it to fit.

The workers' signing keys are the simulator's: signatures are on ids, which say nothing of updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.transcript import digest
from ostraka.net import Net, Program
from ostraka.protocols import turns
from ostraka.protocols.coin import Commitment, Reveal
from ostraka.protocols.compare import Correction, Masked, Verdict
from ostraka.protocols.gram_sharing import BLOCK, CrossTerms, MaskedBlock, Taken
from ostraka.protocols.linear_image import ImageShare, unpack
from ostraka.protocols.opening import Prepared, Rounded, Weights, Words, dither_words
from ostraka.protocols.public_model import STATED, ModelDigest, PublicModel, model_hash
from ostraka.protocols.upload import ACTIVE, MISSING, Active, Held, Roster, SeedPart, SharePart
from ostraka.rules.gram import Geometry
from ostraka.sharing.additive import spans
from ostraka.trust.public_step import Vector, step
from ostraka.trust.two_server import Plan
from ostraka.trust.two_server.decide import (
    PublicRow,
    Standing,
    aggregate_of,
    decide,
    dither_bits,
    geometry_of,
    settled,
)
from tests.protocols.two_server_world import DEALER, S0, S1, World, identity

WAIT_S = 100.0


@dataclass(frozen=True)
class Leak:
    """What may be learnt of one round.

    To all operators: ``states`` of the workers. To both servers: the check bits of the active ones,
    the ``model`` and the ``previous`` aggregate before the round, and ``opened``, the (rounded)
    aggregate of it. To server 0: ``weights`` and ``z``, the weighted sum with its dither. To server
    1: the ``weights`` and the ``image``.
    """

    states: npt.NDArray[np.uint8]
    overflow: npt.NDArray[np.bool_]
    norm: npt.NDArray[np.bool_]
    model: Vector
    previous: npt.NDArray[np.float64]
    image: Ring
    weights: Weights
    z: Ring
    opened: npt.NDArray[np.int64]


def ideal(world: World, silent: frozenset[str], chance: Key) -> list[Leak]:
    """The leaks of all rounds of a world in which the ``silent`` send nothing.

    ``chance`` draws the dither.
    """
    state = world.stored_0[0]
    model, previous = state.model, state.previous
    leaks = []
    for number in range(world.plan.rounds):
        leak, aggregate = _round(world, silent, chance, number, model, previous)
        leaks.append(leak)
        model, previous = step(model, aggregate, world.plan.rate(number)), aggregate
    return [*leaks, replace(leaks[-1], model=model)]


def _round(
    world: World,
    silent: frozenset[str],
    chance: Key,
    number: int,
    model: Vector,
    previous: npt.NDArray[np.float64],
) -> tuple[Leak, npt.NDArray[np.float64]]:
    plan = world.plan
    active = tuple(name for name in plan.workers if name not in silent)
    x = np.stack([plan.fixed.encode(world.updates(name, number, model)) for name in active])
    hostile = np.array([name in world.cheats for name in active])
    x[hostile] = WRAPS
    gram = x @ x.T
    standing = Standing(plan, number, Roster(active, {}, tuple(sorted(silent))))
    overflow = ~hostile
    norm = np.diagonal(gram) <= np.uint64(plan.fixed.norm_limit)
    standing.drop(overflow, "overflow")
    standing.drop(norm, "norm")

    public = PublicRow.of(plan, previous) if plan.rule.uses_reference else None
    products = None if public is None else x @ public.words
    image = plan.image.of(np.uint64(2) * gram, products, standing.survivors)
    m = len(standing.survivors)
    shown = public if plan.image.products else None
    opened = unpack(plan.image, image, m)
    geometry = geometry_of(plan, opened, m, shown) if plan.image.labels else Geometry.blank(m)
    weights = decide(plan, standing, geometry)

    bits = dither_bits(plan, weights.count)
    z = weights.values.view(np.uint64) @ x[standing.survivors]
    if bits is not None:
        z = z + dither_words(chance.derive("ideal dither", number), bits, plan.fixed.d)
    total = settled(plan, z.copy(), weights.count)
    aggregate = aggregate_of(plan, total, weights.values, weights.count, previous, S1)
    states = np.array([MISSING if w in silent else ACTIVE for w in plan.workers], np.uint8)
    return Leak(states, overflow, norm, model, previous, image, weights, z, total), aggregate


WRAPS = np.uint64(1 << 62)
"""A hostile worker's word on every coordinate: its squared norm is 0 in the ring."""


# --- what the simulators share ------------------------------------------------------------------


@dataclass
class Simulator:
    """Everybody but one real party. Notes of what it has made up lie in ``seeds`` and the like."""

    plan: Plan
    leaks: list[Leak]
    chance: Key
    drawn: int = 0
    uploads: dict[tuple[turns.Turn, str], SharePart] = field(default_factory=dict)
    seeds: dict[tuple[turns.Turn, str], bytes] = field(default_factory=dict)
    ids: dict[tuple[turns.Turn, str], bytes] = field(default_factory=dict)
    dealt: dict[turns.Turn, Ring] = field(default_factory=dict)

    def words(self, *shape: int) -> Ring:
        """Fresh random words."""
        self.drawn += 1
        count = int(np.prod(shape))
        return self.chance.derive("words", self.drawn).stream().words(count).reshape(shape)

    def secret(self) -> bytes:
        """32 fresh random bytes."""
        return self.words(4).tobytes()

    def active(self, turn: turns.Turn) -> list[str]:
        """The workers that take part in a round."""
        states = self.leaks[turn[0]].states
        return [w for w, s in zip(self.plan.workers, states, strict=True) if s == ACTIVE]

    def ready(self) -> turns.Ready:
        """A follower's first process answers an opening, with a fresh number."""
        return turns.Ready(turns.FRESH, 0, 1, int(self.words(1)[0]))

    async def follow(self, at: Net) -> Net:
        """Answer an opening; gives the label of the attempt."""
        await at.recv(turns.Open.form(), S0, timeout_s=WAIT_S)
        at.send(S0, self.ready())
        go = await at.recv(turns.Go.form(), S0, timeout_s=WAIT_S)
        return at.sub(turns.RUN, go.run)

    def coin_side(self, net: Net, peer: str) -> None:
        """A part of the coin that nobody could tell from another."""
        part = self.secret()
        at = net.sub("coin")
        at.send(peer, Commitment(digest("coin commitment", net.me.encode(), part)))
        at.send(peer, Reveal(part))

    async def gates(self, net: Net, peer: str, rows: int, tests: int) -> None:
        """Random operands for every layer of a comparison."""
        for layer, count in enumerate(layers(rows, tests)):
            at = net.sub("and", layer)
            await at.recv(Masked.form(count=count), peer, timeout_s=WAIT_S)
            at.send(peer, Masked(self.words(2, count)))

    async def check(self, net: Net, peer: str, bits: npt.NDArray[np.bool_], tests: int) -> None:
        """A whole comparison whose outcome is what the party may learn."""
        await self.gates(net, peer, len(bits), tests)
        theirs = await net.recv(Verdict.form(rows=len(bits)), peer, timeout_s=WAIT_S)
        net.send(peer, Verdict(theirs.bits ^ bits.astype(np.uint8)))

    def program(self, real: str) -> dict[str, Program]:
        """The programs of all others towards this party."""
        plays: dict[str, dict[str, Callable[[Net], object]]] = {
            S0: {S1: self.server_1_for_0, DEALER: self.dealer_for_0},
            S1: {S0: self.server_0_for_1, DEALER: self.dealer_for_1},
            DEALER: {S0: self.server_0_for_dealer, S1: self.server_1_for_dealer},
        }
        tell = {S0: self.worker_for_0, S1: self.worker_for_1, DEALER: self.worker_for_dealer}
        workers = dict.fromkeys(self.plan.workers, tell[real])
        return {**workers, **plays[real]}  # type: ignore[dict-item]

    async def each_turn(self, net: Net, server_0: str) -> list[turns.Turn]:
        """The turn of every round: an undisturbed run makes one attempt of each."""
        return [(number, 1) for number in range(self.plan.rounds)]

    # --- workers ------------------------------------------------------------------------------

    async def worker_for_0(self, net: Net) -> None:
        """A seed under a hash of nothing."""
        form = PublicModel.form(d=self.plan.fixed.d)
        for turn in await self.each_turn(net, S0):
            at = turns.at(net, turn)
            await at.recv(form, S0, timeout_s=WAIT_S)
            if net.me in self.active(turn):
                at.send(S0, self.seed_part(turn, net.me))

    async def worker_for_dealer(self, net: Net) -> None:
        """The same to the dealer, once server 0 has opened the turn."""
        for turn in await self.each_turn(net, S0):
            at = turns.at(net, turn)
            await at.recv(turns.Open.form(), S0, timeout_s=WAIT_S)
            if net.me in self.active(turn):
                at.send(DEALER, self.seed_part(turn, net.me))

    async def worker_for_1(self, net: Net) -> None:
        """A share of nothing, under the hash of no seed."""
        for turn in await self.each_turn(net, S0):
            at, stated = turns.at(net, turn), net.sub(STATED[0], turn[0])
            await stated.recv(ModelDigest.form(), S1, timeout_s=WAIT_S)
            if net.me in self.active(turn):
                share, salt, seed_hash = self.words(self.plan.fixed.d), self.secret(), self.secret()
                bound = digest("upload share", salt, share.view(np.uint8).data)
                signature = self.signed(turn, net.me, seed_hash, bound)
                part = SharePart(share, salt, seed_hash, signature)
                self.uploads[turn, net.me] = part
                at.send(S1, part)

    def seed_part(self, turn: turns.Turn, name: str) -> SeedPart:
        """A worker's part for server 0 and the dealer."""
        seed, share_hash = self.secret(), self.secret()
        self.seeds[turn, name] = seed
        signature = self.signed(turn, name, digest("upload seed", seed), share_hash)
        return SeedPart(seed, share_hash, signature)

    def signed(self, turn: turns.Turn, name: str, seed_hash: bytes, share_hash: bytes) -> bytes:
        """A worker's signature on the id of an upload."""
        id = self.plan.context(turn).id(name, seed_hash, share_hash)
        self.ids[turn, name] = id
        return identity(name)[0](id)

    def held(self, turn: turns.Turn) -> Held:
        """What another holder reports."""
        ids = b"".join(self.ids.get((turn, name), bytes(32)) for name in self.plan.workers)
        return Held(np.frombuffer(ids, np.uint8).reshape(-1, 32), self.leaks[turn[0]].states)

    # --- towards server 0 ---------------------------------------------------------------------

    async def dealer_for_0(self, net: Net) -> None:
        """A part of a key in every turn."""
        turns.say_boot(net, S0, turns.OF_DEALER, 1)
        for turn in await self.each_turn(net, S0):
            at = await self.follow(turns.at(net, turn))
            await at.recv(turns.Part.form(), S0, timeout_s=WAIT_S)
            at.send(S0, turns.Part(self.secret()))

    async def server_1_for_0(self, net: Net) -> None:
        """Random operands and columns; check bits, weights and a sum that come out right."""
        plan, n = self.plan, self.plan.n
        turns.say_boot(net, S0, turns.OF_SERVER_1, 1)
        for turn in await self.each_turn(net, S0):
            leak, m = self.leaks[turn[0]], len(self.active(turn))
            at = await self.follow(turns.at(net, turn))
            await at.recv(Held.form(n=n), S0, timeout_s=WAIT_S)
            at.send(S0, Active(leak.states))
            self.coin_side(at.sub("wrap"), S0)
            await self.check(at.sub("wrap"), S0, leak.overflow, 2 * plan.projections)
            for number, (low, high) in enumerate(spans(m, plan.fixed.d)):
                block = at.sub("gram").sub(BLOCK[0], number)
                block.send(S0, MaskedBlock(self.words(m, high - low)))
                await block.recv(Taken.form(), S0, timeout_s=WAIT_S)
            await self.check(at.sub("norm"), S0, leak.norm, 2)
            at.send(S0, leak.weights)
            await at.recv(Prepared.form(), S0, timeout_s=WAIT_S)
            at.send(S0, Words(leak.z - self.own_sum(turn)))
            await at.recv(Rounded.form(d=plan.fixed.d), S0, timeout_s=WAIT_S)
        last = turns.at(net, (plan.rounds, 1))
        await last.recv(turns.Open.form(), S0, timeout_s=WAIT_S)
        last.send(S0, self.ready())

    def own_sum(self, turn: turns.Turn) -> Ring:
        """p^T X0, since the seeds are of our making."""
        leak, context = self.leaks[turn[0]], self.plan.context(turn)
        left = (leak.overflow & leak.norm).tolist()
        names = [w for w, stays in zip(self.active(turn), left, strict=True) if stays]
        d = self.plan.fixed.d
        keys = [context.mask(name, self.seeds[turn, name]) for name in names]
        masks = np.stack([key.stream().words(d) for key in keys])
        return np.asarray(leak.weights.values.view(np.uint64) @ masks)

    # --- towards server 1 ---------------------------------------------------------------------

    async def dealer_for_1(self, net: Net) -> None:
        """Random words in place of all corrections."""
        n = self.plan.n
        for turn in await self.each_turn(net, S0):
            at, m = turns.at(net, turn), len(self.active(turn))
            go = await at.recv(turns.Go.form(), S0, timeout_s=WAIT_S)
            at = at.sub(turns.RUN, go.run)
            await at.recv(turns.Part.form(), S1, timeout_s=WAIT_S)
            at.send(S1, turns.Part(self.secret()))
            await net.sleep(1.0)  # until the made-up uploads have their ids
            at.send(S1, self.held(turn))
            await at.recv(Active.form(n=n), S1, timeout_s=WAIT_S)
            for use, tests in (("wrap", 2 * self.plan.projections), ("norm", 2)):
                at.sub(use).send(S1, Correction(self.words(sum(layers(m, tests)))))
            self.dealt[turn] = self.words(m * (m + 1) // 2 if self.plan.image.full else m)
            at.sub("gram").send(S1, CrossTerms(self.dealt[turn]))

    async def server_0_for_1(self, net: Net) -> None:
        """Random operands; check bits and an image that come out right."""
        plan = self.plan
        await turns.await_boot(net, S1, turns.OF_SERVER_1, turns.BEFORE_ALL)
        for turn in await self.each_turn(net, S0):
            leak, at, m = self.leaks[turn[0]], turns.at(net, turn), len(self.active(turn))
            at.send(S1, turns.Open(False, False, model_hash(leak.model)))
            ready = await at.recv(turns.Ready.form(), S1, timeout_s=WAIT_S)
            at = turns.go_on(at, S1, DEALER, turns.Go(ready.nonce, int(self.words(1)[0])))
            await net.sleep(1.0)  # until the made-up uploads have their ids
            at.send(S1, self.held(turn))
            await at.recv(Active.form(n=plan.n), S1, timeout_s=WAIT_S)
            self.coin_side(at.sub("wrap"), S1)
            await self.check(at.sub("wrap"), S1, leak.overflow, 2 * plan.projections)
            blocks = []
            for number, (low, high) in enumerate(spans(m, plan.fixed.d)):
                block = at.sub("gram").sub(BLOCK[0], number)
                form = MaskedBlock.form(n=m, w=high - low)
                blocks.append((await block.recv(form, S1, timeout_s=WAIT_S)).words)
                block.send(S1, Taken(True))
            await self.check(at.sub("norm"), S1, leak.norm, 2)
            if plan.image.labels:
                share = self.image_share(turn, np.concatenate(blocks, axis=1))
                at.send(S1, ImageShare(leak.image - share))
            await at.recv(Weights.form(n=len(leak.weights.values)), S1, timeout_s=WAIT_S)
            at.send(S1, Prepared(True))
            await at.recv(Words.form(d=plan.fixed.d), S1, timeout_s=WAIT_S)
            at.send(S1, Rounded(leak.opened))
        last = turns.at(net, (plan.rounds, 1))
        last.send(S1, turns.Open(True, False, model_hash(self.leaks[-1].model)))

    def image_share(self, turn: turns.Turn, f: Ring) -> Ring:
        """L of server 1's own share of 2 X X^T, which it has from words of our making."""
        leak, active = self.leaks[turn[0]], self.active(turn)
        y = np.stack([self.uploads[turn, name].share for name in active])
        m, dealt = len(active), self.dealt[turn]
        seen = np.uint64(2) * y - f  # Y + B
        gram = seen @ seen.T
        if self.plan.image.full:
            upper = np.zeros((m, m), np.uint64)
            upper[np.triu_indices(m)] = dealt
            gram = gram + upper + np.triu(upper, 1).T
        else:
            gram = np.diagonal(gram) + dealt
        products = None
        if self.plan.image.products:
            products = y @ PublicRow.of(self.plan, leak.previous).words
        rows = np.flatnonzero(leak.overflow & leak.norm).tolist()
        return self.plan.image.of(gram, products, rows)

    # --- towards the dealer -------------------------------------------------------------------

    async def server_0_for_dealer(self, net: Net) -> None:
        """Openings and parts of keys."""
        await turns.await_boot(net, DEALER, turns.OF_DEALER, turns.BEFORE_ALL)
        for turn in await self.each_turn(net, S0):
            at = turns.at(net, turn)
            at.send(DEALER, turns.Open(False, False, bytes(32)))
            for name in self.plan.workers:
                at.send(name, turns.Open(False, False, bytes(32)))
            ready = await at.recv(turns.Ready.form(), DEALER, timeout_s=WAIT_S)
            run = turns.go_on(at, S1, DEALER, turns.Go(int(self.words(1)[0]), ready.nonce))
            await run.recv(turns.Part.form(), DEALER, timeout_s=WAIT_S)
            run.send(DEALER, turns.Part(self.secret()))
            await at.recv(Prepared.form(), S1, timeout_s=WAIT_S)
        turns.at(net, (self.plan.rounds, 1)).send(DEALER, turns.Open(True, False, bytes(32)))

    async def server_1_for_dealer(self, net: Net) -> None:
        """Parts of keys, and who takes part."""
        plan = self.plan
        for turn in await self.each_turn(net, S0):
            at, m = turns.at(net, turn), len(self.active(turn))
            go = await at.recv(turns.Go.form(), S0, timeout_s=WAIT_S)
            run = at.sub(turns.RUN, go.run)
            run.send(DEALER, turns.Part(self.secret()))
            await run.recv(Held.form(n=plan.n), DEALER, timeout_s=WAIT_S)
            run.send(DEALER, Active(self.leaks[turn[0]].states))
            count = m * (m + 1) // 2 if plan.image.full else m
            await run.sub("gram").recv(CrossTerms.form(count=count), DEALER, timeout_s=WAIT_S)
            at.send(S0, Prepared(True))


def layers(rows: int, tests: int) -> list[int]:
    """Words of each layer of ANDs of a comparison: adder, fold of words, fold of bits."""
    numbers = rows * tests
    counts = [numbers, *[2 * numbers] * 5, numbers]
    words = -(-tests // 64)
    while words > 1:
        counts.append(rows * (words // 2))
        words -= words // 2
    return counts + [rows] * 6


def simulated(real: World, party: str, leaks: list[Leak], seed: int) -> World:
    """The ideal world around one party, run to its end: it is real, all others are made up."""
    chance = Key(digest("a simulator of a test", str((seed, party)).encode()))
    simulator = Simulator(real.plan, leaks, chance)
    world = World(real.plan, replaced=simulator.program(party), seed=seed)
    world.stored_0, world.stored_1 = real.stored_0[:1], real.stored_1[:1]
    world.run()
    return world
