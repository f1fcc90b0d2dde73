"""`ostraka demo`: the whole story in half a minute, on data that comes with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ostraka.app.library import Run, run
from ostraka.app.progress import Progressing, percent
from ostraka.drivers.trace import as_json

ROUNDS = 150
ATTACK = "gaussian"


def demo(
    trust: str | None,
    attack: str | None,
    rounds: int | None,
    out: Path | None,
    json_: bool,
    stopping: Callable[[], bool],
) -> None:
    """Three runs with the same seed: the mean at peace, the mean attacked, a robust rule attacked.

    The report is that of the last one.
    """
    common = {"trust": trust, "rounds": rounds or ROUNDS, "stopping": stopping}
    attacked = {"attack": attack or ATTACK}
    console = Console(stderr=json_)
    if not json_:
        console.print(
            "Twelve workers train on the built-in digits, each on its own share. Two of them "
            f"attack ({attacked['attack']}).\n"
        )
    cells = [
        ("plain mean, nobody attacks", {"rule": "mean", "attack": "none"}),
        ("plain mean, attacked", {"rule": "mean", **attacked}),
        ("NNM + trimmed mean, attacked", attacked),
    ]
    results = []
    for number, (title, flags) in enumerate(cells):
        last = number == len(cells) - 1
        place = out if last else _beside(out, number)
        shown = None if json_ else console
        result = _one(title, shown, out=place, report=last, **common, **flags)
        results.append((title, result))
    if json_:
        print(as_json({"event": "demo", "runs": [{"title": t, **r.summary} for t, r in results]}))
        return
    console.print(_table(results))
    _tell_outliers(console, results[-1][1])
    console.print(f"report  {results[-1][1].summary['report']}", soft_wrap=True, highlight=False)


def _one(title: str, console: Console | None, **flags: Any) -> Run:
    if console is None:
        return run(readers=[lambda record: print(as_json(record))], **flags)
    with Progressing(console, title) as progress:
        return run(readers=[progress], **flags)


def _beside(out: Path | None, number: int) -> Path | None:
    return None if out is None else out.with_name(f"{out.name}-{number}")


def _table(results: list[tuple[str, Run]]) -> Table:
    table = Table(title="Test accuracy after the last round", title_justify="left")
    table.add_column("run")
    table.add_column("accuracy", justify="right")
    table.add_column("loss", justify="right")
    for title, result in results:
        loss = result.summary["loss"]
        shown = "-" if loss is None else f"{loss:.3g}"
        table.add_row(title, percent(result.summary["accuracy"]), shown)
    return table


def _tell_outliers(console: Console, result: Run) -> None:
    """Say whom the robust run kept out, from its own records."""
    for party, reasons in result.summary["excluded_rounds"].items():
        told = ", ".join(f"{why} in {count} rounds" for why, count in reasons.items())
        console.print(f"excluded  {party}: {told}", highlight=False, soft_wrap=True)
    for party, share in result.summary["farthest"].items():
        console.print(
            f"outlier   {party}: among the {result.summary['f']} farthest from the aggregate in "
            f"{100 * share:.0f} % of the rounds",
            highlight=False,
            soft_wrap=True,
        )
