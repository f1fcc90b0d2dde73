"""The guide for three machines, followed literally: its blocks are pasted as they stand.

Three folders stand for three machines; each is the home of its windows. Nothing of the page is
changed but the address of the one machine that listens.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ports import free_port

PAGE = Path(__file__).parents[2] / "docs" / "deploy" / "three-machines.md"
ADDRESS = "hospital-a.example.org:7443"
PATIENCE_S = 120.0
STEP = re.compile(
    r"\*\*(?P<prelude>At the start of every window), on every machine:\*\*\n+"
    r"```sh\n(?P<opening>.*?)```"
    r"|\*\*On (?P<on>[ABC](?:, [ABC])*(?: and [ABC])?)(?P<window>, in a window that stays open)?:"
    r"\*\*\n+```sh\n(?P<block>.*?)```"
    r"|\*\*Send\*\* `(?P<file>[^`]+)` from (?P<sender>[ABC]) to (?P<to>[ABC])\."
    r"|Wait until (?P<waits>[ABC])\s+says `(?P<said>[^`]+)`"
    r"|\*\*press Ctrl-C on (?P<stops>[ABC])\.\*\*"
    r"|(?P<end>\*\*Wait for the end\.\*\*)",
    re.DOTALL,
)


@dataclass
class Window:
    """A command that goes on; its output is read as it comes."""

    process: subprocess.Popen[str]
    out: str = ""
    reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line

    def says(self, text: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while text not in self.out:
            assert time.monotonic() < end, f"{text!r} was never said: {self.out}"
            assert self.process.poll() is None or text in self.out, self.out
            self.reader.join(0.05)

    def ended(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self.reader.join(PATIENCE_S)
        return code


class Machines:
    """Three homes, with the package installed where the page installs it."""

    def __init__(self, folder: Path) -> None:
        self.homes = {name: folder / name for name in "ABC"}
        self.here = f"127.0.0.1:{free_port()}"
        self.opening = ""
        self.open: dict[str, list[Window]] = {name: [] for name in "ABC"}
        self.outputs: dict[str, str] = dict.fromkeys("ABC", "")
        for home in self.homes.values():
            home.mkdir()
            (home / "ostraka").symlink_to(Path(sys.executable).parent.parent)

    @property
    def windows(self) -> list[Window]:
        return [window for windows in self.open.values() for window in windows]

    def paste(self, on: str, block: str) -> Window:
        kept = {k: v for k, v in os.environ.items() if k not in ("OSTRAKA_DATA", "PYTHONPATH")}
        process = subprocess.Popen(
            ["bash", "-e", "-c", "set -o pipefail\n" + self.opening + self.moved(block)],
            cwd=self.homes[on],
            env={**kept, "HOME": str(self.homes[on]), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Window(process)

    def moved(self, block: str) -> str:
        return block.replace(ADDRESS, self.here)

    def do(self, step: re.Match[str]) -> None:
        if step["prelude"]:
            self.opening = step["opening"]
        elif step["window"]:
            self.open[step["on"]].append(self.paste(step["on"], step["block"]))
        elif step["block"]:
            self.all(re.findall("[ABC]", step["on"]), step["block"])
        elif step["file"]:
            content = (self.homes[step["sender"]] / "federation" / step["file"]).read_bytes()
            (self.homes[step["to"]] / "federation" / step["file"]).write_bytes(content)
        elif step["waits"]:
            self.open[step["waits"]][-1].says(step["said"])
        elif step["stops"]:
            self.interrupt(self.open[step["stops"]].pop())
        else:
            for window in self.windows:
                assert window.ended() == 0, window.out

    def all(self, names: list[str], block: str) -> None:
        windows = {name: self.paste(name, block) for name in names}
        for name, window in windows.items():
            assert window.ended() == 0, window.out
            self.outputs[name] += window.out

    def interrupt(self, window: Window) -> None:
        begin = time.monotonic()
        os.killpg(window.process.pid, signal.SIGINT)
        assert window.ended() == 75, window.out
        assert time.monotonic() - begin < 5.0
        assert "state is kept" in window.out

    def close(self) -> None:
        for window in self.windows:
            if window.process.poll() is None:
                os.killpg(window.process.pid, signal.SIGKILL)
                window.process.wait()


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_block_of_the_page_is_followed() -> None:
    """A block that the pattern does not see would be one that nobody has tried."""
    steps = list(STEP.finditer(page()))
    assert sum(bool(s["block"] or s["opening"]) for s in steps) == page().count("```sh")
    assert [s["file"] for s in steps if s["file"]].count("federation.toml") == 2
    assert sum(bool(s["stops"]) for s in steps) == sum(bool(s["end"]) for s in steps) == 1
    assert page().count(ADDRESS) == 1


@pytest.mark.slow
def test_the_guide_pasted_into_three_folders_trains_one_model(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    try:
        for step in STEP.finditer(page()):
            machines.do(step)
    finally:
        machines.close()
    folders = [home / "federation" / "state" / "first-steps" for home in machines.homes.values()]
    found = {
        path.parent.name: json.loads(path.read_text())["model_digest"]
        for folder in folders
        for path in folder.glob("*/summary.json")
    }
    assert sorted(found) == ["hospital-a", "hospital-b", "hospital-c", "server"]
    assert len(set(found.values())) == 1
    said = {
        line.split()[1]
        for w in machines.windows
        for line in w.out.splitlines()
        if line.startswith("model ")
    }
    assert said == set(found.values())
    assert (folders[0] / "server" / "report.html").exists()
    again = machines.outputs["B"]
    assert again.count(found["server"]) == 1, "joining once more says the same"
    shown = re.findall(
        r"^([0-9a-f]{64})  federation\.toml$", "".join(machines.outputs.values()), re.M
    )
    assert len(shown) == 3
    assert len(set(shown)) == 1
