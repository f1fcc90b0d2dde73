"""A rule that cannot hold its promise refuses with its name and the numbers; f is never lowered."""

import numpy as np
import pytest
import rule_twins as twins
from hypothesis import given
from hypothesis import strategies as st

from ostraka import rules

X = np.random.default_rng(0).standard_normal((6, 4))


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (rules.TrimmedMean(3), "trimmed mean needs 2f < n, got f=3, n=6"),
        (rules.MDA(3), "mda needs 2f < n, got f=3, n=6"),
        (rules.Krum(2), "krum needs n >= 2f [+] 3, got f=2, n=6"),
        (rules.MultiKrum(2), "multi-krum needs n >= 2f [+] 3, got f=2, n=6"),
        (rules.MultiKrum(1, 6), "multi-krum needs m <= n - f, got m=6, f=1, n=6"),
    ],
)
def test_bounds_of_rules_with_an_f(rule, sentence):
    with pytest.raises(ValueError, match=sentence):
        rule.check(6)
    with pytest.raises(ValueError, match=sentence):
        rule.check(6, rule.f)
    with pytest.raises(ValueError, match=sentence):
        rules.aggregate(X, rule)


@pytest.mark.parametrize("name", ["median", "geometric-median", "centered-clipping"])
def test_bounds_of_rules_without_an_f(name):
    rule = twins.one_of_each(0)[name]
    rule.check(6, 2)
    with pytest.raises(ValueError, match="needs 2f < n, got f=3, n=6"):
        rule.check(6, 3)
    with pytest.raises(ValueError, match="needs 2f < n, got f=3, n=6"):
        rules.aggregate(X, rule, f=3)


def test_nnm_and_mean():
    with pytest.raises(ValueError, match="nnm needs 2f < n, got f=3, n=6"):
        rules.aggregate(X, rules.Mean(), [rules.NNM(3)])
    rules.Mean().check(1, 5)
    with pytest.raises(ValueError, match="n >= 1"):
        rules.Mean().check(0)


@pytest.mark.parametrize("bad", [-1, True, 1.0, "2", None])
def test_f_is_a_whole_number(bad):
    for kind in (rules.TrimmedMean, rules.Krum, rules.MultiKrum, rules.MDA, rules.NNM):
        with pytest.raises(ValueError, match="whole f"):
            kind(bad)
    if bad is not None:
        with pytest.raises(ValueError, match="f must be a whole number"):
            rules.aggregate(X, rules.Median(), f=bad)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_parameters_are_checked(bad):
    with pytest.raises(ValueError, match="finite tau"):
        rules.CenteredClipping(bad)
    with pytest.raises(ValueError, match="finite nu"):
        rules.GeometricMedian(nu=bad)
    with pytest.raises(ValueError, match="whole steps"):
        rules.CenteredClipping(1.0, 0)
    with pytest.raises(ValueError, match="whole m"):
        rules.MultiKrum(1, 0)
    with pytest.raises(ValueError, match="max_iterations"):
        rules.GeometricMedian(max_iterations=0)
    with pytest.raises(ValueError, match="tolerance"):
        rules.GeometricMedian(tolerance=-1.0)


def test_parts_must_agree_on_f():
    with pytest.raises(ValueError, match="mda has f=2 but nnm has f=1"):
        rules.aggregate(X, rules.MDA(2), [rules.NNM(1)])
    with pytest.raises(ValueError, match="mda has f=2 but the argument has f=1"):
        rules.aggregate(X, rules.MDA(2), f=1)
    with pytest.raises(ValueError, match="nnm has f=2 but nnm has f=1"):
        rules.aggregate(X, rules.Median(), [rules.NNM(2), rules.NNM(1)])
    with pytest.raises(ValueError, match="mda has f=2, but the f in force is 1"):
        rules.MDA(2).check(9, 1)


def test_f_comes_from_the_pre_aggregation_or_is_the_largest_minority():
    x = X.copy()
    x[0] = np.nan
    x[1] = np.nan
    assert rules.aggregate(x, rules.Median()).dropped.keys() == {0, 1}
    with pytest.raises(rules.BoundError, match="f=1"):
        rules.aggregate(x, rules.Median(), [rules.NNM(1)])
    x[2] = np.nan
    with pytest.raises(rules.BoundError, match="f=2"):
        rules.aggregate(x, rules.Mean())


def test_with_f_and_own_f():
    assert rules.MultiKrum(3, 2).with_f(1) == rules.MultiKrum(1, 2)
    assert rules.Median().with_f(1) == rules.Median()
    assert rules.NNM(3).with_f(0) == rules.NNM(0)
    assert rules.own_f(rules.NNM(3)) == 3
    assert rules.own_f(rules.Mean()) is None


def test_names_and_needs():
    assert all(kind.name == name for name, kind in rules.RULES.items())
    assert all(kind.name == name for name, kind in rules.PRE_AGGREGATIONS.items())
    assert rules.needs(rules.Mean()) == rules.Needs.NOTHING
    assert rules.needs(rules.Mean(), [rules.NNM(1)]) == rules.Needs.DISTANCES
    assert rules.needs(rules.CenteredClipping(1.0)) == rules.Needs.PUBLIC_PRODUCTS
    assert rules.needs(rules.CenteredClipping(1.0, 2)) == rules.Needs.GRAM
    assert rules.needs(rules.Median(), [rules.NNM(1)]) == rules.Needs.DISTANCES
    assert rules.needs(rules.CenteredClipping(1.0), [rules.NNM(1)]) == rules.Needs.GRAM


def test_rules_are_frozen_values():
    assert rules.MDA(2) == rules.MDA(2)
    assert hash(rules.MDA(2)) == hash(rules.MDA(2))
    with pytest.raises(AttributeError):
        rules.MDA(2).f = 3


@pytest.mark.parametrize(
    ("args", "want"),
    [
        ((10, 3, 0, 0), (10, 3)),
        ((10, 3, 2, 0), (8, 1)),
        ((10, 3, 3, 0), (7, 0)),
        ((10, 3, 0, 4), (6, 3)),
        ((10, 3, 1, 1, 4), (8, 2)),
        ((10, 3, 0, 0, 2), (10, 3)),
        ((10, 3, 1, 4, 4), (5, 2)),
        ((10, 3, 1, 4, 2), (5, 0)),
        ((10, 3, 0, 4, 1), (6, 0)),
        ((10, 0, 0, 2, 2), (8, 0)),
    ],
)
def test_remaining(args, want):
    assert rules.remaining(*args) == want


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((10, 3, 4, 0), "4 rows were refused, more than f=3, of n=10"),
        ((10, 3, 0, 5, 1), "4 missing beyond dropouts=1 are more than f=3"),
        ((10, 3, 2, 3, 1), "2 refused and 2 missing beyond dropouts=1 are more than f=3"),
        ((3, 1, 1, 2), "no row is left: n=3, 1 refused, 2 missing"),
    ],
)
def test_remaining_refuses(args, words):
    with pytest.raises(rules.BoundError, match=words):
        rules.remaining(*args)


@given(
    n=st.integers(1, 30),
    f=st.integers(0, 14),
    refused=st.integers(0, 5),
    missing=st.integers(0, 12),
    dropouts=st.none() | st.integers(0, 12),
)
def test_remaining_never_raises_f_nor_hides_a_fault(n, f, refused, missing, dropouts):
    try:
        left, faults = rules.remaining(n, f, refused, missing, dropouts)
    except rules.BoundError:
        late = max(0, missing - dropouts) if dropouts is not None else 0
        assert refused + late > f or n - refused - missing < 1
    else:
        assert left == n - refused - missing >= 1
        assert 0 <= faults <= f - refused
        if dropouts is None or missing <= dropouts:
            assert faults == f - refused


@pytest.mark.parametrize("bad", [(-1, 0, 0, 0), (3, True, 0, 0), (3, 1, -1, 0), (3, 1, 0, 0, -1)])
def test_remaining_checks_its_numbers(bad):
    with pytest.raises(ValueError, match="whole number"):
        rules.remaining(*bad)
