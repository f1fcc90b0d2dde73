"""The torch form of the array interface gives what the numpy form gives, for every rule."""

import numpy as np
import pytest
import rule_twins as twins

from ostraka import rules

torch = pytest.importorskip("torch")
ops = pytest.importorskip("ostraka.learn.ops")

F = 2
CHAINS = [(name, pre) for name in sorted(rules.RULES) for pre in ((), (rules.NNM(F),))]


@pytest.mark.parametrize("kind", twins.KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "pre"), CHAINS)
def test_same_result(name, pre, dtype, kind):
    x = twins.make_rows(3, 9, 40, kind, offset=10.0, dtype=dtype)
    rule, reference = twins.one_of_each(F)[name], x[0] / 2
    want = rules.aggregate(x, rule, pre, f=F, reference=reference)
    rows = torch.from_numpy(x.copy())
    before = rows.clone()
    public = torch.from_numpy(reference.copy())
    got = rules.aggregate(rows, rule, pre, f=F, reference=public, ops=ops.TORCH)
    assert got.vector.dtype == rows.dtype
    assert torch.equal(rows, before)
    error = np.abs(got.vector.numpy().astype(np.float64) - want.vector.astype(np.float64)).max()
    assert error <= twins.tolerance(x)
    if want.weights is not None:
        np.testing.assert_allclose(got.weights, want.weights, atol=1e-6)


def test_screening_and_lists():
    x = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    x[1, 3], x[4, 0] = float("nan"), float("-inf")
    got = rules.aggregate(list(x), rules.TrimmedMean(F), [rules.NNM(F)], ops=ops.TORCH)
    assert got.dropped == {1: "non-finite", 4: "non-finite"}
    rest = torch.stack([x[i] for i in range(9) if i not in (1, 4)])
    want = rules.aggregate(rest, rules.TrimmedMean(0), [rules.NNM(0)], ops=ops.TORCH)
    assert torch.equal(got.vector, want.vector)
    wide = torch.randn(9, 30, dtype=torch.float64)
    wide[0, 0] = 1e200
    assert rules.aggregate(wide, rules.Median(), ops=ops.TORCH).dropped == {0: "overflow"}


def test_more_rows_than_the_network_takes():
    x = torch.randn(131, 50, generator=torch.Generator().manual_seed(0))
    got = rules.aggregate(x, rules.Median(), ops=ops.TORCH).vector.numpy()
    np.testing.assert_array_equal(got, np.median(x.numpy(), axis=0))


def test_gradients_and_views():
    x = torch.randn(5, 8, requires_grad=True)
    got = rules.aggregate(x, rules.GeometricMedian(), ops=ops.TORCH).vector
    assert not got.requires_grad
    turned = x.detach().T.contiguous().T
    again = rules.aggregate(turned, rules.GeometricMedian(), ops=ops.TORCH).vector
    assert torch.equal(got, again)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.ones((3, 2)), "torch tensor"),
        (torch.ones(3, 2, dtype=torch.float16), "float16"),
        (torch.ones(3, 2, dtype=torch.bfloat16), "bfloat16"),
        (torch.ones(3, 2, dtype=torch.int64), "int64"),
        (torch.ones(3, 2, dtype=torch.bool), "bool"),
        (torch.ones(3), "matrix"),
        (torch.ones(0, 2), "n >= 1"),
        ([], "empty list"),
        ([torch.ones(2), torch.ones(3)], "row 1"),
        (torch.ones(3, 2).to_sparse(), "dense"),
    ],
)
def test_unusable_tensors_are_refused(data, words):
    with pytest.raises(ValueError, match=words):
        rules.aggregate(data, rules.Mean(), ops=ops.TORCH)


def test_unusable_references_are_refused():
    x = torch.ones(3, 2)
    for bad in (torch.ones(3), torch.ones(2, dtype=torch.float64), torch.full((2,), torch.nan)):
        with pytest.raises(ValueError, match="reference"):
            rules.aggregate(x, rules.CenteredClipping(1.0), reference=bad, ops=ops.TORCH)
