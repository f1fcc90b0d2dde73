"""The comparison, the wraparound check and the norm check: what they let pass, what they show."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ostraka.algebra.fixed import FixedPoint, squared_norm
from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Delivery, Simulation
from ostraka.net import Abort, Net
from ostraka.party import Frame
from ostraka.protocols import compare
from ostraka.protocols.coin import Commitment, Reveal, toss
from ostraka.protocols.norm_check import no_longer
from ostraka.protocols.wrap_check import (
    LEAST_PROJECTIONS,
    project,
    projections,
    two_sided,
)
from ostraka.rules import RULES, CenteredClipping, GramRule, Mean, MultiKrum
from ostraka.sharing.additive import Shares
from tests.protocols.two_server_world import (
    DEALER,
    S0,
    S1,
    Sent,
    Upload,
    Vector,
    World,
    fixed_point,
    in_both_servers,
    make_plan,
    random_updates,
)

Bools = npt.NDArray[np.bool_]
Side = Callable[[Net, int, str, Ring, compare.Triples], Any]
EDGES = (0, 1, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1)


def key(*parts: object) -> Key:
    return Key(digest("a check of a test", repr(parts).encode()))


def split(values: Ring, seed: object) -> tuple[Ring, Ring]:
    """Additive shares."""
    mask = key("mask", seed).stream().words(values.size).reshape(values.shape)
    return mask, values - mask


class Watcher:
    """Writes down all frames."""

    corrupt: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
        self.sent.append(Sent(now, sender, to, frame))
        return [Delivery(sender, to, frame)]


def compared(values: Ring, count: int, side: Side, seed: object = 0) -> tuple[Bools, list[Sent]]:
    """Run one check of shared values between two servers and a dealer; the bits, and all frames."""
    shares = split(values, seed)
    keys = key("server 0", seed), key("server 1", seed)

    async def server_0(net: Net) -> Any:
        return await side(net, 0, S1, shares[0], compare.triples_0(keys[0], count))

    async def server_1(net: Net) -> Any:
        triples = await compare.triples_1(net, DEALER, keys[1], count, timeout_s=1.0)
        return await side(net, 1, S0, shares[1], triples)

    async def dealer(net: Net) -> None:
        compare.deal(net, S1, *keys, count)

    watcher = Watcher()
    programs: Any = {S0: server_0, S1: server_1, DEALER: dealer}
    outcomes = Simulation(programs, seed=0, adversary=watcher).run()
    bits = [outcomes[name].result for name in (S0, S1)]
    assert bits[0] is not None, outcomes
    assert bits[0].tolist() == bits[1].tolist(), "both servers learn the same bits"
    return bits[0], watcher.sent


async def sign_test(net: Net, side: int, peer: str, shares: Ring, triples: compare.Triples) -> Any:
    return await compare.non_negative(net, side, peer, shares, triples, timeout_s=1.0)


def all_non_negative(values: Ring, seed: object = 0) -> tuple[Bools, list[Sent]]:
    return compared(values, compare.triples_needed(*values.shape), sign_test, seed)


# --- the comparison -------------------------------------------------------------------------


@pytest.mark.parametrize("value", EDGES)
def test_the_sign_of_one_number(value: int) -> None:
    for seed in range(4):
        bits, _ = all_non_negative(np.array([[value]], np.uint64), seed)
        assert bits.tolist() == [value < 2**63]


@pytest.mark.parametrize("tests", [1, 2, 63, 64, 65, 127, 200])
def test_one_negative_number_anywhere_fails_its_row_alone(tests: int) -> None:
    values = np.full((tests + 1, tests), 2**63 - 1, np.uint64)
    values[:, ::2] = 0
    values[np.arange(tests), np.arange(tests)] = 2**64 - 1
    bits, _ = all_non_negative(values)
    assert bits.tolist() == [False] * tests + [True]


numbers = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1))


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data(), st.integers(1, 4), st.sampled_from([1, 2, 3, 63, 64, 65, 200]))
def test_any_numbers(data: st.DataObject, rows: int, tests: int) -> None:
    drawn = data.draw(st.lists(numbers, min_size=rows, max_size=rows))
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**63, (rows, tests), dtype=np.uint64)
    values[np.arange(rows), rng.integers(0, tests, rows)] = np.array(drawn, np.uint64)
    bits, _ = all_non_negative(values, seed)
    assert bits.tolist() == [value < 2**63 for value in drawn]


def in_range(value: int, low: int, high: int, seed: int = 0) -> bool:
    """Whether a shared number is found to lie in a range, by the tests of the checks."""

    async def side(net: Net, own: int, peer: str, shares: Ring, triples: compare.Triples) -> Any:
        both = two_sided(shares, own, low, high)
        return await compare.non_negative(net, own, peer, both, triples, timeout_s=1.0)

    bits, _ = compared(
        np.array([[value % 2**64]], np.uint64), compare.triples_needed(1, 2), side, seed
    )
    return bool(bits[0])


LIMIT = 8 * 2**26


@pytest.mark.slow
@settings(max_examples=60)
@given(st.one_of(st.integers(0, 2**64 - 1), st.integers(-2 * LIMIT, 2 * LIMIT)), st.integers(0, 99))
@example(LIMIT, 0)
@example(LIMIT + 1, 0)
@example(-LIMIT, 0)
@example(-LIMIT - 1, 0)
@example(2**63, 0)
@example(2**63 - 1, 0)
@example(2**64 - LIMIT, 0)
def test_a_projection_is_compared_on_both_sides(value: int, seed: int) -> None:
    signed = (value + 2**63) % 2**64 - 2**63
    assert in_range(value, -LIMIT, LIMIT, seed) == (abs(signed) <= LIMIT)


@pytest.mark.parametrize("limit", [0, 1, 2**52, 2**54 + 12345])
def test_a_norm_passes_up_to_its_limit_and_not_one_beyond(limit: int) -> None:
    """What is shared is twice the squared norm; odd numbers are nobody's."""
    twice = [0, 2 * limit, 2 * limit + 1, 2 * limit + 2, 2**63 - 1, 2**63, 2**64 - 1]
    twice += [2**63 + 2 * limit, 2**64 - 2 * limit - 2]

    async def side(net: Net, own: int, peer: str, gram: Ring, triples: compare.Triples) -> Any:
        return await no_longer(net, own, peer, gram, limit, triples, timeout_s=1.0)

    diagonal = np.array(twice, np.uint64)
    count = compare.triples_needed(len(twice), 2)
    expected = [value <= 2 * limit for value in twice]
    assert compared(diagonal, count, side)[0].tolist() == expected
    matrix = np.full((len(twice), len(twice)), 7, np.uint64)
    np.fill_diagonal(matrix, diagonal)
    assert compared(matrix, count, side)[0].tolist() == expected


def test_a_bit_above_one_is_refused() -> None:
    async def liar(net: Net) -> None:
        net.send(S0, compare.Verdict(np.array([0, 2], np.uint8)))

    async def honest(net: Net) -> Bools:
        return await compare.open_bits(net, S1, np.zeros(2, np.uint8), 1.0)

    error = Simulation({S0: honest, S1: liar}, seed=0).run()[S0].error
    assert isinstance(error, Abort)
    assert "server-1 sent a bit above 1" in error.reason


@pytest.mark.parametrize("tests", [1, 2, 64, 65, 200, 257])
@pytest.mark.parametrize("rows", [1, 3])
def test_exactly_the_triples_that_were_dealt_are_used(rows: int, tests: int) -> None:
    used: list[int] = []

    async def side(net: Net, own: int, peer: str, shares: Ring, triples: compare.Triples) -> Any:
        bits = await compare.non_negative(net, own, peer, shares, triples, timeout_s=1.0)
        used.append(triples._used)
        return bits

    count = compare.triples_needed(rows, tests)
    compared(np.zeros((rows, tests), np.uint64), count, side)
    assert used == [count, count]
    with pytest.raises(ValueError, match="triples are needed"):
        compared(np.zeros((rows, tests), np.uint64), count - 1, side)


def test_servers_exchange_masked_words_and_one_bit_per_row() -> None:
    values = np.arange(15, dtype=np.uint64).reshape(3, 5)
    _, sent = all_non_negative(values)
    between = [s for s in sent if {s.sender, s.to} == {S0, S1}]
    assert {s.kind for s in between} == {"Masked", "Verdict"}
    verdicts = [s for s in between if s.kind == "Verdict"]
    assert [s.sender for s in verdicts] == [S0, S1] or [s.sender for s in verdicts] == [S1, S0]
    for verdict in verdicts:
        message = compare.Verdict.form(rows=3).decode(bytes(verdict.frame.body))  # type: ignore[arg-type]
        assert isinstance(message, compare.Verdict)
        assert message.bits.max() <= 1, "a share of one bit, not the word that it lies in"
    others = [(s.sender, s.to, s.kind) for s in sent if s not in between]
    assert others == [(DEALER, S1, "Correction")]


def test_the_same_numbers_under_other_shares_look_different_on_the_wire() -> None:
    values = np.arange(12, dtype=np.uint64).reshape(2, 6)
    first, second = ([s.frame for s in all_non_negative(values, seed)[1]] for seed in (1, 2))
    bodies = [(a.body, b.body) for a, b in zip(first, second, strict=True) if a.kind == "Masked"]
    assert len(bodies) == 2 * 13
    assert all(a != b for a, b in bodies)


# --- the coin -------------------------------------------------------------------------------


def tossed(peer: Any) -> Any:
    """Server 0 tosses honestly with this program in place of server 1."""

    async def honest(net: Net) -> bytes:
        return (await toss(net, S1, key("coin 0"), timeout_s=1.0)).reveal()

    return Simulation({S0: honest, S1: peer}, seed=0).run()


def test_both_get_the_same_coin_and_either_part_changes_it() -> None:
    def other(part: str) -> Any:
        async def program(net: Net) -> bytes:
            return (await toss(net, S0, key(part), timeout_s=1.0)).reveal()

        return program

    first, second = tossed(other("coin 1")), tossed(other("coin 2"))
    assert first[S0].result == first[S1].result
    assert first[S0].result != second[S0].result


def test_a_coin_that_was_not_committed_to_is_refused() -> None:
    async def liar(net: Net) -> None:
        net.send(S0, Commitment(bytes(32)))
        net.send(S0, Reveal(bytes(32)))

    error = tossed(liar)[S0].error
    assert isinstance(error, Abort)
    assert "server-1 revealed another coin than it had committed to" in error.reason


def test_a_commitment_sent_back_does_not_cancel_the_coin() -> None:
    """Who repeats the other's messages would make a coin of two equal parts, were names not in."""

    async def echo(net: Net) -> None:
        commitment = await net.recv(Commitment.form(), S0, timeout_s=1.0)
        net.send(S0, commitment)
        net.send(S0, await net.recv(Reveal.form(), S0, timeout_s=1.0))

    error = tossed(echo)[S0].error
    assert isinstance(error, Abort)
    assert "revealed another coin" in error.reason


# --- honest vectors at the clip -------------------------------------------------------------


def honest(fixed: FixedPoint, count: int, seed: int) -> Shares:
    """Vectors exactly at the clip, in random directions, with the noise of the plan on them."""
    rng = np.random.default_rng([seed, fixed.d, int(1e6 * fixed.sigma)])
    rows = []
    for _ in range(count):
        row = rng.standard_normal(fixed.d)
        row *= fixed.clip / np.linalg.norm(row)
        if fixed.sigma:
            row += fixed.sigma * rng.standard_normal(fixed.d)
        rows.append(fixed.encode(row.astype(np.float32)))
    return Shares(rows, fixed.d)


def passes(fixed: FixedPoint, vectors: int, coins: int, seed: int) -> int:
    """How often an honest vector passes both checks, by the real projections and both limits."""
    rows = honest(fixed, vectors, seed)
    short = np.array([squared_norm(row) <= fixed.norm_limit for row in rows.rows])
    passed = 0
    for coin in range(coins):
        y = project(rows, key("coin", seed, coin), LEAST_PROJECTIONS).view(np.int64)
        assert np.abs(y).max() < 2**62, "what is compared does not wrap"
        reached = (np.abs(y) <= fixed.projection_limit).all(axis=1)
        passed += int((reached & short).sum())
    return passed


SIZES = {2: 1000, 10: 1000, 100: 500, 100_000: 20}
"""Vectors of a size in the plain suite; coins make up for the rest of the thousand."""


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 1.0], ids=lambda s: f"noise{s:g}")
@pytest.mark.parametrize("d", SIZES)
def test_honest_vectors_at_the_clip_pass_a_thousand_times(d: int, sigma: float) -> None:
    fixed = fixed_point(d, clip=1.0, sigma=sigma)
    vectors = SIZES[d]
    assert passes(fixed, vectors, 1000 // vectors, seed=0) == 1000


@pytest.mark.soak
@pytest.mark.parametrize("sigma", [0.0, 0.01, 1.0], ids=lambda s: f"noise{s:g}")
@pytest.mark.parametrize("d", SIZES)
def test_honest_vectors_at_the_clip_pass_a_hundred_thousand_times(d: int, sigma: float) -> None:
    fixed = fixed_point(d, clip=1.0, sigma=sigma)
    vectors = min(1000, 10_000_000 // d)
    batches = 100_000 // vectors if d <= 100 else 10
    coins = 100_000 // (vectors * batches)
    passed = sum(passes(fixed, vectors, coins, seed) for seed in range(batches))
    assert passed == 100_000


def test_the_first_float32_clip_alone_would_be_refused_at_small_sizes() -> None:
    """Power of the above: a vector clipped in float32 and rounded is too long again and again."""
    fixed = fixed_point(2, clip=1.0)
    rng = np.random.default_rng(0)
    hard = int((fixed.bound * 2**fixed.frac_bits) ** 2)
    too_long = 0
    for _ in range(200):
        row = rng.standard_normal(2).astype(np.float32)
        words = fixed.encode(row / np.linalg.norm(row))
        assert squared_norm(words) <= fixed.norm_limit
        too_long += squared_norm(words) > hard
    assert too_long > 20, "without the rounding slack of the limit honest vectors are refused"


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("d", [2, 10, 100])
def test_vectors_at_the_clip_pass_the_whole_protocol(d: int, sigma: float) -> None:
    fixed = fixed_point(d, clip=1.0, sigma=sigma)

    def at_the_clip(name: str, round: int, model: Vector) -> Vector:
        drawn = random_updates(round)(name, 0, np.zeros(d))
        row = drawn / np.linalg.norm(drawn)
        noise = sigma * random_updates(99, scale=float(np.sqrt(d)))(name, round, np.zeros(d))
        return np.asarray(row + noise).astype(np.float32)

    world = World(make_plan(8, d, Mean(), f=1, rounds=2, fixed=fixed), at_the_clip)
    world.finish()
    assert world.refused() == {}


def test_enough_projections_for_the_whole_run() -> None:
    """A cheater passes K tests with 2^-K: over all workers and rounds at most 2^-40."""
    for n, rounds in [(1, 1), (10, 3), (100, 1000), (1000, 10**6), (10**6, 10**15)]:
        k = projections(n, rounds)
        assert k >= 100
        assert n * rounds * 2.0**-k <= 2.0**-40
    assert projections(10**6, 10**15) > 100


# --- overflow -------------------------------------------------------------------------------


def spike(power: int) -> Callable[[Ring], Ring]:
    """2^power on coordinate 0."""

    def bend(words: Ring) -> Ring:
        out = words.copy()
        out[:1] += np.uint64(1 << power)
        return out

    return bend


def wrapped(k: int) -> Callable[[Ring], Ring]:
    """2^32 / sqrt(k) on k coordinates that are zero otherwise: a squared norm of 2^64."""

    def bend(words: Ring) -> Ring:
        out = words.copy()
        out[:k] = np.uint64((1 << 32) // int(np.sqrt(k)))
        return out

    return bend


def half_wrapped(k: int) -> Callable[[Ring], Ring]:
    """2^31.5 / sqrt(k) on k coordinates: a squared norm of 2^63, the double of which is 2^64."""

    def bend(words: Ring) -> Ring:
        out = words.copy()
        out[:k] = np.uint64(math.isqrt((1 << 63) // k))
        return out

    return bend


def small_square(words: Ring) -> Ring:
    """Five squares that sum to 2^64 + 4, as Lagrange promises four for any number: norm 2."""
    out = np.zeros_like(words)
    out[:5] = np.array([2**32 - 1, 92681, 304, 16, 0], np.uint64)
    rest = 2**64 + 4 - sum(int(x) ** 2 for x in out[:4].tolist())
    assert rest >= 0
    out[4:] = 0
    for at in range(4, len(out)):
        root = int(np.sqrt(float(rest)))
        out[at] = root
        rest -= root * root
    assert rest == 0
    return out


def dense_wrap(words: Ring) -> Ring:
    """Every coordinate +-2^32 / sqrt(d), d a power of 4."""
    d = len(words)
    out = np.full(d, (1 << 32) // int(np.sqrt(d)), np.uint64)
    out[::2] = np.negative(out[::2])
    return out


def top_bit_twice(words: Ring) -> Ring:
    """2^63 on two coordinates: even, so that every distance and product stays."""
    return spike(63)(np.roll(spike(63)(words), 1))


SHAPES: dict[str, Callable[[Ring], Ring]] = {
    "2^63 on one": spike(63),
    "2^62 on one": spike(62),
    "2^63 on two": top_bit_twice,
    "2^32 on an unused one": spike(32),
    "2^40 on an unused one": spike(40),
    "2^31 on two": half_wrapped(2),
    "2^30 on eight": half_wrapped(8),
    "2^29 on 32": half_wrapped(32),
    "2^31 on four": wrapped(4),
    "2^30 on sixteen": wrapped(16),
    "2^28 on 256": wrapped(256),
    "2^27 on all": dense_wrap,
    "squares that sum to 2^64 + 4": small_square,
}
D = 1024


def unused(name: str, round: int, model: Vector) -> Vector:
    """Honest updates that leave the first quarter of the coordinates at zero."""
    row = random_updates(0)(name, round, model)
    row[: D // 4] = 0.0
    return row


def bent(shape: Callable[[Ring], Ring]) -> Callable[[Upload], None]:
    """Uploads well-formed parts of a vector that is none."""
    return lambda upload: upload.send_all(upload.parts(shape(upload.words)))


def overflowing(shape: Callable[[Ring], Ring], rule: GramRule, liars: int = 1) -> World:
    plan = make_plan(9, D, rule, f=2, min_contributors=3)
    cheats = dict.fromkeys(plan.workers[9 - liars :], bent(shape))
    return World(plan, unused, cheats)


@cache
def without(rule: GramRule, liars: int) -> bytes:
    """The model of the federation that never had its last workers, nor their share of f."""
    plan = make_plan(9 - liars, D, rule.with_f(2 - liars), f=2 - liars, min_contributors=3)
    return World(plan, unused).finish().model.tobytes()


@pytest.mark.parametrize(
    ("rule", "liars"), [(Mean(), 1), (MultiKrum(2), 2), (CenteredClipping(0.5), 1)]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_vector_that_wraps_is_dropped_and_named(shape: str, rule: GramRule, liars: int) -> None:
    world = overflowing(SHAPES[shape], rule, liars)
    state = world.finish()
    assert world.refused() == dict.fromkeys(world.cheats, "overflow")
    assert state.model.tobytes() == without(rule, liars)


async def everybody(*args: Any, **named: Any) -> Bools:
    """A wraparound check that finds nothing: what the rest of the protocol does without it."""
    return np.ones(args[3].n, bool)


@pytest.mark.parametrize("shape", ["2^63 on one", "2^63 on two", "2^32 on an unused one"])
def test_without_the_wraparound_check_nobody_notices_who_it_was(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms and distances are blind: only the range of the opened sum is off, and names nobody."""
    in_both_servers(monkeypatch, "within_reach", everybody)
    world = overflowing(SHAPES[shape], MultiKrum(2))
    error = world.run().error
    assert world.refused() == {}
    assert isinstance(error, Abort)
    assert "out of range" in error.reason


def test_without_the_wraparound_check_a_wrapped_vector_is_in_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """2^26 on 4,096 coordinates: a squared norm of 2^64, 64 times the clip, in range of the sum."""
    d = 4096
    fixed = FixedPoint(d, 20, 64.0)

    def bend(words: Ring) -> Ring:
        return np.full(d, 1 << 26, np.uint64)

    def nothing(name: str, round: int, model: Vector) -> Vector:
        return np.zeros(d, np.float32)

    def world() -> World:
        plan = make_plan(9, d, MultiKrum(2), fixed=fixed, min_contributors=3)
        return World(plan, nothing, {"w00": bent(bend)})

    dropped = world()
    assert not dropped.finish().previous.any()
    assert dropped.refused() == {"w00": "overflow"}

    in_both_servers(monkeypatch, "within_reach", everybody)
    taken = world()
    moved = taken.finish().previous
    assert taken.refused() == {}
    assert np.linalg.norm(moved) > 8 * fixed.clip


# --- beyond the clip ------------------------------------------------------------------------


def long(upload: Upload, row: Vector) -> None:
    fixed = upload.world.plan.fixed
    upload.send_all(upload.parts(fixed.encode_exactly(row)))


def eight_in_one(upload: Upload) -> None:
    """8 x the clip in one coordinate: every projection is within reach."""
    row = np.zeros(upload.world.plan.fixed.d)
    row[1] = 8 * upload.world.plan.fixed.clip
    long(upload, row)


def three_dense(upload: Upload) -> None:
    """3 x the clip in a random direction."""
    row = np.asarray(random_updates(5)(upload.name, 0, np.zeros(upload.world.plan.fixed.d)))
    long(upload, 3 * upload.world.plan.fixed.clip * row / np.linalg.norm(row))


def a_little(upload: Upload) -> None:
    """Beyond the clip by a thousandth."""
    row = np.asarray(random_updates(6)(upload.name, 0, np.zeros(upload.world.plan.fixed.d)))
    long(upload, 1.001 * upload.world.plan.fixed.clip * row / np.linalg.norm(row))


def gram_rules() -> list[GramRule]:
    """Every Gram rule of the package, for f = 2."""
    made = []
    for kind in RULES.values():
        if issubclass(kind, GramRule):
            known: dict[str, Any] = {"f": 2, "tau": 0.5}
            wanted = {name: known[name] for name in known if name in kind.__annotations__}
            made.append(kind(**wanted))
    return made


@pytest.mark.parametrize("rule", gram_rules(), ids=lambda rule: rule.name)
@pytest.mark.parametrize("cheat", [eight_in_one, three_dense, a_little])
def test_a_vector_beyond_the_clip_is_refused_under_every_rule(
    cheat: Callable[[Upload], None], rule: GramRule
) -> None:
    plan = make_plan(10, 64, rule, f=2)
    world = World(plan, cheats=dict.fromkeys(plan.workers[8:], cheat))
    state = world.finish()
    assert world.refused() == dict.fromkeys(plan.workers[8:], "norm")
    left = World(make_plan(8, 64, rule.with_f(0), f=0))
    assert state.model.tobytes() == left.finish().model.tobytes()


@pytest.mark.parametrize("rule", [Mean(), MultiKrum(2)])
def test_without_the_norm_check_a_long_vector_is_in_the_sum(
    rule: GramRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*args: Any, **named: Any) -> Bools:
        return np.ones(len(args[3]), bool)

    in_both_servers(monkeypatch, "no_longer", nobody)
    plan = make_plan(10, 64, rule, f=2)
    world = World(plan, cheats={"w09": eight_in_one})
    vector = world.finish().previous
    clean = World(make_plan(9, 64, rule.with_f(1), f=1)).finish().previous
    assert world.refused() == {}
    moved = float(np.abs(vector - clean).max())
    assert moved > 1.0 if isinstance(rule, Mean) else moved < 1.0
