"""Robust aggregation rules: one definition each, for every trust model."""

from ostraka.rules.aggregate import Aggregate, aggregate
from ostraka.rules.api import (
    CoordinateRule,
    GramRule,
    Needs,
    PreAggregation,
    Rule,
    check_chain,
    coefficients,
    needs,
    own_f,
)
from ostraka.rules.bounds import BoundError, remaining
from ostraka.rules.centered_clipping import CenteredClipping
from ostraka.rules.geometric_median import GeometricMedian
from ostraka.rules.gram import Geometry
from ostraka.rules.krum import Krum, MultiKrum
from ostraka.rules.mda import MDA
from ostraka.rules.mean import Mean
from ostraka.rules.median import Median
from ostraka.rules.nnm import NNM
from ostraka.rules.trimmed_mean import TrimmedMean

RULES: dict[str, type[GramRule] | type[CoordinateRule]] = {
    "mean": Mean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "mda": MDA,
    "geometric-median": GeometricMedian,
    "centered-clipping": CenteredClipping,
}

PRE_AGGREGATIONS: dict[str, type[PreAggregation]] = {"nnm": NNM}

__all__ = [
    "MDA",
    "NNM",
    "PRE_AGGREGATIONS",
    "RULES",
    "Aggregate",
    "BoundError",
    "CenteredClipping",
    "CoordinateRule",
    "GeometricMedian",
    "Geometry",
    "GramRule",
    "Krum",
    "Mean",
    "Median",
    "MultiKrum",
    "Needs",
    "PreAggregation",
    "Rule",
    "TrimmedMean",
    "aggregate",
    "check_chain",
    "coefficients",
    "needs",
    "own_f",
    "remaining",
]
