"""`secure_aggregate`: the protocol gives what the plain rule gives, refusals are sentences."""

import numpy as np
import pytest
import torch

import ostraka
from ostraka import rules

GRID = 2.0**-20


def rows(n=10, d=50, seed=0, size=0.1):
    return np.random.default_rng(seed).normal(size=(n, d)) * size


def secure(x, rule, **options):
    return ostraka.secure_aggregate(x, rule, trust="two_server", **options)


CHAINS = [
    (rules.Mean(), []),
    (rules.MultiKrum(f=2), []),
    (rules.MultiKrum(f=2, m=6), []),
    (rules.MDA(f=2), []),
    (rules.GeometricMedian(), []),
    (rules.CenteredClipping(tau=0.3), []),
    (rules.CenteredClipping(tau=0.3, steps=3), []),
    (rules.MultiKrum(f=2), [rules.NNM(f=2)]),
    (rules.CenteredClipping(tau=0.3), [rules.NNM(f=2)]),
]


@pytest.mark.parametrize(("rule", "pre"), CHAINS, ids=repr)
def test_it_gives_what_the_plain_rule_gives_on_the_grid(rule, pre):
    x = rows()
    x[7:9] *= 3
    found = secure(x, rule, pre=pre, f=2, frac_bits=20)
    quantised = np.rint(x / GRID) * GRID
    plain = ostraka.aggregate(quantised, rule, pre, f=2)
    assert np.abs(found.vector - plain.vector).max() <= GRID * 1.001
    assert np.allclose(found.weights, plain.weights, atol=2.0**-23)
    assert found.dropped == {}


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0, 1e5])
@pytest.mark.parametrize("rule", [rules.MultiKrum(f=2), rules.GeometricMedian()])
def test_rows_of_any_size_keep_their_digits(rule, size):
    x = rows(size=size)
    found = secure(x, rule, f=2)
    plain = ostraka.aggregate(x, rule, f=2)
    assert np.abs(found.vector - plain.vector).max() <= 1e-5 * np.abs(plain.vector).max()
    assert np.array_equal(found.weights > 0, plain.weights > 0)


def test_a_grid_that_hides_most_rows_is_told():
    x = rows(size=1e-6)
    with pytest.warns(
        UserWarning, match=r"the grid is coarse: half of the rows .* 1 steps of 2\^-20"
    ):
        secure(x, rules.Mean(), clip=64.0)
    x[0] = 10.0  # one long row makes the grid for all, unless a clip keeps it out
    with pytest.warns(UserWarning, match="give a smaller clip than 128"):
        secure(x, rules.Mean())
    found = secure(x, rules.Mean(), clip=1e-4, f=1)
    assert found.dropped == {0: "overflow"}
    assert np.allclose(found.vector, x[1:].mean(axis=0), atol=1e-11)


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_the_reference_of_centered_clipping_may_lie_far_away(factor):
    x = rows() + factor
    reference = x[0] + 0.01
    rule = rules.CenteredClipping(tau=0.3)
    found = secure(x, rule, reference=reference)
    plain = ostraka.aggregate(x, rule, reference=reference)
    assert np.abs(found.vector - plain.vector).max() <= 2 * GRID


def test_array_type_and_dtype_are_those_of_the_rows():
    x = rows().astype(np.float32)
    assert secure(x, rules.Mean()).vector.dtype == np.float32
    assert secure(x.astype(np.float64), rules.Mean()).vector.dtype == np.float64
    tensor = secure(torch.from_numpy(x), rules.Mean()).vector
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(secure(list(x), rules.Mean()).vector))


def test_the_seed_repeats_the_round_and_another_one_changes_only_the_rounding():
    x = rows()
    first, again, other = (secure(x, rules.GeometricMedian(), seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.vector, again.vector)
    assert 0 < np.abs(first.vector - other.vector).max() <= 2 * GRID


@pytest.mark.parametrize("rule", [rules.Mean(), rules.MultiKrum(f=3), rules.GeometricMedian()])
def test_rows_that_do_not_obey_are_dropped_and_named(rule):
    x = rows(size=0.05)
    x[3], x[4] = 0.0, np.nan
    x[3, 0] = 8.0
    x[5] *= 3.0 / np.linalg.norm(x[5])
    found = secure(x, rule, f=3, clip=1.0)
    assert found.dropped == {3: "norm", 4: "non-finite", 5: "norm"}
    assert not found.weights[[3, 4, 5]].any()
    rest = secure(np.delete(x, [3, 4, 5], axis=0), rule.with_f(0), f=0, clip=1.0)
    assert np.abs(found.vector - rest.vector).max() <= GRID


def test_a_row_that_wraps_is_dropped_although_its_words_look_small():
    x = rows(size=0.05)
    x[2, 5] = 2.0**43  # 2^63 on the grid: no distance between words changes
    x[6, 7] = 2.0**12  # 2^32 on the grid: its square is 0 in the ring
    found = secure(x, rules.MultiKrum(f=3), clip=1.0, frac_bits=20)
    assert found.dropped == {2: "overflow", 6: "overflow"}
    x[2, 5] = 1e300
    assert secure(x, rules.MultiKrum(f=3), clip=1.0).dropped[2] == "overflow"


def test_what_is_opened_is_what_the_rule_needs():
    x = rows()

    def labels(rule, **options):
        return [(what, to, words) for what, to, words in secure(x, rule, **options).opened]

    both, sums = "both servers", "sum"
    assert labels(rules.Mean()) == [(sums, both, 50)]
    assert labels(rules.MultiKrum(f=2)) == [("distances", "server-1", 45), (sums, both, 50)]
    assert labels(rules.CenteredClipping(tau=0.3)) == [
        ("norms", "server-1", 10),
        ("products", "server-1", 10),
        ("rounded aggregate", both, 50),
    ]


def test_the_guard_is_told():
    x = np.ones((12, 5)) + rows(12, 5, size=1e-3)
    x[0] = x.mean(axis=0)  # a worker that lies where the median will be
    found = secure(x, rules.GeometricMedian(), f=2)
    assert found.capped
    sorted_weights = np.sort(found.weights)[::-1]
    tail = (sorted_weights[3:] ** 2).sum() / sorted_weights[0] ** 2
    assert 1 + tail >= 3


def test_bytes_and_promise_travel_with_the_result():
    found = secure(rows(d=4000), rules.MultiKrum(f=2))
    assert set(found.bytes_sent) == {"server-0", "server-1", "dealer", "workers"}
    assert 10 * 8 * 4000 < found.bytes_sent["workers"] < 10 * (8 * 4000 + 600)
    assert found.promise.tolerates["byzantine workers"] == 2
    assert "distances" in found.promise.sees["server-1"]


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        (rules.Median(), {}, "two-server runs only rules that commute with rotations"),
        (rules.Krum(f=2), {}, "min_contributors = 1"),
        (rules.MultiKrum(f=2), {"f": 1}, "disagree"),
        (rules.MultiKrum(f=2), {"clip": -1.0}, "clip"),
        (rules.MultiKrum(f=2), {"clip": 1e9}, "frac_bits"),
        (rules.MultiKrum(f=2), {"clip": 64.0, "frac_bits": 21}, "20"),
        (rules.MultiKrum(f=3), {"min_contributors": 5}, "min_contributors"),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_refusals_are_sentences(rule, options, words):
    with pytest.raises(ValueError, match=words):
        secure(rows(), rule, **options)


def test_more_dropped_rows_than_f_end_it():
    x = rows()
    x[:3] = np.nan
    with pytest.raises(ValueError, match="more than f=2"):
        secure(x, rules.MultiKrum(f=2))
    x[:3] = 5.0
    with pytest.raises(ValueError, match=r"3 rows were refused.*row-0 (norm|overflow)"):
        secure(x, rules.MultiKrum(f=2), clip=1.0)


def test_an_unknown_trust_model_is_refused():
    with pytest.raises(ValueError, match="two_server"):
        ostraka.secure_aggregate(rows(), rules.Mean(), trust="three_server")
