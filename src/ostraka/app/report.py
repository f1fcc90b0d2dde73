"""`ostraka report`: a run's events as one HTML file that stands alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import jinja2
import numpy as np
import numpy.typing as npt

from ostraka import __version__
from ostraka.app import plots
from ostraka.app.errors import Exit, UserError
from ostraka.app.explain import explanation, text
from ostraka.app.folder import Folder
from ostraka.app.progress import bound_text, bytes_text, epsilon_text, percent
from ostraka.drivers.checkpoint import write_durably
from ostraka.drivers.trace import Record

Matrix = npt.NDArray[np.float64]


def write_report(folder: Folder) -> None:
    """Write report.html from what the folder holds. Raises UserError for a run without events."""
    story = Story.read(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ostraka.app"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html").render(_page(folder, story))
    write_durably(folder.report, page.encode())


@dataclass
class Story:
    """A run's events, sorted by what the report shows."""

    about: Record
    rounds: list[Record] = field(default_factory=list)
    aggregated: dict[int, Record] = field(default_factory=dict)
    excluded: dict[str, Counter[str]] = field(default_factory=dict)
    marks: list[tuple[str, int]] = field(default_factory=list)
    finished: Record | None = None

    @classmethod
    def read(cls, folder: Folder) -> Story:
        """The story that a run's events tell."""
        records = folder.records()
        about = next((r for r in records if r["event"] == "run"), None)
        if about is None:
            raise UserError(f"the run in {folder.path} has no events yet", Exit.MISSING)
        story = cls(about)
        for record in records:
            story._add(record)
        return story

    def _add(self, record: Record) -> None:
        match record["event"]:
            case "round":
                self.rounds.append(record)
            case "aggregated":
                self.aggregated[record["round"]] = record
            case "excluded":
                self._exclude(record["party"], record["reason"])
                self.marks.append((record["party"], record["round"]))
            case "missing":
                self._exclude(record["party"], "missing")
            case "finished":
                self.finished = record

    def _exclude(self, party: str, reason: str) -> None:
        self.excluded.setdefault(party, Counter())[reason] += 1

    @property
    def parties(self) -> list[str]:
        """All workers in order."""
        return list(self.about["workers"])

    def matrix(self, key: str) -> Matrix | None:
        """One figure per party and round, NaN where there is none; None if there is none at all."""
        values = np.full((len(self.parties), len(self.rounds)), np.nan)
        at = {name: row for row, name in enumerate(self.parties)}
        for round, record in self.aggregated.items():
            for name, value in (record.get(key) or {}).items():
                if round < values.shape[1]:
                    values[at[name], round] = np.inf if value is None else value
        return None if np.isnan(values).all() else values

    def mark_matrix(self) -> Matrix:
        """1 where an update was refused."""
        marks = np.zeros((len(self.parties), len(self.rounds)))
        at = {name: row for row, name in enumerate(self.parties)}
        for name, round in self.marks:
            if round < marks.shape[1]:
                marks[at[name], round] = 1.0
        return marks


def _page(folder: Folder, story: Story) -> Record:
    about, last = story.about, story.rounds[-1] if story.rounds else None
    distance, influence = story.matrix("distance"), story.matrix("influence")
    marks, names = story.mark_matrix(), _labels(story)
    seconds = last["seconds"] if last else {}
    sent = last["bytes_sent"] if last else {}
    epsilon = last["epsilon"] if last else None
    return {
        "title": about["name"],
        "subtitle": _subtitle(about),
        "unfinished": None if story.finished else f"{len(story.rounds)} of {about['rounds']}",
        "cards": _cards(story),
        "accuracy": _accuracy(folder, story),
        "distance": None if distance is None else plots.distance_heatmap(names, distance, marks),
        "influence": None
        if influence is None
        else plots.influence_heatmap(names, influence, marks),
        "influence_note": _influence_note(about),
        "parties": _party_rows(story, distance, influence),
        "time": plots.bars(list(seconds), list(seconds.values()), "s", "seconds per phase"),
        "traffic": plots.bars(
            list(sent), [b / 1e6 for b in sent.values()], "MB", "megabytes sent per role"
        ),
        "time_note": "Seconds of this process per phase; megabytes that each role sent in all.",
        "privacy": None if epsilon is None else epsilon_text(epsilon),
        "explanation": text(explanation(folder.config(), folder.base())),
        "configuration": folder.federation.read_text(),
        "facts": _facts(folder, story),
        "version": __version__,
    }


def _subtitle(about: Record) -> str:
    attack = "no attack"
    if about["attack"] != "none":
        attack = f"{about['attack']} by {len(about['attackers'])} of them"
    rule = " then ".join([*about["pre"], about["rule"]])
    what = about["data"] if about["app"] == "builtin" else about["app"]
    return (
        f"Trust model {about['trust']}: {about['n']} workers on {what}, {attack}; {rule} "
        f"with f = {about['f']}"
    )


def _cards(story: Story) -> list[tuple[str, str]]:
    evaluated = [r for r in story.rounds if "accuracy" in r]
    last = story.rounds[-1] if story.rounds else None
    cards = [
        (percent(evaluated[-1]["accuracy"]) if evaluated else "-", "test accuracy"),
        (f"{len(story.rounds)}", f"rounds of {story.about['rounds']}"),
        (f"{story.about['parameters']:,}", "parameters"),
        (bytes_text(sum(last["bytes_sent"].values()) if last else 0), "sent in all"),
        (f"{last['s']:.1f} s" if last else "-", "wall time"),
        (f"{len(story.excluded)}", "parties refused or missing"),
    ]
    if last and last["epsilon"] is not None:
        cards.append((bound_text(last["epsilon"]["local"]), "epsilon against the server"))
    return cards


def _accuracy(folder: Folder, story: Story) -> str | None:
    points = [(r["round"], r["accuracy"]) for r in story.rounds if "accuracy" in r]
    if not points:
        return None
    own = " + ".join([*story.about["pre"], story.about["rule"]])
    rounds, accuracy = zip(*points, strict=True)
    beside = [(c["title"], c["rounds"], c["accuracy"]) for c in folder.curves()]
    return plots.accuracy_plot([(own, rounds, accuracy), *beside])


def _labels(story: Story) -> list[str]:
    attackers = set(story.about["attackers"])
    return [f"{name} *" if name in attackers else name for name in story.parties]


def _influence_note(about: Record) -> str:
    marked = " Parties with a star attack in this simulation." if about["attackers"] else ""
    if about["rule"] in ("median", "trimmed-mean"):
        return (
            "Weight of each update in the mixed rows that the coordinate-wise rule works on, in "
            f"multiples of an equal share.{marked}"
        )
    return f"Weight of each update in the aggregate, in multiples of an equal share.{marked}"


def _party_rows(story: Story, distance: Matrix | None, influence: Matrix | None) -> list[Record]:
    ratio = None if distance is None else plots.over_median(distance)
    rows = []
    for at, name in enumerate(story.parties):
        counts = story.excluded.get(name, Counter())
        own = np.array([]) if ratio is None else ratio[at][np.isfinite(ratio[at])]
        zero = 0 if influence is None else int(np.sum(influence[at] == 0.0))
        rows.append(
            {
                "name": name,
                "attacks": name in story.about["attackers"],
                "excluded": ", ".join(f"{why} in {k} rounds" for why, k in counts.items()) or "-",
                "zero_weight": zero or "-",
                "distance": f"{np.median(own):.2f}" if own.size else "-",
            }
        )
    return rows


def _facts(folder: Folder, story: Story) -> list[tuple[str, str]]:
    about = folder.facts().get("versions", {})
    facts = [(name, str(value)) for name, value in about.items()]
    if story.finished:
        facts.append(("model digest", story.finished["model_digest"]))
    facts.append(("model", f"{folder.model.name}, {story.about['parameters']:,} parameters"))
    facts.append(("seed", str(story.about["seed"])))
    return facts
