"""The report's figures, as SVG text that needs nothing else."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

Matrix = npt.NDArray[np.float64]
INK, ACCENT, SECOND, GRID = "#22303c", "#b5472f", "#3a6ea5", "#d9dde1"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "ostraka",
}


def accuracy_plot(
    curves: Sequence[tuple[str, Sequence[int], Sequence[float]]], *, width: float = 7.2
) -> str:
    """Accuracy against rounds, one line a curve, labelled at its end."""
    with rc_context(STYLE):
        figure, axes = _figure(width, 2.9)
        colours = [ACCENT, SECOND, "#7a8b99", "#c9a227", "#5b8c5a", "#8a5a83"]
        for (label, rounds, accuracy), colour in zip(curves, colours * 9, strict=False):
            marker = "o" if len(rounds) < 60 else None
            axes.plot(rounds, accuracy, color=colour, lw=1.8, marker=marker, ms=3, label=label)
        axes.set(xlabel="round", ylabel="test accuracy", ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        if len(curves) > 1:
            axes.legend(frameon=False, loc="center right")
        return _svg(figure, "test accuracy per round")


def distance_heatmap(parties: Sequence[str], distance: Matrix, marks: Matrix) -> str:
    """Distance of every update to the aggregate, over the round's median; parties x rounds.

    NaN where there was no update; ``marks`` is 1 where it was refused.
    """
    ratio = np.clip(over_median(distance), 0.25, 4.0)
    return _heatmap(
        parties,
        ratio,
        marks,
        norm=LogNorm(0.25, 4.0),
        colours="RdYlBu_r",
        ticks=([0.25, 0.5, 1.0, 2.0, 4.0], ["1/4", "1/2", "1", "2", "4 or more"]),
        title="distance to the aggregate, in multiples of the round's median",
    )


def over_median(distance: Matrix) -> Matrix:
    """Each column over its median; NaN where a column has no update at all."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        ratio: Matrix = distance / np.nanmedian(distance, axis=0, keepdims=True)
        return ratio


def influence_heatmap(parties: Sequence[str], influence: Matrix, marks: Matrix) -> str:
    """Weight of every update in the aggregate, in multiples of an equal share."""
    share = influence * len(parties)
    return _heatmap(
        parties,
        np.clip(share, 0.0, 2.0),
        marks,
        norm=Normalize(0.0, 2.0),
        colours="Blues",
        ticks=([0.0, 1.0, 2.0], ["0", "equal share", "2 or more"]),
        title="weight in the aggregate",
    )


def bars(names: Sequence[str], values: Sequence[float], unit: str, title: str) -> str:
    """Horizontal bars with their values written out."""
    with rc_context(STYLE):
        figure, axes = _figure(4.4, 0.6 + 0.32 * max(1, len(names)))
        places = range(len(names))
        axes.barh(places, values, color=SECOND, height=0.62)
        axes.set_yticks(list(places), list(names))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, max([*values, 1e-9]) * 1.3)
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {value:.3g} {unit}", va="center", fontsize=9)
        return _svg(figure, title)


def grid_plot(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]
) -> str:
    """Mean accuracy of every rule under every attack, as coloured cells with their figures."""
    with rc_context(STYLE):
        figure, axes = _figure(2.6 + 0.85 * len(columns), 0.9 + 0.42 * len(rows))
        image = np.array(values, dtype=np.float64)
        axes.imshow(image, cmap="RdYlGn", norm=Normalize(0.0, 1.0), aspect="auto", alpha=0.75)
        axes.grid(visible=False)
        axes.set_xticks(range(len(columns)), list(columns), fontsize=9)
        axes.set_yticks(range(len(rows)), list(rows), fontsize=9)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        for row, column in np.ndindex(image.shape):
            text = "-" if np.isnan(image[row, column]) else f"{100 * image[row, column]:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9)
        return _svg(figure, "mean test accuracy in percent, per rule and attack")


def _heatmap(
    parties: Sequence[str],
    values: Matrix,
    marks: Matrix,
    *,
    norm: Normalize,
    colours: str,
    ticks: tuple[list[float], list[str]],
    title: str,
) -> str:
    with rc_context(STYLE):
        figure, axes = _figure(7.2, 1.1 + min(0.2 * len(parties), 6.0))
        axes.set_facecolor("#eceff1")
        shown = np.ma.masked_invalid(values)
        image = axes.imshow(
            shown,
            aspect="auto",
            interpolation="nearest",
            norm=norm,
            cmap=colours,
            extent=(0.5, values.shape[1] + 0.5, len(parties) - 0.5, -0.5),
        )
        rows, columns = np.nonzero(marks)
        axes.scatter(columns + 1, rows, marker="x", s=9, lw=0.8, color=INK)
        axes.grid(visible=False)
        every = max(1, len(parties) // 40)
        axes.set_yticks(range(0, len(parties), every), list(parties)[::every], fontsize=8)
        axes.set_xlabel("round")
        bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.035)
        bar.set_ticks(ticks[0], labels=ticks[1])
        bar.ax.minorticks_off()
        bar.ax.tick_params(labelsize=8)
        return _svg(figure, title)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, title: str) -> str:
    """The figure as an inline element that scales with the page and has a text for readers."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
