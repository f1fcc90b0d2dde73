"""What a finished run leaves in its folder: the model, the metrics, the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from safetensors.numpy import save

from ostraka.app.folder import Folder
from ostraka.drivers.checkpoint import write_durably
from ostraka.drivers.trace import Record, as_json

COLUMNS = ("round", "accuracy", "loss", "bytes_sent", "seconds", "excluded", "epsilon")


def write_outputs(
    folder: Folder, summary: Record, model: Mapping[str, npt.NDArray[Any]], *, report: bool
) -> Record:
    """Write model.safetensors, metrics.csv and report.html; gives the summary with its place.

    ``model`` is the module's state by name, as ``load_state_dict`` takes it.
    """
    write_durably(folder.model, save(dict(model), metadata={"digest": summary["model_digest"]}))
    records = list(folder.records())
    write_durably(folder.metrics, metrics_csv(records).encode())
    if not report:
        return summary | {"report": None}
    from ostraka.app.report import write_report  # plots take long to import; workers need none

    write_report(folder)
    return summary | {"report": str(folder.report)}


def write_party(
    folder: Folder, summary: Record, model: Mapping[str, npt.NDArray[Any]], *, report: bool
) -> Record:
    """What a real party keeps of a run that has ended; the summary, written last, says so.

    The leader's folder also gets what a simulated run's has; who has no model keeps none.
    """
    if report:
        summary = write_outputs(folder, summary, model, report=True)
    elif model:
        digest = {"digest": summary["model_digest"]}
        write_durably(folder.model, save(dict(model), metadata=digest))
    summary = {**summary, "state": str(folder.path)}
    write_durably(folder.summary, as_json(summary).encode())
    return summary


def metrics_csv(records: list[Record]) -> str:
    """One line per round; what was not measured in a round is left empty."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(COLUMNS)
    excluded: dict[int, int] = {}
    for record in records:
        if record["event"] in ("excluded", "missing"):
            excluded[record["round"]] = excluded.get(record["round"], 0) + 1
        elif record["event"] == "round":
            table.writerow(_row(record, excluded.get(record["round"] - 1, 0)))
    return out.getvalue()


def _row(record: Record, excluded: int) -> list[Any]:
    epsilon = record["epsilon"]
    return [
        record["round"],
        record.get("accuracy", ""),
        record.get("loss", ""),
        sum(record["bytes_sent"].values()),
        record["s"],
        excluded,
        "" if epsilon is None else epsilon["local"],
    ]
