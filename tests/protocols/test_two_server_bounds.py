"""The numbers of docs/trust/two-server.md: every bound of its proofs, and its table of bytes.

Small exact computations stand beside the constants of the code, so that neither can drift alone.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ostraka.algebra.fixed import FixedPoint
from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.protocols.compare import triples_needed
from ostraka.protocols.linear_image import NOTHING, Image
from ostraka.protocols.opening import dither_words
from ostraka.protocols.wrap_check import project, projections, two_sided, wrap_triples
from ostraka.rules import NNM, CenteredClipping, GeometricMedian, GramRule, Mean, MultiKrum
from ostraka.rules.gram import Geometry
from ostraka.rules.guard import contributors, guarded
from ostraka.rules.integer_weights import round_off, shift_bits
from ostraka.sharing.additive import Shares
from ostraka.trust.two_server import Budget, image_of
from ostraka.trust.two_server.terms import costs
from tests.protocols.two_server_world import DEALER, OPERATORS, S0, S1, Sent, World, make_plan

PAGE = Path(__file__).parents[2] / "docs" / "trust" / "two-server.md"
LARGEST = FixedPoint(10**6, 24, 4.0)
"""bound * 2^frac_bits = 2^26, the most that start-up takes."""
BERRY_ESSEEN = 0.56  # Shevtsova 2010, for summands of different laws


# --- the wraparound check -----------------------------------------------------------------------


def pass_chance(x: list[int], reach: int, ring: int) -> float:
    """The exact probability that |<x, r>| <= reach in Z_ring, for a random r in {-1, 0, 1}^d."""
    chance = np.zeros(ring)
    chance[0] = 1.0
    for value in x:
        chance = chance / 2 + (np.roll(chance, value) + np.roll(chance, -value)) / 4
    return float(chance[: reach + 1].sum() + chance[ring - reach :].sum())


def gaussian_bound(t: float, ratio: float) -> float:
    """Berry-Esseen: P(|S| <= t ||x||), where the sum of third moments is ratio * deviation^3."""
    return math.erf(t) + 2 * BERRY_ESSEEN * ratio  # S has variance ||x||^2 / 2: t / that is erf's


def test_a_vector_with_a_coordinate_beyond_2_t_passes_with_at_most_one_half() -> None:
    reach, ring = 3, 64
    large = range(2 * reach + 1, ring // 2 + 1)
    worst = max(pass_chance([a, b], reach, ring) for a, b in product(large, range(ring)))
    assert worst == 0.5  # no more, and reached: 0 on one side of the wheel, all else on the other
    rng = np.random.default_rng(1)
    for _ in range(200):
        rest = rng.integers(0, ring, rng.integers(1, 8)).tolist()
        assert pass_chance([int(rng.choice(large)), *rest], reach, ring) <= 0.5 + 1e-12
    # The condition is needed: 2 T itself, beside T, passes more often.
    assert pass_chance([2 * reach, reach], reach, ring) == 0.625


def test_berry_esseen_gives_one_half_for_vectors_of_small_coordinates() -> None:
    t = 1 / math.sqrt(32)  # T / ||x||, when T^2 <= 2^63 / 32 <= ||x||^2 / 32
    largest = 2 * t  # coordinates are at most 2 T
    assert gaussian_bound(t, largest / math.sqrt(2)) == pytest.approx(0.4774, abs=1e-4)
    assert gaussian_bound(t, largest * math.sqrt(2)) > 0.75  # on r itself: it proves nothing
    # How much larger T might be, and what vectors beyond 2^64 come to.
    more = 1.047 * t
    assert gaussian_bound(more, 2 * more / math.sqrt(2)) < 0.5
    assert gaussian_bound(1 / 8, 2 / 8 / math.sqrt(2)) < 0.34


def hostile_shapes(reach: int) -> Iterator[list[int]]:
    """Vectors of coordinates up to 2 T with ||x||^2 >= 32 T^2: equal ones, steps, random ones."""
    rng = np.random.default_rng(2)
    least = 32 * reach**2
    for size in range(1, 2 * reach + 1):
        yield [size] * -(-least // size**2)
        yield [2 * reach] * 7 + [size] * -(-(least - 28 * reach**2) // size**2)
    for _ in range(100):
        x: list[int] = []
        while sum(v * v for v in x) < least:
            x.append(int(rng.integers(1, 2 * reach + 1)))
        yield x


def test_no_shape_of_small_coordinates_comes_near_one_half() -> None:
    reach = 6
    chances = [pass_chance(x, reach, 1 << 12) for x in hostile_shapes(reach)]
    assert len(chances) > 100
    assert 0.28 < max(chances) < 0.31  # as many coordinates of T as fit: the worst that we know


def test_the_codes_reach_meets_the_conditions_of_both_halves_of_the_proof() -> None:
    reach, limit = LARGEST.projection_limit, LARGEST.norm_limit
    assert reach == pytest.approx(2**29, rel=1e-4)
    assert gaussian_bound(reach / 2**31.5, 2 * reach / 2**31.5 / math.sqrt(2)) <= 0.5
    assert limit < 2**53
    for d, frac_bits, least in ((2, 20, 64), (100, 3, 64), (10**6, 20, 64), (2**32, 24, 63.9)):
        fixed = FixedPoint(d, frac_bits, 4.0)
        exponent = fixed.projection_limit**2 / fixed.norm_limit
        assert exponent > least, d  # an honest vector fails a test with at most 2 exp(-exponent)
        assert fixed.projection_limit <= 2**29


def test_the_tail_of_honest_projections_is_sub_gaussian() -> None:
    for step in np.linspace(-20, 20, 401):
        assert math.log((1 + math.cosh(step)) / 2) <= step**2 / 4 + 1e-12
    for d in (4, 64, 400):  # x of ones: <x, r> is a binomial of 2 d tosses, less d
        for times in (0.5, 1, 2, 3, 5, 8):
            beyond = math.floor(times * math.sqrt(d)) + 1
            tail = 2 * sum(math.comb(2 * d, d + s) for s in range(beyond, d + 1)) / 4**d
            assert tail <= 2 * math.exp(-(times**2))


@pytest.mark.parametrize("n", [1, 3, 100, 10_000])
def test_k_keeps_a_whole_run_below_2_to_the_minus_40(n: int) -> None:
    for rounds in (1, 3 * 200, 3 * 10**6, 2**60):
        k = projections(n, rounds)
        assert k >= 100
        assert math.log2(n * rounds) - k <= -40
    assert projections(n, 2**60 // n) == 100


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Load the kernels before the clock of any test runs."""
    project(Shares([np.zeros(4, np.uint64)], 4), Key(bytes(32)), 1)


WRAPPED = {
    "2^63 on one": [2**63],
    "2^32 on one": [2**32],
    "2^31 on four": [2**31] * 4,
    "2^30 on sixteen": [2**30] * 16,
    "2^29 on sixty-four": [2**29] * 64,
    "dense": [2**26] * 4096,
}


@pytest.mark.parametrize("shape", WRAPPED)
def test_a_vector_that_wraps_reads_as_short_and_is_caught(shape: str) -> None:
    x = np.zeros(4096, np.uint64)
    x[: len(WRAPPED[shape])] = WRAPPED[shape]
    assert int((x * x).sum(dtype=np.uint64)) == 0  # what the norm check alone would read
    assert sum(value**2 for value in WRAPPED[shape]) >= 2**63
    y = project(Shares([x], len(x)), Key(bytes(32)), 100).view(np.int64)
    caught = int((np.abs(y.astype(object)) > LARGEST.projection_limit).sum())
    assert caught > 25  # of 100; more than half is expected


# --- the norm check and the comparison ------------------------------------------------------------


def signs(values: list[int], low: int, high: int) -> list[bool]:
    """Whether both tests of each value have a top bit of 0."""
    words = np.array([[value % 2**64] for value in values], np.uint64)
    tests: Ring = two_sided(words, 0, low, high)
    return [bool(good) for good in (tests >> np.uint64(63) == 0).all(axis=1)]


def test_two_signs_say_exactly_that_a_number_is_between_two_bounds() -> None:
    for low, high in ((0, LARGEST.norm_limit), (-(2**29), 2**29), (0, 2**63 - 1), (-3, 5)):
        edges = (low, high, 0, 2**63 - 1, -(2**63), 2**62, -(2**62), low - 2**63, high + 2**63)
        values = [edge + step for edge in edges for step in (-1, 0, 1)]
        read = [(value + 2**63) % 2**64 - 2**63 for value in values]
        assert signs(values, low, high) == [low <= value <= high for value in read]


def adder(a: int, b: int) -> tuple[int, int]:
    """The top bit of a + b by the page's adder, and the number of ANDs of words."""
    mask = 2**64 - 1
    p, g, ands = a ^ b, a & b, 1
    for shift in (1, 2, 4, 8, 16):
        g, p, ands = g ^ (p & (g << shift) & mask), p & (p << shift) & mask, ands + 2
    g, ands = g ^ (p & (g << 32) & mask), ands + 1
    return (a ^ b) >> 63 ^ (g >> 62) & 1, ands


def test_the_adder_gives_the_top_bit_with_twelve_ands() -> None:
    rng = np.random.default_rng(3)
    edges = [0, 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
    pairs = list(product(edges, edges))
    pairs += [(int(a), int(b)) for a, b in rng.integers(0, 2**64, (500, 2), dtype=np.uint64)]
    for a, b in pairs:
        assert adder(a, b) == ((a + b) % 2**64 >> 63, 12)


def test_triples_of_a_row_follow_the_closed_form() -> None:
    for tests in (1, 2, 63, 64, 65, 200, 513):
        assert triples_needed(1, tests) == 12 * tests + math.ceil(tests / 64) + 5
    assert wrap_triples(1, 100) + triples_needed(1, 2) == 2439


# --- Gram sharing, opening, guard, image ----------------------------------------------------------


def test_the_shares_of_the_page_sum_to_twice_the_gram_matrix() -> None:
    rng = np.random.default_rng(4)
    x, x0, b, r = (rng.integers(0, 2**64, (4, 9), dtype=np.uint64) for _ in range(4))
    y, r = x - x0, np.triu(r[:, :4]) + np.triu(r[:, :4], 1).T
    f, p, two = y - b, x0 - b, np.uint64(2)
    assert (two * x0 + f == x + p).all()
    assert (y + b == x - p).all()
    of_0 = (x + p) @ (x + p).T + r
    of_1 = (x - p) @ (x - p).T + (np.negative(two * (p @ p.T)) - r)
    assert (of_0 + of_1 == two * (x @ x.T)).all()


def test_rounding_under_a_uniform_dither_is_unbiased_and_off_by_less_than_a_step() -> None:
    s, step = 6, 64
    for value in range(-150, 150):
        dithered = [value + dither for dither in range(-step // 2, step // 2)]
        kept = [z + step // 2 >> s for z in dithered]
        assert sum(kept) == value  # the mean, times 2^s
        assert all(abs(k * step - value) < step for k in kept)
        assert len({z % step for z in dithered}) == step  # the low bits say nothing of the value


@pytest.mark.parametrize(("weight_bound", "s"), [(1.0, 24), (16.0, 28)])
def test_the_code_dithers_and_rounds_as_the_page_says(weight_bound: float, s: int) -> None:
    assert shift_bits(weight_bound) == s
    values = np.random.default_rng(5).integers(-(2**50), 2**50, 5000)
    dither = dither_words(Key(bytes(32)), s, len(values)).view(np.int64)
    assert -(2 ** (s - 1)) <= dither.min() < -(2 ** (s - 1)) * 0.99
    assert 2 ** (s - 1) * 0.99 < dither.max() < 2 ** (s - 1)
    got = round_off(values + dither, s)
    assert got.tolist() == [
        (v + u + 2 ** (s - 1) >> s) << (s - 24) for v, u in zip(values, dither, strict=True)
    ]
    assert (np.abs(got - values / 2**24) < weight_bound).all()


def test_exact_sums_of_equal_24_bit_weights_would_give_one_update_away() -> None:
    odd_one = [m for m in range(2, 20) if 2**24 % m == 1]
    assert odd_one == [3, 5, 7, 9, 13, 15, 17]
    rows = np.random.default_rng(6).integers(-(2**18), 2**18, (5, 8))
    weight = 2**24 // 5
    opened = weight * rows.sum(axis=0) + rows[0]  # one weight must be larger by 1
    low = opened % weight
    assert (np.where(low > weight // 2, low - weight, low) == rows[0]).all()


@pytest.mark.parametrize(
    ("weights", "f", "before", "cap"),
    [([0.5] + [0.05] * 10, 2, 1.08, 0.1), ([0.3] + [0.7 / 99] * 99, 10, 1.0494, 0.0472)],
)
def test_the_guards_examples(weights: list[float], f: int, before: float, cap: float) -> None:
    c = np.array(weights)
    assert contributors(c, f) == pytest.approx(before, abs=1e-4)
    lowered = np.minimum(c, cap)
    safe = guarded(c, Geometry.blank(len(c)), GeometricMedian(), f, 3)
    assert safe.capped
    np.testing.assert_allclose(safe.coefficients, lowered / lowered.sum(), rtol=2e-3)
    assert contributors(safe.coefficients, f) == pytest.approx(3, rel=1e-3)


def test_what_is_opened_fits_in_words() -> None:
    longest = math.isqrt(LARGEST.norm_limit) + 1
    assert 4 * LARGEST.norm_limit < 2**56  # a distance
    for weight_bound in (1.0, 16.0):  # a weighted sum of 10^6 rows, weights rounded, and dither
        budget = Budget("a rule", 10**6, weight_bound, 1.0, False)
        s = shift_bits(weight_bound)
        assert abs(budget.needed(LARGEST.norm_limit) - (2**24 + 10**6) * longest - 2**s) <= 2**25
        assert budget.needed(LARGEST.norm_limit) < 2**51
    assert 10**9 * longest < 2**62  # a sum under equal weights


def test_two_colluders_read_two_coordinates_of_an_honest_row_from_distances() -> None:
    rng = np.random.default_rng(7)
    honest = rng.integers(-(2**10) + 1, 2**10, 50)
    plain, probe = np.zeros(50, np.int64), np.zeros(50, np.int64)
    probe[[3, 8]] = 1, 2**11
    distance = ((honest - plain) ** 2).sum() - ((honest - probe) ** 2).sum()
    product_with = (distance + (probe**2).sum()) // 2
    first = (product_with + 2**10) % 2**11 - 2**10
    assert (first, (product_with - first) // 2**11) == (honest[3], honest[8])


@pytest.mark.parametrize("d", [2, 10, 100, 1000])
def test_noise_is_longer_than_its_part_of_the_bound_almost_never(d: int) -> None:
    half = (math.sqrt(d) + 8) ** 2 / 2  # survival of chi squared for even d, in logarithms
    terms = [k * math.log(half) - math.lgamma(k + 1) - half for k in range(d // 2)]
    assert sum(map(math.exp, terms)) <= math.exp(-32)
    assert FixedPoint(d, 10, 4.0, 0.5).bound == pytest.approx(4 + 0.5 * (math.sqrt(d) + 8))


# --- bytes ----------------------------------------------------------------------------------------


def link_bytes(n: int, d: int, k: int, image: Image) -> dict[tuple[str, str], int]:
    """The page's closed forms: bytes of a round from one to another, headers of messages aside."""
    words = n * (24 * k + math.ceil(2 * k / 64) + 5) + n * 30
    cross = n * (n + 1) // 2 if image.full else n
    return {
        ("worker", S0): 128,
        ("worker", DEALER): 128,
        ("worker", S1): 8 * d + 128,
        (S0, "worker"): 4 * d,
        (S1, "worker"): 33,
        (S1, S0): 8 * n * d + 8 * d + 16 * words + 10 * n,
        (S0, S1): 8 * d + 16 * words + 8 * image.count(n) + 34 * n,
        (DEALER, S1): 8 * words + 8 * cross + 33 * n,
        (S1, DEALER): n,
        (DEALER, S0): 57,
        (S0, DEALER): 81,
    }


def role(name: str) -> str:
    """Workers are alike."""
    return name if name in OPERATORS else "worker"


RULES = [Mean(), MultiKrum(f=1), GeometricMedian(), CenteredClipping(tau=0.5)]


def test_servers_send_twenty_times_fewer_bytes_than_pairwise_triples() -> None:
    """Of the paper's scheme, which masks both rows of every pair in both directions."""

    def pairwise(n: int, d: int) -> int:
        return 8 * n * (n - 1) * d

    n, d = 25, 10**5
    forms = link_bytes(n, d, 100, Image(distances=True, norms=False, products=False))
    assert 2 * pairwise(n, d) >= 20 * (forms[S0, S1] + forms[S1, S0])
    assert f"{pairwise(100, 10**6) / 1e9:.1f} GB" in PAGE.read_text()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_links_carry_what_the_closed_forms_say(rule: GramRule) -> None:
    n, d = 5, 500
    plan = make_plan(n, d, rule, f=1)
    world = World(plan)
    world.finish()
    sent: Counter[tuple[str, str]] = Counter()
    frames: Counter[tuple[str, str]] = Counter()
    for one in world.sent:
        link = role(one.sender), role(one.to)
        if one.frame.label[0] in (("round", 0), ("stated", 0)):  # without greetings and farewells
            sent[link] += one.frame.size
            frames[link] += 1
    forms = link_bytes(n, d, plan.projections, plan.image)
    assert sent.keys() == forms.keys()
    for link, least in forms.items():
        links = n if "worker" in link else 1
        assert links * least <= sent[link] <= links * least + 96 * frames[link], link
    stated = costs(n, d, plan.projections, plan.image)
    for party in OPERATORS:
        ours = sum(count for (sender, _), count in sent.items() if sender == party)
        ands = sum(count for (sender, _), count in frames.items() if sender == party)
        assert stated[party].bytes_sent <= ours <= stated[party].bytes_sent + 96 * ands


def test_a_round_takes_as_many_exchanges_as_the_page_says() -> None:
    plan = make_plan(5, 20, MultiKrum(f=1), f=1)
    world = World(plan)
    world.finish()
    assert plan.projections == 100
    layers = Counter(check_of(one) for one in world.of_kind("Masked", S0))
    assert layers == {"wrap": 15, "norm": 13}
    verdicts = [(check_of(one), one.sender) for one in world.of_kind("Verdict")]
    assert sorted(verdicts) == sorted(product(("norm", "wrap"), (S0, S1)))


def check_of(one: Sent) -> str:
    """Which check a frame belongs to."""
    return next(name for name, _ in one.frame.label if name in ("wrap", "norm"))


def shown(count: int) -> str:
    """Bytes as the page's table has them."""
    text: str = f"{count:,} B" if count < 10**5 else f"{count / 1e6:,.2f} MB"
    return text


def test_the_pages_table_of_bytes_is_what_the_forms_give() -> None:
    table = re.findall(r"^\| (.+?) \| `.+?` \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    image = image_of(MultiKrum(f=1))
    sizes = [link_bytes(n, d, 100, image) for n, d in ((10, 10**5), (100, 10**6))]
    expected = [(f"{a} to {b}", *(shown(size[a, b]) for size in sizes)) for a, b in sizes[0]]
    assert table == expected
    assert NOTHING.count(100) == 0


@pytest.mark.parametrize(
    ("rule", "pre", "opened"),
    [
        (Mean(), (), "nothing"),
        (MultiKrum(f=1), (), "distances"),
        (GeometricMedian(), (), "distances"),
        (Mean(), (NNM(f=1),), "distances"),
        (CenteredClipping(tau=1.0), (), "norms, products"),
        (CenteredClipping(tau=1.0, steps=2), (), "distances, norms, products"),
        (CenteredClipping(tau=1.0), (NNM(f=1),), "distances, norms, products"),
    ],
)
def test_the_pages_table_of_what_is_opened_is_the_codes(
    rule: GramRule, pre: tuple[NNM, ...], opened: str
) -> None:
    assert (", ".join(image_of(rule, pre).labels) or "nothing") == opened
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (?:exact sum|rounded) \|$", PAGE.read_text(), re.M)
    name = "NNM" if pre else rule.name.replace("-", " ")
    name = name.replace("multi krum", "multi-krum").lower()
    seen = {
        what.removesuffix(" with the last aggregate") for who, what in rows if name in who.lower()
    }
    assert opened in seen


def test_the_page_names_the_files_of_its_steps_and_the_constants_of_the_code() -> None:
    text = PAGE.read_text()
    root = Path(__file__).parents[2] / "src" / "ostraka"
    files = set(
        re.findall(r"`((?:protocols|trust|rules|sharing|algebra|crypto)/[\w/]+\.py)`", text)
    )
    assert len(files) >= 12
    assert [name for name in sorted(files) if not (root / name).exists()] == []
    small: npt.NDArray[np.float64] = np.array([c / 100 for c in (50, *[5] * 10)])
    assert f"{contributors(small, 2):.2f}" in text
