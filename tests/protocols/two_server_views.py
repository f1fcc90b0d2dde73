"""What a party of `two_server` sees: its received words, tests of uniformity, and derived words.

A view is the list of frames that others sent to a party. Every word in it that the specification
does not list as learnt must look uniform, and so must what the party can compute from such words
and its own: for that its secrets, or even the true updates, are put in (`derived_0`, `derived_1`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ring import Ring
from ostraka.crypto.sign import verifies
from ostraka.crypto.transcript import digest
from ostraka.net import Label, Malformed
from ostraka.protocols.coin import Commitment, Reveal
from ostraka.protocols.compare import Correction, Masked, Verdict
from ostraka.protocols.gram_sharing import CrossTerms, MaskedBlock, Taken
from ostraka.protocols.last_aggregate import LastAggregate
from ostraka.protocols.linear_image import ImageShare
from ostraka.protocols.opening import Prepared, Rounded, Weights, Words
from ostraka.protocols.public_model import ModelDigest, PublicModel
from ostraka.protocols.turns import RUN, Boot, Go, Open, Part, Ready
from ostraka.protocols.upload import Active, Held, SeedPart, SharePart, Turn
from ostraka.wire import Message
from tests.protocols.two_server_world import DEALER, OPERATORS, S0, S1, Sent, World

Z_LIMIT = 6.0
"""Beyond so many standard deviations nothing is chance: 2e-9 for one, about 1e-6 for all."""

MOST_WORDS = 384
"""Of one source in one round."""

_TYPES: dict[str, type[Message]] = {
    cls.kind: cls
    for cls in (
        *(Boot, Open, Ready, Go, Part, PublicModel, ModelDigest, SeedPart, SharePart, Held, Active),
        *(Commitment, Reveal, Correction, Masked, Verdict, MaskedBlock, Taken, CrossTerms),
        *(ImageShare, Weights, Prepared, Words, Rounded, LastAggregate),
    )
}
_SIZES: dict[str, tuple[int, tuple[str | None, ...]]] = {
    "PublicModel": (1, ("d",)),
    "SharePart": (0, ("d",)),
    "Held": (0, ("n", None)),
    "Active": (0, ("n",)),
    "Correction": (0, ("count",)),
    "Masked": (0, (None, "count")),
    "Verdict": (0, ("rows",)),
    "MaskedBlock": (0, ("n", "w")),
    "CrossTerms": (0, ("count",)),
    "ImageShare": (0, ("count",)),
    "Weights": (0, ("n",)),
    "Words": (0, ("d",)),
    "Rounded": (0, ("d",)),
    "LastAggregate": (0, ("d",)),
}
"""Where an array begins in a message, and the names of its sizes."""


def message_of(sent: Sent) -> Any:
    """What a frame says, with the sizes that it states itself."""
    body = sent.frame.body
    assert not isinstance(body, Malformed)
    dims: dict[str, int] = {}
    if sent.kind in _SIZES:
        at, sizes = _SIZES[sent.kind]
        shape = struct.unpack_from(f"<{body[at + 1]}Q", body, at + 2)
        dims = {name: size for name, size in zip(sizes, shape, strict=True) if name}
    message = _TYPES[sent.kind].form(**dims).decode(body)
    assert not isinstance(message, Malformed), (sent.kind, message)
    return message


def view(world: World, party: str) -> list[Sent]:
    """All that others sent to this party."""
    return [sent for sent in world.sent if sent.to == party]


def structure(frames: Sequence[Sent]) -> dict[str, list[tuple[str, Label, int]]]:
    """Link by link, in order: kind, label and size. The order across links is the network's.

    The number that names an attempt's processes is random, and not compared.
    """
    links: dict[str, list[tuple[str, Label, int]]] = {}
    for sent in frames:
        label = tuple((name, 0 if name == RUN else at) for name, at in sent.frame.label)
        entry = (sent.kind, label, sent.frame.size)
        links.setdefault(sent.sender, []).append(entry)
    return links


# --- the words that must look uniform -----------------------------------------------------------


def hidden_words(frames: Sequence[Sent]) -> dict[str, Ring]:
    """Received words by source, (rounds, words): all but what the party is said to learn.

    Signatures are left out: of 512 bits they use about 507, and they are made of public ids alone.
    """
    found: dict[str, dict[int, list[Ring]]] = {}
    for sent in frames:
        for name, words in _hidden(sent).items():
            source = sent.sender if sent.sender in OPERATORS else "workers"
            rounds = found.setdefault(f"{name} from {source}", {})
            rounds.setdefault(turn_of(sent)[0], []).append(words)
    return {name: np.stack([_thinned(r) for r in by.values()]) for name, by in found.items()}


def _thinned(parts: Sequence[Ring]) -> Ring:
    """Some of many words, evenly from all, so that the tests stay quick."""
    words = np.concatenate(parts)
    return words[:: max(1, len(words) // MOST_WORDS)][:MOST_WORDS]


def _hidden(sent: Sent) -> dict[str, Ring]:
    match message_of(sent):
        case SeedPart(seed, share_hash, _):
            return {"seed": _words(seed), "share hash": _words(share_hash)}
        case SharePart(share, salt, seed_hash, _):
            return {"share": share, "salt": _words(salt), "seed hash": _words(seed_hash)}
        case Part(part) | Reveal(part):
            return {"part": _words(part)}
        case Commitment(digest):
            return {"commitment": _words(digest)}
        case Ready(nonce=nonce):
            return {"number": np.array([nonce], np.uint64)}
        case Masked(words) | Correction(words) | MaskedBlock(words) | CrossTerms(words):
            return {sent.kind: words.reshape(-1)}
        case ImageShare(words) | Words(words):
            return {sent.kind: words}
        case _:
            return {}


def _words(data: bytes) -> Ring:
    return np.frombuffer(data, "<u8")


def verdict_bits(frames: Sequence[Sent]) -> npt.NDArray[np.uint8]:
    """All received shares of check bits."""
    return np.concatenate([message_of(s).bits for s in frames if s.kind == "Verdict"])


def derived_0(world: World) -> dict[str, Ring]:
    """X - B, which server 0 computes as X0 + F: (rounds, words)."""
    rows = []
    for turn, frames in by_turn(world.sent).items():
        masked = [message_of(s).words for s in frames if s.kind == "MaskedBlock"]
        if masked:
            z = masks_of(world, turn, frames) + np.concatenate(masked, axis=1)
            rows.append(z.reshape(-1))
    return {"X - B": np.stack(rows)}


def derived_1(world: World, x: Ring) -> dict[str, Ring]:
    """R, as server 1 would have it if it knew X (n, d): (rounds, words)."""
    rows = []
    for turn, frames in by_turn(world.sent).items():
        dealt = [message_of(s).words for s in frames if s.kind == "CrossTerms"]
        if dealt:
            f = np.concatenate(
                [message_of(s).words for s in frames if s.kind == "MaskedBlock"], axis=1
            )
            p = np.uint64(2) * masks_of(world, turn, frames) + f - x  # X0 - B
            square = np.negative(np.uint64(2) * (p @ p.T))
            full = len(dealt[0]) > len(x)
            known = square[np.triu_indices(len(x))] if full else np.diagonal(square)
            rows.append(known - dealt[0])
    return {"R": np.stack(rows)}


def masks_of(world: World, turn: Turn, frames: Sequence[Sent]) -> Ring:
    """X0 (n, d) of one turn, from the seeds that server 0 was sent."""
    context, d = world.plan.context(turn), world.plan.fixed.d
    parts = [s for s in frames if s.kind == "SeedPart" and s.to == S0]
    seeds = {s.sender: message_of(s).seed for s in parts}
    masks = [context.mask(name, seeds[name]) for name in world.plan.workers if name in seeds]
    return np.stack([mask.stream().words(d) for mask in masks])


def by_turn(frames: Sequence[Sent]) -> dict[Turn, list[Sent]]:
    """Frames in order, by the turn that their label names; others are left out."""
    turns: dict[Turn, list[Sent]] = {}
    for sent in frames:
        at = turn_of(sent)
        if -1 not in at:
            turns.setdefault(at, []).append(sent)
    return turns


def turn_of(sent: Sent) -> Turn:
    """The (round, attempt) of a frame; -1 for what its label does not name."""
    label = dict(sent.frame.label)
    return label.get("round", -1), label.get("attempt", -1)


# --- what a party can check in its view -----------------------------------------------------------


def facts_0(world: World, x: Ring) -> list[dict[str, Any]]:
    """Server 0's relations, round by round; ``x`` (m, d) are the true rows of the survivors."""
    facts = []
    own = [s for s in world.sent if S0 in (s.to, s.sender)]
    for turn, frames in _uploaded(own):
        weights, words = _one(frames, "Weights"), _one(frames, "Words")
        left = _survivors(frames)
        masks = masks_of(world, turn, frames)[left]
        p = message_of(weights).values.view(np.uint64)
        dither = (p @ masks + message_of(words).words - p @ x).view(np.int64)
        half = 0 if message_of(weights).count else 1 << 23
        facts.append(
            {
                "signed": _signed(world, frames),
                "coin": _coin_opens(frames),
                **_bits_of(frames),
                "weights": tuple(p.tolist()),
                "dithered sum": bool(
                    (dither >= -half).all() and (dither <= max(0, half - 1)).all()
                ),
            }
        )
    return facts


def facts_1(world: World, x: Ring, public: Ring) -> list[dict[str, Any]]:
    """Server 1's relations; ``public`` (d,) is the row that products are taken with."""
    facts = []
    own = [s for s in world.sent if S1 in (s.to, s.sender)]
    for _, frames in _uploaded(own):
        weights = message_of(_one(frames, "Weights"))
        opened = message_of(_one(frames, "Rounded")).words
        exact = weights.values.astype(object) @ x.view(np.int64).astype(object)
        unit = 1 if weights.count else 1 << 24
        off = np.abs(opened.astype(object) * unit - exact)
        facts.append(
            {
                "signed": _signed(world, frames),
                "coin": _coin_opens(frames),
                **_bits_of(frames),
                "weights": tuple(weights.values.tolist()),
                "image": _opened_image(world, frames, x, public),
                "rounded sum": bool((off < unit).all()),
            }
        )
    return facts


def facts_dealer(world: World) -> list[dict[str, Any]]:
    """The dealer's relations."""
    facts = []
    for _, frames in _uploaded(view(world, DEALER)):
        active = message_of(_one(frames, "Active")).states
        facts.append({"signed": _signed(world, frames), "active": tuple(active.tolist())})
    return facts


def _uploaded(frames: Sequence[Sent]) -> list[tuple[Turn, list[Sent]]]:
    """The turns in which somebody uploaded."""
    upload = {"SeedPart", "SharePart"}
    return [(at, f) for at, f in by_turn(frames).items() if upload & {s.kind for s in f}]


def _one(frames: Sequence[Sent], kind: str) -> Sent:
    return next(s for s in frames if s.kind == kind)


def _signed(world: World, frames: Sequence[Sent]) -> bool:
    """Whether every received part fits its hash, its id and its signature."""
    good = []
    for sent in frames:
        context = world.plan.context(turn_of(sent))
        match message_of(sent):
            case SeedPart(seed, share_hash, signature):
                hashes = digest("upload seed", seed), share_hash
            case SharePart(share, salt, seed_hash, signature):
                data = np.ascontiguousarray(share).view(np.uint8).data
                hashes = seed_hash, digest("upload share", salt, data)
            case _:
                continue
        key = world.plan.keys[sent.sender]
        good.append(verifies(key, signature, context.id(sent.sender, *hashes)))
    return all(good) and len(good) > 0


def _coin_opens(frames: Sequence[Sent]) -> bool:
    stated = {s.sender: message_of(s).digest for s in frames if s.kind == "Commitment"}
    parts = {s.sender: message_of(s).part for s in frames if s.kind == "Reveal"}
    opened = {name: digest("coin commitment", name.encode(), part) for name, part in parts.items()}
    return opened == stated and len(stated) == 2


def _bits_of(frames: Sequence[Sent]) -> dict[str, tuple[int, ...]]:
    """The check bits that follow from both servers' shares."""
    bits: dict[str, tuple[int, ...]] = {}
    for check in ("wrap", "norm"):
        label = [s for s in frames if s.kind == "Verdict" and check in dict(s.frame.label)]
        first, second = (message_of(s).bits for s in label)
        bits[check] = tuple((first ^ second).tolist())
    return bits


def _survivors(frames: Sequence[Sent]) -> list[int]:
    """Positions, among the active workers, of those that passed both checks."""
    bits = _bits_of(frames)
    return [i for i, both in enumerate(zip(bits["wrap"], bits["norm"], strict=True)) if all(both)]


def _opened_image(world: World, frames: Sequence[Sent], x: Ring, public: Ring) -> bool:
    """Whether server 1's own share and the received one make the image of the true rows."""
    image = world.plan.image
    if not image.labels:
        return not [s for s in frames if s.kind == "ImageShare"]
    active = message_of(_one(frames, "Active")).states
    shares = {s.sender: message_of(s).share for s in frames if s.kind == "SharePart"}
    y = np.stack(
        [shares[w] for w, state in zip(world.plan.workers, active, strict=True) if state == 1]
    )
    f = np.concatenate([message_of(s).words for s in frames if s.kind == "MaskedBlock"], axis=1)
    dealt = message_of(_one(frames, "CrossTerms")).words
    seen = np.uint64(2) * y - f  # Y + B
    gram = seen @ seen.T
    if image.full:
        upper = np.zeros_like(gram)
        upper[np.triu_indices(len(y))] = dealt
        gram = gram + upper + np.triu(upper, 1).T
    else:
        gram = np.diagonal(gram) + dealt
    left = _survivors(frames)
    opened = image.of(gram, y @ public, left) + message_of(_one(frames, "ImageShare")).words
    true = np.uint64(2) * (x @ x.T)
    return bool(
        (
            opened
            == image.of(true if image.full else np.diagonal(true), x @ public, [*range(len(x))])
        ).all()
    )


# --- tests of uniformity ------------------------------------------------------------------------


@dataclass(frozen=True)
class Suspicion:
    """A statistic of some words that chance does not explain."""

    test: str
    z: float


def suspicions(words: Ring) -> list[Suspicion]:
    """What of words (rounds, m) does not look uniform and independent."""
    found = {
        "byte histogram": _histogram(words.reshape(-1).view(np.uint8), 256),
        "high byte histogram": _histogram(words.reshape(-1) >> np.uint64(56), 256),
        "low byte histogram": _histogram(words.reshape(-1) & np.uint64(255), 256),
        "word histogram": _histogram(words.reshape(-1) % np.uint64(61), 61),
        "bit frequency": _bits(words),
        "repeated words": float(words.size - len(np.unique(words))) * 100,
        "serial correlation": _correlation(words[:, :-1], words[:, 1:]),
        "correlation of rounds": _correlation(words[:-1], words[1:]),
        "steps between rounds": _bits(words[1:] - words[:-1]),
        "steps between words": _bits(words[:, 1:] - words[:, :-1]),
    }
    return [Suspicion(name, z) for name, z in found.items() if abs(z) > Z_LIMIT]


def balance(bits: npt.NDArray[np.uint8]) -> float:
    """Standard deviations that the number of ones is off one half."""
    return float((2.0 * bits.sum() - bits.size) / np.sqrt(bits.size))


def same_histogram(a: Ring, b: Ring) -> float:
    """Two samples' byte histograms compared: chi-squared as a normal deviate."""
    counts = [np.bincount(w.reshape(-1).view(np.uint8), minlength=256) for w in (a, b)]
    first, second = (c.astype(np.float64) for c in counts)
    ratio = np.sqrt(second.sum() / first.sum())
    used = first + second > 0
    chi = ((first * ratio - second / ratio) ** 2)[used] / (first + second)[used]
    return _deviate(float(chi.sum()), int(used.sum()) - 1)


def _histogram(values: npt.NDArray[Any], bins: int) -> float:
    counts = np.bincount(values.astype(np.int64), minlength=bins)
    expected = values.size / bins
    return _deviate(float(((counts - expected) ** 2).sum() / expected), bins - 1)


def _deviate(chi: float, freedom: int) -> float:
    """Chi-squared as a standard normal deviate (Wilson and Hilferty 1931)."""
    spread = 2.0 / (9.0 * freedom)
    return float(((chi / freedom) ** (1 / 3) - (1 - spread)) / np.sqrt(spread))


def _bits(words: Ring) -> float:
    """The bit that is farthest from one half."""
    flat = np.ascontiguousarray(words).reshape(-1, 1)
    if not flat.size:
        return 0.0
    ones = np.unpackbits(flat.view(np.uint8), axis=1, bitorder="little").sum(axis=0)
    return float(np.abs(2.0 * ones - len(flat)).max() / np.sqrt(len(flat)))


def _correlation(a: Ring, b: Ring) -> float:
    x, y = (words.reshape(-1).view(np.int64) / 2.0**63 for words in (a.copy(), b.copy()))
    if not x.size:
        return 0.0
    return float(3.0 * (x * y).sum() / np.sqrt(x.size))


def suspicious(sources: dict[str, Ring]) -> dict[str, list[Suspicion]]:
    """The sources of words that do not look uniform, with why."""
    found = {name: suspicions(words) for name, words in sources.items()}
    return {name: why for name, why in found.items() if why}
