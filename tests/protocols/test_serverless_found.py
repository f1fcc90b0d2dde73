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
from ostraka.crypto.sign import signer_from
from ostraka.crypto.transcript import digest
from ostraka.protocols.accepted_set import TwoEntries, TwoVotes
from ostraka.protocols.dealing_messages import Header
from ostraka.protocols.scene import Scene
from ostraka.protocols.votes import Plan
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


def test_two_entries_convict_only_who_has_signed_two_bodies_for_one_use() -> None:
    keys = {name: signer_from(digest("signer", name.encode())) for name in ("a", "b", "c", "d")}
    plan = Plan({name: public for name, (_, public) in keys.items()}, bytes(32), 1)
    scene, later = Scene(plan, 4, 0, 1.0), Scene(plan, 4, 1, 1.0)
    sign = keys["a"][0]

    def signed(body: bytes, use: str = "keys", where: Scene = scene) -> tuple[bytes, bytes]:
        return body, sign(where.entry(use, "a", body))

    one, two = signed(b"one"), signed(b"two")
    assert TwoEntries("keys", *one, *two).convinces(scene, "a")
    assert not TwoEntries("keys", *one, *two).convinces(scene, "b")
    assert not TwoEntries("keys", *one, *two).convinces(scene, "nobody")
    assert not TwoEntries("keys", *one, *two).convinces(later, "a")
    assert not TwoEntries("words", *one, *two).convinces(scene, "a")
    assert not TwoEntries("keys", *one, *one).convinces(scene, "a")
    assert not TwoEntries("keys", *one, b"two", one[1]).convinces(scene, "a")
    for other in (signed(b"two", "words"), signed(b"two", where=later), (b"two", bytes(64))):
        assert not TwoEntries("keys", *one, *other).convinces(scene, "a")
        assert not TwoEntries("keys", *other, *one).convinces(scene, "a")
