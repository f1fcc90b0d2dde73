"""Attacks that were found by attacking: each once stopped everybody, or silenced somebody."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from ostraka.attacks.peers import Liar, PeerAttack, Place, own_entry, read_own
from ostraka.protocols.accepted_set import TwoVotes
from ostraka.protocols.dealing_messages import Header
from tests.protocols.serverless_world import World

LIAR = 2
MISSING = ("deal", "proof")

TOLD: dict[str, Any] = {
    **{"round": 0, "attempt": 0, "view": 0, "phase": 1, "name": "deal", "voter": "p01"},
    **{"first": ["00" * 32, "00" * 64], "second": ["11" * 32, "00" * 64]},
}


@pytest.mark.parametrize(
    "change",
    [
        *(
            {key: value}
            for key in ("round", "view", "phase")
            for value in (math.inf, 1.5, True, -1)
        ),
        *({"name": "\ud800"}, {"voter": "\ud800"}, {"name": 5}, {"first": []}, {"second": "00"}),
        {"first": ["00", 5]},
    ],
)
def test_evidence_that_is_none_is_refused_and_nothing_more(change: dict[str, Any]) -> None:
    assert TwoVotes(json.dumps(TOLD).encode()).evidence() is not None
    assert TwoVotes(json.dumps(TOLD | change).encode()).evidence() is None


@dataclass(frozen=True)
class OtherHeader(PeerAttack):
    """Shows a few another signed header than all others, with other boxes or the same."""

    victims: tuple[str, ...]
    step: str
    other_boxes: bool
    name = "other-header"

    def sent(self, liar: Liar, place: Place, to: str, message: Any) -> Iterable[Any]:
        mine = (place.step, place.topic) == (self.step, 0) and own_entry(liar, place, message)
        if not mine or to not in self.victims:
            return (message,)
        header = read_own(Header.form(n=len(liar.names)), message)
        key = "boxes" if self.other_boxes else "coins"
        change = {key: getattr(header, key) ^ np.uint8(1)}
        return (liar.signed(place, replace(header, **change).encode()),)


@pytest.mark.parametrize("step", MISSING)
@pytest.mark.parametrize("other_boxes", [False, True])
def test_who_was_shown_another_header_is_not_silenced(step: str, other_boxes: bool) -> None:
    world = World({LIAR: OtherHeader(("p05", "p06"), step, other_boxes)}).run()
    caught = [LIAR] if world.result("p00").evicted else []  # where anybody has seen both
    world.check(out=caught, blamed=caught)
    assert world.trial(world.result("p00")).present[[5, 6]].all()
