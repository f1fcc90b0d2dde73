"""What tests of deaths and storage share: the forking process, and how the undisturbed run ends."""

from collections.abc import Iterator

import pytest

from tests.faults.kill_campaign import undisturbed
from tests.faults.parties import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as running:
        yield running


@pytest.fixture(autouse=True)
def nobody_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No party outlives its test, whatever came of it."""
    used = "nursery" in request.fixturenames
    running: Nursery | None = request.getfixturevalue("nursery") if used else None
    yield
    if running is not None:
        running.end_all()


@pytest.fixture(scope="session")
def models(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Every round's model of `kill_campaign.federation` when nobody dies."""
    return undisturbed(nursery, tmp_path_factory.mktemp("undisturbed"))
