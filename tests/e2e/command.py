"""Runs the command line in this process or in one of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from ostraka.app import cli


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output of a command with --json: JSON lines only."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        return self.lines[-1]


def ostraka(*arguments: object) -> Ended:
    """In this process: what the installed command would do."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["ostraka", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as exit:
        return Ended(int(exit.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("main always exits")


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """In a process of its own."""
    command = [sys.executable, "-m", "ostraka.app.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
