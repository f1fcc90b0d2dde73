"""Any bytes give packets or one Violation: nothing else is raised, no more memory than the cap."""

import time
import tracemalloc
from pathlib import Path

import pytest

from tests.sweep.frame_campaign import Tally, play

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "soak-frames.md"
SHORT, LONG = 100_000, 10_000_000


def campaign(seeds: range) -> Tally:
    tally = Tally()
    for seed in seeds:
        try:
            play(seed, tally)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    return tally


@pytest.mark.slow
def test_a_hundred_thousand_streams() -> None:
    tally = campaign(range(SHORT))
    assert tally.cases == SHORT
    assert tally.packets > SHORT / 2
    assert tally.malformed > 1000
    assert tally.unfinished > 1000
    assert len(tally.violations) >= 12


def test_no_stream_costs_more_memory_than_the_cap() -> None:
    campaign(range(200))  # what is made once and kept
    tracemalloc.start()
    try:
        for seed in range(2000):
            play(seed, Tally())
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000
    assert peak < 400_000


@pytest.mark.soak
def test_ten_million_streams() -> None:
    start = time.monotonic()
    tally = campaign(range(LONG))
    RESULTS.write_text(summary(tally, time.monotonic() - start), encoding="utf-8")


def summary(tally: Tally, seconds: float) -> str:
    lines = [
        "# Ten million streams for the frame parser",
        "",
        "`make soak` feeds the parser with valid frames that are mutated, cut, spliced or replaced",
        "by other formats' bytes, in pieces of random size. Every stream must give packets or one",
        "violation; nothing else may be raised, no frame may be taken beyond its cap, and no more",
        "room may be offered than the cap allows.",
        "",
        f"{tally.cases:,} streams, {seconds:.0f} s on one core, none failed.",
        "",
        "| what came | times |",
        "|---|---|",
        f"| frames | {tally.packets:,} |",
        f"| of these too long, body not read | {tally.malformed:,} |",
        f"| streams that ended within a frame | {tally.unfinished:,} |",
        f"| streams that ended with a violation | {tally.violations.total():,} |",
        "",
        "| violation | times |",
        "|---|---|",
        *(f"| {text} | {count:,} |" for text, count in tally.violations.most_common(40)),
    ]
    return "\n".join(lines) + "\n"
