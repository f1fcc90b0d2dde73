"""Pre ends in the image, Agg is the paper's, the same bits in any order, bounds hold."""

import math
import sys
from fractions import Fraction
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import rule_twins as twins
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka import rules
from ostraka.algebra.image_sets import LONGEST
from ostraka.rules import fltrust
from ostraka.rules.clipped_mean import ClippedMean
from ostraka.rules.fltrust import FLTrust, root_bits
from ostraka.rules.image import ImageRule, Public, combine, plain
from ostraka.rules.rsa import RSA
from ostraka.rules.sign_mean import SignMean
from ostraka.trust.public_step import step

EVERY = {
    "rsa": RSA(0.01),
    "sign-mean": SignMean(),
    "sign-majority": SignMean(majority=True),
    "norm-bounded": ClippedMean(1.0),
    "centered": ClippedMean(1.0, centred=True),
    "coarse": ClippedMean(0.7, centred=True, frac_bits=3),
    "fltrust": FLTrust(),
}
LABELS = {
    "rsa": ["open-counts"],
    "sign-mean": ["open-counts"],
    "sign-majority": ["open-counts"],
    "norm-bounded": ["open-sum"],
    "centered": ["open-sum"],
    "coarse": ["open-sum"],
    "fltrust": ["open-sum", "open-scores"],
}
every = pytest.mark.parametrize("rule", EVERY.values(), ids=EVERY)


def public(seed, d, scale=1.0, coin=0):
    rows = np.random.default_rng([seed, 77]).standard_normal(d)
    return Public((scale * rows / math.sqrt(d)).astype(np.float32), coin)


def updates(seed, n, d, around=0.0):
    """Rows of norms 0.5 to 2 or so, float64."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) / math.sqrt(d)
    return around + rows * rng.uniform(0.5, 2.0, (n, 1))


@st.composite
def vectors(draw):
    """Finite updates of all scales and shapes, float32 or float64, and a public vector."""
    d = draw(st.integers(1, 70))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    top = 3e38 if dtype == np.float32 else 1e308
    low = float(np.finfo(dtype).smallest_subnormal)
    scale = draw(st.sampled_from([0.0, low, 1e-38, 1e-6, 0.4, 1.0, 1e6, top / 10]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shape = draw(st.sampled_from(["dense", "one-hot", "constant", "ramp", "half", "top"]))
    unit = {
        "dense": rng.standard_normal(d),
        "one-hot": np.eye(d)[0] * rng.choice([-1, 1]),
        "constant": np.ones(d),
        "ramp": np.logspace(0, -40, d),
        "half": np.full(d, 2.0**-21) * (2 * rng.integers(0, 9, d) + 1),
        "top": np.ones(d),
    }[shape]
    with np.errstate(over="ignore", under="ignore"):
        update = np.full(d, np.finfo(dtype).max) if shape == "top" else unit * scale
        update = np.clip(update, -top, np.finfo(dtype).max).astype(dtype)
    size = draw(st.sampled_from([0.0, 1e-44, 1e-20, 1e-3, 1.0, 1e25]))
    reference = (size * rng.standard_normal(d)).astype(np.float32)
    if draw(st.booleans()):
        reference *= np.arange(d) % 3 == 0
    return update, Public(reference, draw(st.integers(0, 1)))


# What holds for every rule


@pytest.mark.slow
@every
@settings(max_examples=80)
@given(case=vectors(), peer=st.integers(0, 999))
def test_pre_ends_in_the_image_whatever_it_is_given(rule, case, peer):
    update, state = case
    before = update.copy(), state.reference.copy()
    submission = rule.submit(update, state, peer)
    assert rule.image(state).contains(submission)
    again = rule.submit(update, state, peer)
    assert all((a == b).all() for a, b in zip(submission, again, strict=True))
    assert (update == before[0]).all()
    assert (state.reference == before[1]).all()
    assert all(part.dtype == np.int64 for part in submission)
    vector = combine(rule, {peer: submission}, state).vector
    assert vector.dtype == np.float32
    assert vector.shape == update.shape
    assert np.isfinite(vector).all()


@every
def test_the_same_bits_in_any_order_of_peers_and_from_any_dtype(rule):
    state = public(1, 50)
    rows = updates(2, 9, 50).astype(np.float32)
    first = plain(rule, list(rows), state)
    assert first.accepted == tuple(range(9))
    submissions = {i: rule.submit(rows[i].astype(np.float64), state, i) for i in range(9)}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(9)
        other = combine(rule, {int(i): submissions[int(i)] for i in order}, state)
        assert other.vector.tobytes() == first.vector.tobytes()
        assert other.accepted == first.accepted


@pytest.mark.parametrize("name", EVERY)
def test_what_is_opened_is_listed_and_is_the_sum_of_what_was_accepted(name):
    rule, state = EVERY[name], public(3, 20)
    submissions = {i: rule.submit(u, state, i) for i, u in enumerate(updates(4, 6, 20))}
    submissions[6] = tuple(np.full(part.shape, 1 << 40) for part in submissions[0])
    outcome = combine(rule, submissions, state)
    assert outcome.accepted == (0, 1, 2, 3, 4, 5)
    assert list(outcome.opened) == LABELS[name]
    assert list(outcome.opened) == [part.label for part in rule.image(state).parts]
    for at, total in enumerate(outcome.opened.values()):
        assert (total == sum(submissions[i][at] for i in range(6))).all()
    del submissions[6]
    assert outcome.vector.tobytes() == combine(rule, submissions, state).vector.tobytes()


@every
def test_an_update_that_is_none_is_the_callers_mistake(rule):
    state = public(5, 3)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="must be finite"):
            rule.submit(np.array([0.0, bad, 1.0]), state, 0)
    for bad in (np.zeros(4), np.zeros(0), np.zeros((3, 1)), np.zeros(3, int), np.zeros(3, "f2")):
        with pytest.raises(ValueError, match=r"must be float32 or float64 \(3,\)"):
            rule.submit(bad, state, 0)
    with pytest.raises(ValueError, match="no submission was accepted"):
        combine(rule, {}, state)


@every
def test_how_many_peers(rule):
    rule.check(5, 100, 2)
    rule.check((2**61 - 1) // 2 // LONGEST, 100)
    with pytest.raises(ValueError, match=r"wrap: at most 38430716820 peers"):
        rule.check((2**61 - 1) // 2 // LONGEST + 1, 100)
    for n, f in ((4, 2), (0, 0), (1, 1)):
        with pytest.raises(ValueError, match="needs 2f < n"):
            rule.check(n, 100, f)


def test_a_rule_that_does_not_fit_says_so_at_the_start():
    with pytest.raises(ValueError, match="write frac_bits = 19, or a tau of at most 28"):
        ClippedMean(30.0).check(10, 10**6)
    for bad in (0.0, -1.0, math.inf, math.nan, True):
        for make in (ClippedMean, RSA, FLTrust):
            with pytest.raises(ValueError, match="needs a finite"):
                make(bad)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(3),
        np.zeros((3, 1), np.float32),
        np.zeros(0, np.float32),
        [0.0],
        np.array([0, np.nan], np.float32),
        np.array([np.inf, 0], np.float32),
        np.array([0, -2e30], np.float32),
    ],
)
def test_public_vectors_are_checked(bad):
    with pytest.raises(ValueError, match="the public vector must be"):
        Public(bad)
    with pytest.raises(ValueError, match="the public coin is 0 or 1"):
        Public(np.zeros(1, np.float32), 2)


# Each rule and its definition


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("bits", [20, 12])
def test_clipped_means(centred, bits):
    """Within half a unit per coordinate, and one rounding to float32."""
    for seed in range(5):
        state, rows = public(seed, 40), updates(seed, 7, 40)
        got = plain(ClippedMean(1.0, centred, bits), list(rows), state).vector
        want = twins.centered_clipping(rows, 0, 1.0, 1, state.reference if centred else None)
        assert np.abs(got - want).max() <= 0.5001 * 2.0**-bits + 2.0**-24
        if centred:
            v = state.reference.astype(np.float64)
            gram = rules.aggregate(rows, rules.CenteredClipping(1.0), reference=v)
            assert np.abs(got - gram.vector).max() <= 0.5001 * 2.0**-bits + 2.0**-23


def test_the_bits_of_a_clipped_mean_from_fractions():
    state, rows = public(6, 30), updates(6, 7, 30)
    rule = ClippedMean(1.0, centred=True)
    outcome = plain(rule, list(rows), state)
    for at, total in enumerate(outcome.opened["open-sum"]):
        mean = float(Fraction(int(total), 2**20 * 7))
        assert outcome.vector[at] == np.float32(float(state.reference[at]) + mean)


def test_sign_means_and_majorities():
    rows = np.array([[1.0, -1.0, 0.0, 5e-324], [2.0, -3.0, 0.0, 1.0], [-1.0, -1e-300, 0.0, -0.0]])
    for coin in (0, 1):
        state = Public(np.zeros(4, np.float32), coin)
        ties = np.array([2 * ((peer + coin) % 2) - 1 for peer in range(3)])
        want = np.array([1, -3, ties.sum(), 2 + ties[2]])
        mean, most = (plain(SignMean(m), list(rows), state).vector for m in (False, True))
        assert mean.tolist() == (want / 3).astype(np.float32).tolist()
        assert most.tolist() == np.sign(want).tolist()
    tied = [np.array([1.0]), np.array([-1.0])]
    assert plain(SignMean(majority=True), tied, Public.blank(1)).vector.tolist() == [0.0]


def test_rsa_is_the_papers_pair_of_updates():
    """x_0 and x_i after one round, by the formulas of the docstring."""
    rng = np.random.default_rng(7)
    lam, a, d = 0.05, 0.1, 30
    rule, state = RSA(lam), Public(rng.standard_normal(d).astype(np.float32))
    own = rng.standard_normal((5, d)).astype(np.float32)
    aggregate = plain(rule, list(own), state).vector
    signs = sum(np.sign(state.reference.astype(np.float64) - x) for x in own)
    moved = step(state.reference, aggregate, a)
    assert np.abs(moved - (state.reference - a * lam * signs)).max() <= 1e-6
    gradient = rng.standard_normal(d).astype(np.float32)
    after = rule.local_step(own[0], gradient, state.reference, a)
    want = own[0] - a * (gradient + lam * np.sign(own[0] - state.reference))
    assert after.dtype == np.float32
    assert np.abs(after - want).max() <= 1e-6


def test_rsa_takes_the_exact_sign_and_splits_ties():
    x_0 = np.array([1.0, 1.0, 1.0, 0.0, 0.0], np.float32)
    own = np.array([1.0, 1.0 + 1e-15, 1.0 - 1e-15, 5e-324, -0.0])
    for coin in (0, 1):
        for peer in range(4):
            (bits,) = RSA(1.0).submit(own, Public(x_0, coin), peer)
            tie = (peer + coin) % 2
            assert bits.tolist() == [tie, 0, 1, 0, tie]


@pytest.mark.slow
def test_rsa_trains_in_spite_of_a_minority():
    """Peers with (x - c_i)^2 / 2 each; two of seven always push up. x_0 stays among the honest."""
    rng = np.random.default_rng(9)
    centres = rng.uniform(-1.0, 1.0, (5, 4))
    rule, x_0 = RSA(0.5), np.full(4, 5.0, np.float32)
    models = [np.zeros(4, np.float32) for _ in centres]
    for at in range(600):
        state, a = Public(x_0, at % 2), 1.0 / (10 + at)
        submissions = {i: rule.submit(x, state, i) for i, x in enumerate(models)}
        submissions |= {5: (np.zeros(4, np.int64),), 6: (np.zeros(4, np.int64),)}
        models = [rule.local_step(x, x - c, x_0, a) for x, c in zip(models, centres, strict=True)]
        x_0 = step(x_0, combine(rule, submissions, state).vector, a)
    assert (x_0 >= np.min(models, axis=0) - 0.1).all()
    assert (x_0 <= np.max(models, axis=0) + 0.1).all()


def fltrust_twin(rows, g0):
    """Equations 2 to 4 of the paper, in float64: the step, and the scores."""
    g0 = g0.astype(np.float64)
    length = np.linalg.norm(g0)
    scores, total = [], np.zeros(len(g0))
    for g in rows.astype(np.float64):
        cosine = g @ g0 / np.linalg.norm(g) / length
        scores.append(max(0.0, cosine))
        total += scores[-1] * length * g / np.linalg.norm(g)
    return total / sum(scores), np.array(scores)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e25])
def test_fltrust_is_the_papers_step(scale):
    """Rounding scores up by at most 2^-12 each shortens the step by that much of their mean."""
    for seed in range(6):
        d = 20 + 30 * seed
        state = public(seed, d, scale)
        rows = updates(seed, 8, d) * scale
        rows[::2] += 1.5 * state.reference
        outcome = plain(FLTrust(), list(rows), state)
        want, scores = fltrust_twin(rows, state.reference)
        (total,) = outcome.opened["open-scores"]
        assert -1e-3 <= total / 4096 - scores.sum() <= 8.1 / 4096
        error = np.linalg.norm(outcome.vector.astype(float) - want)
        allowed = 8.2 / 4096 / scores.sum() + 1e-4
        assert error <= allowed * np.linalg.norm(state.reference.astype(float))


def test_fltrust_with_one_honest_direction():
    """An update along g0 has score 1 and gives g0 itself; one against it counts for nothing."""
    state = public(1, 33)
    g0 = state.reference
    alone = plain(FLTrust(), [g0 / 1024, -g0, -5 * g0, 0 * g0], state)
    assert alone.opened["open-scores"].tolist() == [4096]
    assert np.abs(alone.vector - g0).max() <= 2.0**-16
    for rows in ([-g0, 0 * g0], [0 * g0]):
        idle = plain(FLTrust(), rows, state)
        assert idle.opened["open-scores"].tolist() == [0]
        assert not idle.vector.any()


@pytest.mark.parametrize(("score", "moves"), [(255, False), (256, True)])
def test_a_sum_of_scores_below_the_floor_is_a_zero_step(score, moves):
    state = public(2, 10)
    sums = np.arange(10), np.array([score])
    got = FLTrust(0.0625).aggregate(sums, 3, state)
    assert got.any() == moves
    if moves:
        want = np.arange(10) * 2.0 ** -root_bits(state.reference) * 16
        assert got.tolist() == want.astype(np.float32).tolist()


def test_a_zero_root_gradient_is_a_zero_step():
    state = Public.blank(5)
    outcome = plain(FLTrust(), list(updates(1, 4, 5)), state)
    assert not outcome.vector.any()
    assert not FLTrust().aggregate((np.ones(5, np.int64), np.array([9999])), 4, state).any()


@pytest.mark.slow
@settings(max_examples=80)
@given(
    seed=st.integers(0, 999),
    d=st.sampled_from([1, 2, 50, 3000]),
    exponent=st.integers(-148, 95),
    shape=st.sampled_from(["dense", "one-hot", "heavy", "constant"]),
)
def test_the_grid_follows_the_root_gradient(seed, d, exponent, shape):
    rng = np.random.default_rng(seed)
    g0 = {
        "dense": rng.standard_normal(d),
        "one-hot": np.eye(d)[seed % d],
        "heavy": rng.standard_cauchy(d),
        "constant": np.ones(d),
    }[shape]
    g0 = np.ldexp(g0 / np.abs(g0).max(), exponent).astype(np.float32)
    sphere = FLTrust().image(Public(g0))
    assert math.sqrt(sphere.squared) >= 1.4e7
    assert math.isqrt(sphere.norm_limit) <= LONGEST
    exact = np.ldexp(g0.astype(np.float64), root_bits(g0))
    assert np.abs(sphere.diameter - exact).max() <= 0.5


def test_the_grid_leaves_room_for_rounding():
    """Coordinates that are all rounded up lengthen a vector by sqrt(d)/2, here past 3.0e7."""
    for d in range(9000, 9100):
        whole, part = divmod(3e7 / math.sqrt(d), 1.0)
        if 0.6 < part < 0.9:
            sphere = FLTrust().image(Public(np.full(d, whole + 0.53125, np.float32)))
            assert math.isqrt(sphere.norm_limit) <= LONGEST
            return
    pytest.fail("no such d")


def test_a_peer_that_finds_no_rounding_sends_zero(monkeypatch):
    monkeypatch.setattr(fltrust, "round_to_sphere", lambda *_: None)
    state = public(3, 12)
    submission = FLTrust().submit(state.reference, state, 0)
    assert not submission[0].any()
    assert submission[1].tolist() == [0]
    assert FLTrust().image(state).contains(submission)


@pytest.mark.slow
def test_next_to_the_root_gradient_no_score_is_above_one():
    """Where ||G0||^2 is just below 2^24 kappa, roundings on the sphere may still lead past it."""
    rng = np.random.default_rng(11)
    rows = np.rint(rng.standard_normal((20_000, 50)) * 2.2e6).astype(np.int64)
    tight = np.argmin(-(rows**2).sum(axis=1) % (1 << 24))
    g0 = rows[tight].astype(np.float32)
    state, rule = Public(g0), FLTrust()
    sphere = rule.image(state)
    assert (sphere.kappa << 24) - sphere.squared < 5000
    for _ in range(400):
        update = g0 + rng.uniform(0.0, 30.0) * rng.standard_normal(50)
        assert sphere.contains(rule.submit(update, state, 0))


# Every point of the image is Pre of something


@pytest.mark.parametrize("coin", [0, 1])
def test_any_bits_are_pre_of_some_update(coin):
    rng = np.random.default_rng(coin)
    state = Public(rng.standard_normal(64).astype(np.float32), coin)
    bits = rng.integers(0, 2, 64)
    signs = 2.0 * bits - 1
    assert (SignMean().submit(signs, state, 3)[0] == bits).all()
    assert (RSA(1.0).submit(state.reference - signs * 1e-9, state, 3)[0] == bits).all()


@pytest.mark.slow
@settings(max_examples=60)
@given(seed=st.integers(0, 999), d=st.integers(1, 40), share=st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_any_point_of_the_ball_is_pre_of_some_update(seed, d, share):
    """Exactly within tau; in the slack beyond it Pre comes as near as the slack is wide."""
    rng = np.random.default_rng(seed)
    rule, state = ClippedMean(1.0, centred=True, frac_bits=12), public(seed, d)
    image = rule.image(state)
    y = rng.standard_normal(d)
    y = np.trunc(y * (share * math.sqrt(image.norm_limit) / np.linalg.norm(y))).astype(np.int64)
    assert image.contains((y,))
    (got,) = rule.submit(state.reference.astype(np.float64) + y / 2**12, state, 0)
    assert np.linalg.norm(got - y) <= (math.sqrt(d) / 2 + 1) * (np.linalg.norm(y) > 2**12)


@pytest.mark.slow
@settings(max_examples=60)
@given(seed=st.integers(0, 999), d=st.integers(2, 60), near=st.sampled_from([0.0, 0.1, 1.0, 9.0]))
def test_any_point_of_the_sphere_is_pre_of_itself(seed, d, near):
    state = public(seed, d)
    rule, rng = FLTrust(), np.random.default_rng(seed)
    sphere = rule.image(state)
    z, score = rule.submit(rng.standard_normal(d) + near * state.reference, state, 0)
    if dot_norm(z) > math.isqrt(sphere.eps) * 64:
        got = rule.submit(z.astype(np.float64), state, 5)
        assert (got[0] == z).all()
        assert got[1].tolist() == score.tolist()


def dot_norm(z):
    return float(np.linalg.norm(z.astype(np.float64)))


# What f peers can do


def worst(rule, state, seed, f):
    """f submissions in the image, as far out as it goes, in one common direction."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(state.d)
    if isinstance(rule, ClippedMean):
        limit = math.sqrt(rule.image(state).norm_limit)
        one = np.trunc(direction * (limit / np.linalg.norm(direction))).astype(np.int64)
        return [(one,)] * f
    if isinstance(rule, FLTrust):
        return [rule.submit(direction + state.reference, state, 0)] * f
    return [((direction > 0).astype(np.int64),)] * f


@pytest.mark.parametrize("name", EVERY)
def test_f_peers_move_the_aggregate_by_at_most_what_is_stated(name):
    rule, n, f, d = EVERY[name], 11, 4, 60
    for seed in range(6):
        state = public(seed, d, 1.0, seed % 2)
        rows = updates(seed, n, d) + state.reference
        honest = {i: rule.submit(rows[i], state, i) for i in range(n)}
        cheats = dict(zip(range(n - f, n), worst(rule, state, seed, f), strict=True))
        before, after = (combine(rule, s, state) for s in (honest, honest | cheats))
        assert after.accepted == tuple(range(n))
        moved = np.abs(after.vector.astype(float) - before.vector)
        if isinstance(rule, ClippedMean):
            limit = rule.tau + math.sqrt(d) / 2 * 2.0**-rule.frac_bits
            assert np.linalg.norm(moved) <= 2 * f / n * limit + 1e-6
        elif isinstance(rule, RSA):
            assert moved.max() <= 2 * f * rule.lam * 1.001
        elif isinstance(rule, SignMean):
            assert moved.max() <= (2 if rule.majority else 2 * f / n) + 1e-6
        else:
            alone = combine(rule, {i: honest[i] for i in range(n - f)}, state)
            trusted = alone.opened["open-scores"][0] / 4096
            length = np.linalg.norm(state.reference.astype(float))
            moved = np.linalg.norm(after.vector.astype(float) - alone.vector)
            assert moved <= 2 * f / (trusted + f) * length * 1.001
            assert np.linalg.norm(after.vector) <= length * 1.001


def test_what_the_slack_of_the_sphere_is_worth():
    """Free vectors move a step by f 2^-16 ||g0|| over the scores, scores of nothing shorten it."""
    rule, g0, f = FLTrust(), public(4, 40).reference.copy(), 3
    g0[7] = 0.0
    state = Public(g0)
    sphere = rule.image(state)
    honest = {
        i: rule.submit(u + state.reference, state, i) for i, u in enumerate(updates(1, 7, 40))
    }
    before = combine(rule, honest, state)
    (scores,) = before.opened["open-scores"]
    free = np.eye(40, dtype=np.int64)[7] * math.isqrt(sphere.eps)
    nothing = np.zeros(40, np.int64), np.array([90])
    length = np.linalg.norm(state.reference.astype(float))
    for cheat, most in (
        ((free, np.array([0])), f * 2.0**-16 * 4096 / scores),
        (nothing, 90 * f / (scores + 90 * f)),
    ):
        after = combine(rule, honest | dict.fromkeys((7, 8, 9), cheat), state)
        moved = np.linalg.norm(after.vector.astype(float) - before.vector)
        assert 0 < moved <= most * length * 1.001
        assert len(after.accepted) == 10


def test_majorities_that_all_honest_peers_share_stand():
    rule, state = SignMean(majority=True), public(1, 30)
    honest = np.random.default_rng(1).choice([-1.0, 1.0], 30)
    submissions = {i: rule.submit(honest * (i + 1), state, i) for i in range(6)}
    submissions |= {i: rule.submit(-honest, state, i) for i in range(6, 11)}
    assert (combine(rule, submissions, state).vector == honest).all()


# The page


def test_the_image_rule_of_the_how_to_works_as_it_is_printed(tmp_path):
    page = Path(__file__).parents[3] / "docs" / "how-to-add-an-image-rule.md"
    lines = page.read_text().split("```python\n")[1].split("```")[0].splitlines()
    code = "\n".join(line.removeprefix("   ") for line in lines)
    assert len([line for line in lines if line.strip()]) < 40
    file = tmp_path / "layerwise.py"
    file.write_text(code)
    spec = spec_from_file_location("layerwise_of_the_page", file)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    rule = module.LayerwiseMean((3, 5), 0.5)
    assert isinstance(rule, ImageRule)
    rows, state = updates(1, 4, 8), Public.blank(8)
    outcome = plain(rule, list(rows), state)
    parts = [twins.centered_clipping(piece, 0, 0.5) for piece in np.split(rows, [3], axis=1)]
    assert np.abs(outcome.vector - np.concatenate(parts)).max() <= 2.0**-16
    assert list(outcome.opened) == ["open-sum-0", "open-sum-1"]
