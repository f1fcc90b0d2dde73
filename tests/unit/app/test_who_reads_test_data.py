"""Only who tests models reads test data: other operators need not have it."""

from pathlib import Path

import pytest

from ostraka.app.assemble import assemble_own
from ostraka.app.build import build
from ostraka.app.config import check
from ostraka.app.errors import UserError

pytestmark = pytest.mark.slow
APP = """\
import torch
from ostraka.learn.app import App


def tested(place):
    raise ValueError("the test data are not here")


app = App(
    model=lambda: torch.nn.Linear(3, 2),
    train_data=lambda site: (torch.zeros(40, 3), torch.arange(40) % 2),
    test_data=tested,
)
"""


@pytest.mark.parametrize(
    ("name", "reads"),
    [("server-0", True), ("worker-1", True), ("server-1", False), ("dealer", False)],
)
def test_a_party_that_tests_nothing_needs_no_test_data(
    tmp_path: Path, name: str, reads: bool
) -> None:
    (tmp_path / "own.py").write_text(APP)
    raw = {
        "federation": {"name": "x", "trust": "two-server"},
        "faults": {"byzantine": 0},
        "simulation": {"parties": 5},
        "training": {"app": "own:app"},
    }
    config = check(raw, "test")
    recipe = build(config)
    if reads:
        with pytest.raises(UserError, match="the test data are not here"):
            assemble_own(config, recipe, tmp_path, None, name, None)
        return
    own = assemble_own(config, recipe, tmp_path, None, name, None)
    assert own.initial.size == 8
    assert own.evaluate(own.initial) == {}
