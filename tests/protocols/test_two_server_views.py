"""Views: what each party of `two_server` receives is uniform, or follows from what it may learn."""

import ast
import os
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraka.protocols.gram_sharing
import ostraka.protocols.upload
from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.transcript import digest
from ostraka.protocols.public_model import ModelDigest, PublicModel, model_hash
from ostraka.protocols.upload import make_parts
from ostraka.rules import (
    MDA,
    NNM,
    PRE_AGGREGATIONS,
    RULES,
    CenteredClipping,
    GeometricMedian,
    GramRule,
    Krum,
    Mean,
    MultiKrum,
    PreAggregation,
)
from ostraka.sharing.additive import Masks
from tests.protocols.two_server_simulators import WRAPS, Leak, Simulator, ideal, simulated
from tests.protocols.two_server_views import (
    Z_LIMIT,
    balance,
    derived_0,
    derived_1,
    facts_0,
    facts_1,
    facts_dealer,
    hidden_words,
    message_of,
    same_histogram,
    structure,
    suspicious,
    verdict_bits,
    view,
)
from tests.protocols.two_server_world import (
    DEALER,
    OPERATORS,
    S0,
    S1,
    Upload,
    World,
    given,
    make_plan,
)

N, D, ROUNDS = 14, 24, 24
ROWS = np.random.default_rng(3).normal(scale=0.2, size=(N, D)).astype(np.float32)
DEALING, PLANNING, SERVING, WORKING = (
    import_module(f"ostraka.trust.two_server.{name}")
    for name in ("dealer", "plan", "server_1", "worker")
)
SOURCE = Path(ostraka.protocols.upload.__file__).parents[1]


def world_of(rule: GramRule, pre: tuple[PreAggregation, ...] = (), **changes: Any) -> World:
    """Many rounds with the same secrets in each; the public row is not zero."""
    changes = {"rounds": ROUNDS, "f": 2, "min_contributors": 3, "rate": lambda r: 0.0} | changes
    world = World(make_plan(N, D, rule, pre, **changes), updates=given(list(ROWS)))
    previous = 0.1 * np.cos(np.arange(D))
    world.stored_0[0] = replace(world.stored_0[0], previous=previous)
    world.stored_1[0] = replace(world.stored_1[0], previous=previous)
    return world


def words_of(world: World) -> Ring:
    """The true rows."""
    return np.stack([world.plan.fixed.encode(row) for row in ROWS])


# --- uniformity ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [GeometricMedian(), CenteredClipping(tau=0.5), Mean()],
    ids=["distances", "norms-and-products", "nothing"],
)
def test_received_words_look_uniform_over_many_rounds_of_the_same_secrets(rule: GramRule) -> None:
    world = world_of(rule)
    world.finish()
    for party in OPERATORS:
        assert suspicious(hidden_words(view(world, party))) == {}, party
    assert suspicious(derived_0(world)) == {}
    assert suspicious(derived_1(world, words_of(world))) == {}
    assert abs(balance(verdict_bits(view(world, S0)))) < Z_LIMIT
    assert abs(balance(verdict_bits(view(world, S1)))) < Z_LIMIT


class NoStream:
    """A stream of zeros in place of a key's."""

    def __init__(self, *_: object) -> None: ...

    def stream(self) -> "NoStream":
        return self

    def fill(self, out: Ring) -> None:
        out[:] = 0

    def _fill(self, out: memoryview) -> None:
        out[:] = bytes(len(out))

    def words(self, count: int) -> Ring:
        return np.zeros(count, np.uint64)


def mask_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ostraka.protocols.upload.Context, "mask", NoStream)


def mask_reused(patch: pytest.MonkeyPatch) -> None:
    def mask(context: Any, worker: str, seed: bytes) -> Key:
        return Key(digest("one mask for all rounds", worker.encode()))

    patch.setattr(ostraka.protocols.upload.Context, "mask", mask)


def seed_of_16_bits(patch: pytest.MonkeyPatch) -> None:
    def weak(context: Any, worker: str, words: Ring, own: Key, sign: Any) -> Any:
        poor = Key(digest("poor", own.derive("two bytes").reveal()[:2]))
        return make_parts(context, worker, words, poor, sign)

    patch.setattr(WORKING, "make_parts", weak)


def patch_gram_mask(patch: pytest.MonkeyPatch, mask: Callable[..., Any]) -> None:
    for module in (SERVING, DEALING):
        patch.setattr(module, "gram_mask", mask)


def b_reused(patch: pytest.MonkeyPatch) -> None:
    def mask(key: Key, workers: tuple[str, ...], d: int, map: Any) -> Masks:
        return Masks([Key(digest("one B", name.encode())) for name in workers], d)

    patch_gram_mask(patch, mask)


def f_unmasked(patch: pytest.MonkeyPatch) -> None:
    def mask(key: Key, workers: tuple[str, ...], d: int, map: Any) -> Masks:
        nothing: Any = NoStream()
        return Masks([nothing] * len(workers), d)

    patch_gram_mask(patch, mask)


def r_dropped(patch: pytest.MonkeyPatch) -> None:
    def blinding(key: Key, n: int, full: bool) -> Ring:
        return np.zeros(n * (n + 1) // 2 if full else n, np.uint64)

    patch.setattr(ostraka.protocols.gram_sharing, "_blinding", blinding)


FAULTS: list[tuple[Callable[[pytest.MonkeyPatch], None], int, dict[str, set[str]]]] = [
    (mask_dropped, 8, {S1: {"share from workers"}}),
    (mask_reused, 8, {S1: {"share from workers"}}),
    (
        seed_of_16_bits,
        60,
        {
            S0: {"seed from workers"},
            S1: {"salt from workers", "seed hash from workers"},
            DEALER: {"seed from workers"},
        },
    ),
    (b_reused, 8, {S0: {"X - B"}}),
    (f_unmasked, 8, {S0: {"X - B"}}),
    (r_dropped, 8, {S1: {"R", "CrossTerms from dealer"}}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "rounds", "seen"), FAULTS, ids=[f.__name__ for f, _, _ in FAULTS]
)
def test_the_same_tests_see_planted_faults(
    fault: Callable[[pytest.MonkeyPatch], None],
    rounds: int,
    seen: dict[str, set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    monkeypatch.setattr(PLANNING, "projections", lambda n, rounds: 4)
    world = world_of(GeometricMedian(), rounds=rounds)
    world.finish()
    for party, sources in seen.items():
        words = hidden_words(view(world, party))
        words |= derived_0(world) if party == S0 else {}
        words |= derived_1(world, words_of(world)) if party == S1 else {}
        assert suspicious(words).keys() >= sources


# --- simulators ---------------------------------------------------------------------------------


def wraps(upload: Upload) -> None:
    """A hostile worker, so that not every check bit is 1."""
    upload.send_all(upload.parts(np.full(D, WRAPS)))


@dataclass(frozen=True)
class Pair:
    """A real world, in which w13 is hostile and w12 silent, and what may be learnt of it."""

    real: World
    leaks: list[Leak]
    x: Ring
    public: Ring


@cache
def pair(which: str) -> Pair:
    """A real world and its leaks; run once for all tests that look at it."""
    rule, pre = CHAINS[which]
    world = world_of(rule, pre, rounds=6)
    cheats = {"w13": wraps, "w12": lambda upload: None}
    previous = world.stored_0[0].previous
    world.cheats = cheats
    world.finish()
    leaks = ideal(world, frozenset({"w12"}), Key(digest("chance", which.encode())))
    x = words_of(world)[:12]
    return Pair(world, leaks, x, world.plan.fixed.encode(previous))


CHAINS: dict[str, tuple[GramRule, tuple[PreAggregation, ...]]] = {
    "geometric-median": (GeometricMedian(), ()),
    "centered-clipping": (CenteredClipping(tau=0.5), ()),
    "mean": (Mean(), ()),
    "nnm-multi-krum": (MultiKrum(f=2), (NNM(f=2),)),
    "nnm-centered-clipping": (CenteredClipping(tau=0.5, steps=2), (NNM(f=2),)),
}


@cache
def imitation(which: str, party: str) -> World:
    """The simulated world around one real party."""
    known = pair(which)
    return simulated(known.real, party, known.leaks, 1)


@pytest.mark.slow
@pytest.mark.parametrize("party", OPERATORS)
@pytest.mark.parametrize("which", CHAINS)
def test_a_simulator_gives_the_same_frames_without_any_update(which: str, party: str) -> None:
    known, made = pair(which), imitation(which, party)
    assert made.outcomes[party].status == "done", made.outcomes[party]
    assert structure(view(made, party)) == structure(view(known.real, party))


@pytest.mark.slow
@pytest.mark.parametrize("party", OPERATORS)
@pytest.mark.parametrize("which", CHAINS)
def test_simulated_and_real_words_have_the_same_distribution(which: str, party: str) -> None:
    real = hidden_words(view(pair(which).real, party))
    made = hidden_words(view(imitation(which, party), party))
    assert made.keys() == real.keys()
    assert suspicious(real) == {}
    assert suspicious(made) == {}
    for source, words in real.items():
        assert abs(same_histogram(words, made[source])) < Z_LIMIT, source


@pytest.mark.slow
@pytest.mark.parametrize("which", ["geometric-median", "mean", "nnm-multi-krum"])
def test_what_the_parties_can_check_holds_in_both_worlds(which: str) -> None:
    known = pair(which)
    real, made = known.real, {party: imitation(which, party) for party in OPERATORS}
    facts = facts_0(real, known.x)
    assert facts == facts_0(made[S0], known.x)
    assert all(f["signed"] and f["coin"] and f["dithered sum"] for f in facts)
    assert {f["wrap"] for f in facts} == {(1,) * 12 + (0,)}
    facts = facts_1(real, known.x, known.public)
    assert facts == facts_1(made[S1], known.x, known.public)
    assert all(f["signed"] and f["coin"] and f["image"] and f["rounded sum"] for f in facts)
    assert facts_dealer(real) == facts_dealer(made[DEALER])
    assert {f["active"] for f in facts_dealer(real)} == {(1,) * 12 + (0, 1)}


def test_a_workers_view_is_the_models_and_their_digests() -> None:
    """Byte for byte, from the public models alone: `imitated` is the simulator of its view."""
    world = pair("geometric-median").real
    models = {state.round: state.model for state in world.stored_0}
    imitated = {
        S0: [PublicModel(r == 6, model).encode() for r, model in sorted(models.items())],
        S1: [ModelDigest(r == 6, model_hash(m)).encode() for r, m in sorted(models.items())],
    }
    seen: dict[str, list[Any]] = {}
    for sent in view(world, "w03"):
        seen.setdefault(sent.sender, []).append(sent.frame.body)
    assert seen == imitated
    assert sorted(models) == list(range(7))


@pytest.mark.slow
def test_a_simulator_that_does_not_tie_its_words_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = pair("geometric-median")

    def loose(simulator: Simulator, turn: Any, f: Ring | None = None) -> Ring:
        m = len(known.x)
        return simulator.words(D if f is None else simulator.plan.image.count(m))

    monkeypatch.setattr(Simulator, "own_sum", loose)
    made = simulated(known.real, S0, known.leaks, 2)
    assert not any(f["dithered sum"] for f in facts_0(made, known.x))


# --- what is opened -----------------------------------------------------------------------------

DISTANCES, NORMS, PRODUCTS, SUM, ROUNDED = (
    *("distances", "norms", "products"),
    *("sum", "rounded aggregate"),
)
OPENED: dict[str, tuple[GramRule, tuple[PreAggregation, ...], list[str]]] = {
    "mean": (Mean(), (), [SUM]),
    "krum": (Krum(f=2), (), [DISTANCES, SUM]),
    "multi-krum": (MultiKrum(f=2), (), [DISTANCES, SUM]),
    "mda": (MDA(f=2), (), [DISTANCES, SUM]),
    "geometric-median": (GeometricMedian(), (), [DISTANCES, ROUNDED]),
    "centered-clipping": (CenteredClipping(tau=0.5), (), [NORMS, PRODUCTS, ROUNDED]),
    "centered-clipping 3": (
        CenteredClipping(tau=0.5, steps=3),
        (),
        [DISTANCES, NORMS, PRODUCTS, ROUNDED],
    ),
    "nnm mean": (Mean(), (NNM(f=2),), [DISTANCES, ROUNDED]),
    "nnm krum": (Krum(f=2), (NNM(f=2),), [DISTANCES, SUM]),
    "nnm multi-krum": (MultiKrum(f=2), (NNM(f=2),), [DISTANCES, ROUNDED]),
    "nnm mda": (MDA(f=2), (NNM(f=2),), [DISTANCES, ROUNDED]),
    "nnm geometric-median": (GeometricMedian(), (NNM(f=2),), [DISTANCES, ROUNDED]),
    "nnm centered-clipping": (
        CenteredClipping(tau=0.5),
        (NNM(f=2),),
        [DISTANCES, NORMS, PRODUCTS, ROUNDED],
    ),
    "nnm nnm multi-krum": (MultiKrum(f=2), (NNM(f=2), NNM(f=2)), [DISTANCES, ROUNDED]),
}
WORDS = {DISTANCES: N * (N - 1) // 2, NORMS: N, PRODUCTS: N}
"""How many words of each image there are."""

ALLOWED = {
    (S0, S1): {
        *("Open", "Go", "Held", "Commitment", "Reveal", "Masked", "Verdict", "Taken"),
        *("ImageShare", "Prepared", "Rounded"),
    },
    (S1, S0): {
        *("Boot", "Ready", "Active", "Commitment", "Reveal", "Masked", "Verdict"),
        *("MaskedBlock", "Weights", "Words"),
    },
    (S0, DEALER): {"Open", "Go", "Part"},
    (DEALER, S0): {"Boot", "Ready", "Part"},
    (S1, DEALER): {"Part", "Active"},
    (DEALER, S1): {"Part", "Held", "Correction", "CrossTerms"},
    (S0, "worker"): {"PublicModel"},
    (S1, "worker"): {"ModelDigest"},
    ("worker", S0): {"SeedPart"},
    ("worker", DEALER): {"SeedPart"},
    ("worker", S1): {"SharePart"},
}
"""All kinds of message, link by link."""


def test_every_gram_rule_and_pre_aggregation_is_among_those_whose_labels_are_stated() -> None:
    stated = {type(rule) for rule, _, _ in OPENED.values()}
    assert stated == {rule for rule in RULES.values() if issubclass(rule, GramRule)}
    behind = {type(part) for _, pre, _ in OPENED.values() for part in pre}
    assert behind == set(PRE_AGGREGATIONS.values())


@pytest.mark.parametrize("which", OPENED)
def test_a_rule_opens_what_it_reads_and_nothing_else(which: str) -> None:
    rule, pre, labels = OPENED[which]
    least = 1 if isinstance(rule, Krum) else 3
    world = world_of(rule, pre, rounds=2, min_contributors=least)
    world.finish()
    for round in range(2):
        told = [(at, label) for at, label in world.told("opened", "round", "label") if at == round]
        assert [label for _, label in told] == labels
    words = dict(world.told("opened", "label", "words"))
    image = sum(WORDS.get(label, 0) for label in labels)
    shares = [len(message_of(sent).words) for sent in world.of_kind("ImageShare", S0, S1)]
    assert shares == ([image] * 2 if image else [])
    assert words == {label: WORDS.get(label, D) for label in labels}
    counts = {message_of(sent).count > 0 for sent in world.of_kind("Weights")}
    assert counts == {SUM in labels}


def test_no_other_message_than_the_stated_ones_travels_on_any_link() -> None:
    seen: dict[tuple[str, str], set[str]] = {}
    world = world_of(CenteredClipping(tau=0.5, steps=3), (NNM(f=2),), rounds=2)
    world.finish()
    for sent in world.sent:
        link = tuple(name if name in OPERATORS else "worker" for name in (sent.sender, sent.to))
        seen.setdefault((link[0], link[1]), set()).add(sent.kind)
    assert seen == ALLOWED


def test_the_opened_sum_keeps_nothing_below_the_grid() -> None:
    """Server 0's own z has the dither; what goes on from it is whole units of the grid."""
    world = world_of(GeometricMedian(), rounds=1)
    state = world.finish()
    (words,) = [message_of(sent).words for sent in world.of_kind("Rounded")]
    exact = state.previous / world.plan.fixed.unit
    assert (exact == words).all()


# --- where randomness comes from ----------------------------------------------------------------

FOLDERS = ("sharing", "protocols", "trust/two_server")
FILES = [path for folder in FOLDERS for path in sorted((SOURCE / folder).glob("*.py"))]
NO_SOURCE = {"random", "secrets", "os", "uuid", "time", "hashlib", "cryptography", "torch"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_masks_come_from_the_cryptographic_generator_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                imported |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names):
                imported |= {f"{module}.{alias.name}" for alias in names}
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=attr):
                assert attr != "random", f"line {node.lineno}"
    assert not {name.partition(".")[0] for name in imported} & NO_SOURCE
    crypto = {name for name in imported if name.startswith("ostraka.crypto.")}
    drawing_nothing = ("prg", "transcript", "sign", "seal")
    allowed = tuple(f"ostraka.crypto.{name}." for name in drawing_nothing)
    assert all(name.startswith(allowed) for name in crypto)
    assert not {name for name in imported if "numpy.random" in name}


def test_a_run_asks_no_statistical_generator_and_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a generator that is not the party's own was asked")

    world = world_of(GeometricMedian(), rounds=1)
    for module, name in (
        *((np.random, n) for n in ("default_rng", "random", "normal", "bytes", "randint")),
        *((random, n) for n in ("random", "getrandbits", "randbytes", "randrange")),
        *((os, n) for n in ("urandom", "getrandom")),
        *((secrets, n) for n in ("token_bytes", "randbits", "randbelow")),
    ):
        monkeypatch.setattr(module, name, asked)
    world.finish()


@pytest.mark.slow
def test_all_randomness_follows_from_the_parties_own_keys() -> None:
    first, again, other = (world_of(GeometricMedian(), rounds=1) for _ in range(3))
    other.seed = 1
    for world in (first, again, other):
        world.finish()
    assert first.sent == again.sent
    for party in OPERATORS:
        words, others = (hidden_words(view(world, party)) for world in (first, other))
        assert words.keys() == others.keys()
        for source in words:
            assert not np.intersect1d(words[source], others[source]).size, source
