"""Work block by block: on any number of threads the same, and never far ahead of who reads it."""

import math

import pytest

import ostraka.sharing.additive
from ostraka.drivers.cores import all_cores
from ostraka.drivers.sim import Delivery
from ostraka.party import Frame
from ostraka.protocols.gram_sharing import AHEAD, BATCH
from ostraka.rules import CenteredClipping, GramRule, MultiKrum
from ostraka.sharing.additive import block_width, spans
from tests.protocols.two_server_world import S0, S1, World, make_plan

SMALL = 1 << 11


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small model has many."""
    monkeypatch.setattr(ostraka.sharing.additive, "_BLOCK_WORDS", SMALL)


def played(world: World) -> tuple[bytes, list[bytes]]:
    """The model, and every word that server 1 sent to server 0 for the products."""
    model = world.finish().model.tobytes()
    return model, [bytes(s.frame.body) for s in world.of_kind("MaskedBlock", S1, S0)]  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("rule", [MultiKrum(f=1), CenteredClipping(1.0)])
def test_threads_change_no_word(rule: GramRule) -> None:
    """Memory is used again only when nobody reads it any more."""
    plan = make_plan(6, 20_017, rule, f=1, rounds=1)
    alone = played(World(plan))
    assert len(alone[1]) == math.ceil(20_017 / block_width(6)) > 2 * BATCH
    for threads in (2, 5):
        with all_cores(threads) as spread:
            assert played(World(plan, map=spread)) == alone


class Unread:
    """How many blocks are on their way or unread, at most."""

    def __init__(self) -> None:
        self.blocks, self.most = 0, 0

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> tuple[Delivery, ...]:
        """See sim.Adversary."""
        if frame.kind == "MaskedBlock":
            self.blocks += 1
            self.most = max(self.most, self.blocks)
        if frame.kind == "Taken":
            self.blocks -= min(BATCH, self.blocks)
        return (Delivery(sender, to, frame),)


@pytest.mark.slow
def test_server_1_is_never_far_ahead_of_server_0() -> None:
    plan = make_plan(6, 40_009, MultiKrum(f=1), f=1, rounds=1)
    count = len(list(spans(6, 40_009)))
    assert count > 4 * BATCH
    seen = Unread()
    World(plan, adversary=seen).finish()
    assert seen.most <= (AHEAD + 1) * BATCH < count
    ahead = 8 * SMALL * (AHEAD + 1) * BATCH
    assert ahead < plan.most_unread() < 2 * (ahead + 2 * plan.most_bytes()), (
        "and little more is kept"
    )


def test_blocks_that_are_done_with_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server 0 keeps two batches in its mailbox at most, not the whole upload."""
    from ostraka.mailbox import Mailbox

    most = 0
    put = Mailbox.put

    def counted(self: Mailbox, sender: str, label: object, kind: str, body: object) -> object:
        nonlocal most
        result = put(self, sender, label, kind, body)  # type: ignore[arg-type]
        if kind == "MaskedBlock":
            most = max(most, sum(slot[1] == kind for slot in self._slots))
        return result

    monkeypatch.setattr(Mailbox, "put", counted)
    plan = make_plan(6, 40_009, MultiKrum(f=1), f=1, rounds=1)
    World(plan).finish()
    assert 0 < most <= (AHEAD + 1) * BATCH < len(list(spans(6, 40_009)))
