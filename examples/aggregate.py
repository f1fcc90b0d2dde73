"""Robust aggregation alone: nine honest updates, two hostile ones, one that is not even finite."""

import numpy as np

import ostraka
from ostraka import rules

rng = np.random.default_rng(0)
updates = 1.0 + 0.1 * rng.standard_normal((12, 1000)).astype(np.float32)
updates[9:11] *= -50.0
updates[11, 3] = np.nan

result = ostraka.aggregate(updates, rules.MultiKrum(f=3), pre=[rules.NNM(f=3)])
print("dropped", result.dropped)
print("weights", np.round(result.weights, 3))
print("mean of the aggregate", round(float(result.vector.mean()), 3))
assert abs(float(result.vector.mean()) - 1.0) < 0.01
