"""What is written of events: a line each, for their owner's eyes alone."""

import json
import stat
from pathlib import Path

from ostraka.drivers.trace import JsonLines


def test_a_line_for_each_event_that_only_its_owner_may_read(tmp_path: Path) -> None:
    """Events tell whose update counted how much in every round."""
    path = tmp_path / "events.jsonl"
    for number in range(2):  # a file that is there is gone on with
        lines = JsonLines(path, prompt=True)
        lines({"event": "round", "round": number, "loss": float("nan")})
        assert lines.size() == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert told == [{"event": "round", "round": n, "loss": None} for n in range(2)]
