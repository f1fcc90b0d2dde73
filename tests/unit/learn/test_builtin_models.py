"""The closed-form dimensions are torch's, and every model runs on every image size."""

import pytest
import torch

from ostraka.learn import models
from ostraka.learn.catalogue import DATASETS, MODELS, dimension, model_dimension
from ostraka.learn.vectors import FlatModel


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
def test_dimension_and_output(model, dataset):
    facts = DATASETS[dataset]
    flat = FlatModel(models.build(model, facts.shape, facts.classes))
    assert (
        flat.dimension == dimension(model, dataset) == dimension(model, dataset.replace("-", "_"))
    )
    assert flat.module(torch.zeros(2, *facts.shape)).shape == (2, facts.classes)


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 9, 11), (4, 5, 31)])
@pytest.mark.parametrize("model", MODELS)
def test_odd_shapes(model, shape):
    flat = FlatModel(models.build(model, shape, 3))
    assert flat.dimension == model_dimension(model, shape, 3)
    assert flat.module(torch.zeros(1, *shape)).shape == (1, 3)


def test_the_large_cnn_has_about_a_million():
    assert 0.9e6 < dimension("cnn-large", "mnist") < 1.1e6


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="logistic, mlp, cnn, cnn-large"):
        models.build("resnet", (1, 8, 8), 10)
    with pytest.raises(ValueError, match="logistic, mlp, cnn, cnn-large"):
        dimension("resnet", "mnist")
    with pytest.raises(ValueError, match="digits, mnist"):
        dimension("mlp", "imagenet")
    with pytest.raises(ValueError, match="at least 4x4"):
        models.build("cnn", (1, 3, 8), 10)
