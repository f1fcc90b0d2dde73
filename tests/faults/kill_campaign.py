"""Invariant: whoever is killed with kill -9, and whenever, started again the run ends with the
digest of the undisturbed run, and no party ever acknowledges a round with two models.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.parties import SERVER, Light, Nursery

ROUNDS = 20


@dataclass(frozen=True)
class Strike:
    """Some parties die together, so long after a round was stored, and come back later."""

    round: int
    after_s: float
    victims: tuple[str, ...]
    away_s: float


@dataclass
class Story:
    """What one seed came to."""

    seed: int
    strikes: list[Strike]
    killed: int = 0
    at_once: int = 0
    epochs: int = 0
    seconds: float = 0.0


def federation(nursery: Nursery, place: Path, deadline_s: float = 8.0) -> Light:
    return Light(nursery, place, n=4, rounds=ROUNDS, pause_s=0.01, deadline_s=deadline_s)


def undisturbed(nursery: Nursery, place: Path) -> dict[int, str]:
    """Every round's model when nobody dies; the last one is the trained model's."""
    light = federation(nursery, place)
    light.start()
    assert set(light.finish().values()) == {0}, light.log(SERVER)
    models = light.journal(SERVER)
    assert models[ROUNDS] == light.digest()
    return models


def strikes(rng: random.Random, names: list[str]) -> list[Strike]:
    found = [
        Strike(
            round=rng.randrange(0, ROUNDS + 1),
            after_s=rng.uniform(0.0, 0.05),
            victims=tuple(rng.sample(names, rng.choice([1, 1, 2]))),
            away_s=rng.choice([0.0, 0.02, 0.3]),
        )
        for _ in range(rng.choice([1, 2, 3]))
    ]
    return sorted(found, key=lambda strike: strike.round)


def play(nursery: Nursery, place: Path, seed: int, models: dict[int, str]) -> Story:
    """Run one seed and check it; AssertionError names what is wrong."""
    rng = random.Random(seed)
    light = federation(nursery, place)
    story = Story(seed, strikes(rng, light.names))
    print(f"seed {seed}: {story.strikes}")
    begin = time.monotonic()
    light.start()
    for strike in story.strikes:
        await_round(light, strike.round)
        time.sleep(strike.after_s)
        hit = [name for name in strike.victims if light.running(name)]
        light.kill(*hit)
        story.killed += len(hit)
        story.at_once += len(hit) > 1
        time.sleep(strike.away_s)
        light.start(*strike.victims)
    ends = light.finish()
    assert set(ends.values()) == {0}, (seed, ends, {n: light.log(n)[-800:] for n in light.names})
    story.epochs, story.seconds = light.epochs(), time.monotonic() - begin
    check(light, models)
    return story


def await_round(light: Light, round: int) -> None:
    """Return when the server has stored this round, or has ended."""
    until = time.monotonic() + 60
    while round > 0 and light.newest(SERVER) < round and light.running(SERVER):
        assert time.monotonic() < until, f"round {round} was never reached: {light.log(SERVER)}"
        time.sleep(0.002)


def check(light: Light, models: dict[int, str]) -> None:
    """Everybody ended with the undisturbed run's model, and acknowledged only its models."""
    assert {light.digest(name) for name in light.names} == {models[light.rounds]}
    assert light.journal(SERVER) == models
    for name in light.workers:
        answered = light.journal(name)
        assert sorted(answered) == list(range(light.rounds)), name
        assert {r: m for r, m in answered.items() if r > 0} == {
            r: models[r] for r in answered if r > 0
        }, name
