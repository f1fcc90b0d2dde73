"""Epsilon: closed forms, known values, amplification, and the central bound with its conditions."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from ostraka.learn.privacy import PrivacySpent, epsilon, noise_adds_up, noise_factor
from ostraka.learn.settings import Privacy

DELTA = 1e-5


def example(sigma=1.1, clip=1.0):
    return Privacy("example", clip, sigma, DELTA)


def participant(sigma=1.1):
    return Privacy("participant", 1.0, sigma, DELTA)


def balle_wang(sigma):
    """Gaussian of sensitivity 1: solve Phi(1/2s - es) - e^e Phi(-1/2s - es) = delta (2018)."""

    def delta(e):
        a, b = 1 / (2 * sigma) - e * sigma, -1 / (2 * sigma) - e * sigma
        return stats.norm.cdf(a) - math.exp(e + stats.norm.logcdf(b))

    return brentq(lambda e: delta(e) - DELTA, 0, 700)


@pytest.mark.parametrize("rounds", [1, 10, 200])
@pytest.mark.parametrize("sigma", [1.1, 4.0])
def test_closed_form_of_the_gaussian(sigma, rounds):
    want = balle_wang(sigma / math.sqrt(rounds))
    assert epsilon(example(sigma), rounds=rounds) == pytest.approx(want, rel=1e-6)
    half = balle_wang(sigma / 2 / math.sqrt(rounds))
    assert epsilon(participant(sigma), rounds=rounds, q=0.1) == pytest.approx(half, rel=1e-6)


@pytest.mark.slow
def test_the_distributions_agree_with_the_closed_form():
    """q almost 1, through the other code path."""
    want = epsilon(example(2.0), rounds=50)
    assert epsilon(example(2.0), rounds=50, q=1 - 1e-9) == pytest.approx(want, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma", "q", "rounds"), [(1.1, 0.01, 200), (1.1, 0.27, 50), (4.0, 0.0005, 200)]
)
def test_our_grid_agrees_with_the_accountants(sigma, q, rounds):
    import dp_accounting
    from dp_accounting import pld

    accountant = pld.PLDAccountant(value_discretization_interval=5e-4 if q > 0.1 else 1e-4)
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(q, gaussian), rounds)
    want = accountant.get_epsilon(DELTA)
    assert epsilon(example(sigma), rounds=rounds, q=q) == pytest.approx(want, rel=5e-3, abs=3e-3)


@pytest.mark.slow
def test_amplification_matters():
    """Known batches void it: an order of magnitude (the design's 17.9 against 1.6)."""
    sampled = epsilon(example(), rounds=20, q=0.05)
    known = epsilon(example(), rounds=20)
    assert known > 10 * sampled


@pytest.mark.slow
def test_little_noise_needs_little_memory():
    """At dp_accounting's own grid the second of these takes more than 10 GiB."""
    tracemalloc.start()
    for sigma in (0.1, 0.05, 1e-3, 1e-8, 1e-300):
        found = epsilon(example(sigma), rounds=200, q=0.3)
        assert 1000 < found <= epsilon(example(sigma), rounds=200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.slow
def test_extremes():
    assert epsilon(example(0.0), rounds=1) == math.inf
    assert epsilon(participant(0.0), rounds=1) == math.inf
    assert epsilon(example(0.0), rounds=0) == 0.0
    assert epsilon(example(), rounds=0, q=0.1) == 0.0
    assert 0 <= epsilon(example(1e4), rounds=1, q=0.01) < 1e-3
    assert epsilon(example(), rounds=5, delta=1e-9) > epsilon(example(), rounds=5)
    for bad in ({"q": 0.0}, {"q": 1.5}, {"local_steps": 0}, {"delta": 0.0}):
        with pytest.raises(ValueError, match=r"need|delta"):
            epsilon(example(), rounds=1, **bad)
    with pytest.raises(ValueError, match="need"):
        epsilon(example(), rounds=-1)


@pytest.mark.slow
def test_local_steps_count_for_examples_only():
    assert epsilon(example(), rounds=25, local_steps=4, q=0.1) == pytest.approx(
        epsilon(example(), rounds=100, q=0.1), rel=1e-6
    )
    assert epsilon(participant(), rounds=5, local_steps=4) == epsilon(participant(), rounds=5)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_spending_round_by_round_is_the_whole(steps):
    """Forward one by one, by jumps, and backward: the same numbers, growing."""
    spent = PrivacySpent(example(), rounds=30, local_steps=steps, q=0.1)
    walked = [spent.after(k) for k in range(31)]
    assert walked[0] == 0.0
    assert walked == sorted(walked)
    fresh = PrivacySpent(example(), rounds=30, local_steps=steps, q=0.1)
    for k in (30, 7, 8, 1, 29, 29):
        assert fresh.after(k) == pytest.approx(walked[k], rel=1e-6)
    assert walked[30] == pytest.approx(epsilon(example(), rounds=30, local_steps=steps, q=0.1))
    assert spent.after(40) > walked[30]
    with pytest.raises(ValueError, match="negative"):
        spent.after(-1)


def test_the_pages_weights():
    assert noise_factor([7.0] + [1.0] * 99, f=10) == pytest.approx(1.7, abs=0.03)
    assert noise_factor([7.0] + [1.0] * 99, f=0) == pytest.approx(math.sqrt(49 + 99) / 7)
    assert noise_factor([1.0] * 100, f=10) == pytest.approx(math.sqrt(90))
    assert noise_factor([1.0], f=0) == 1.0


@pytest.mark.parametrize("seed", range(10))
def test_noise_factor_is_the_worst_set_of_helpers(seed):
    """Brute force: every victim, every choice of the f others that add nothing."""
    from itertools import combinations

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    f = int(rng.integers(0, n))
    weights = rng.uniform(0.1, 5, n)
    worst = min(
        math.sqrt(weights[v] ** 2 + sum(weights[j] ** 2 for j in helpers)) / weights[v]
        for v in range(n)
        for helpers in combinations([j for j in range(n) if j != v], n - f - 1)
    )
    assert noise_factor(weights, f) == pytest.approx(worst)


@pytest.mark.parametrize(("weights", "f"), [([], 0), ([1.0], 1), ([1.0, 0.0], 0), ([1.0], -1)])
def test_noise_factor_refuses(weights, f):
    with pytest.raises(ValueError, match=r"need 0 <= f < n|positive"):
        noise_factor(weights, f)


ADDS_UP = {"mean": True, "clipped": False, "local_steps": 1, "complete": True}


@pytest.mark.slow
def test_helpers_divide_by_the_root_of_their_number():
    spent = PrivacySpent(example(), rounds=100, q=0.2, noise_factor=noise_factor([1.0] * 10, 1))
    assert spent.after(100) == pytest.approx(epsilon(example(3.3), rounds=100, q=0.2), rel=1e-3)


@pytest.mark.parametrize(
    "broken", [{"mean": False}, {"clipped": True}, {"local_steps": 3}, {"complete": False}]
)
def test_noise_adds_up_only_where_every_condition_holds(broken):
    assert noise_adds_up(example(), **ADDS_UP)
    assert not noise_adds_up(example(), **{**ADDS_UP, **broken})


def test_local_steps_do_not_matter_to_a_participant():
    assert noise_adds_up(participant(), **{**ADDS_UP, "local_steps": 3})


def test_momentum_with_other_helpers_breaks_the_central_bound():
    """Why ``complete`` is asked for: a counterexample to "the noise of n - f workers adds up".

    Two rounds, beta = 0.9, two workers of weight 1 in each sum: the victim in both, one helper in
    the first only, another in the second only. Row t of L holds how the noisy gradients of rounds
    1..t enter the momentum sent in t. The claim would bound the signal-to-noise of the victim's
    (1, 1) by |(1, 1)|^2 / 2 = 1; with the covariance of what is published it is greater.
    """
    L = np.array([[1.0, 0.0], [0.9, 1.0]])
    first, second = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    published = L @ L.T + first @ L @ L.T @ first + second @ L @ L.T @ second
    seen = L @ np.ones(2)
    assert seen @ np.linalg.inv(published) @ seen > 1.15
    always = 2 * L @ L.T
    assert seen @ np.linalg.inv(always) @ seen == pytest.approx(1.0)
