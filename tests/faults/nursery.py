"""A process that has imported everything and forks a party on demand, which so starts at once.

It reads one JSON object a line: {"number", "argv", "log", "pause_s", "fault"}; it answers
{"number", "pid"} and, when the party has ended, {"pid", "code"} (negative: the signal). When its
input ends, so do all its children. Its arguments are further modules to import first.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
from typing import Any

from ostraka.algebra import kernels
from ostraka.app import cli
from tests.faults import tiny
from tests.unit.runtime.disk_faults import Failing, Hook, Killer, hooked

# What a party imports sooner or later: imported here, it costs no child anything.
WARM = ("commands", "join", "output", "parties.playing", "progress", "report")
LIBRARIES = ("encodings.idna", "numpy.random", "pydantic.type_adapter", "threadpoolctl")


def main() -> None:
    sys.modules["ostraka.app.assemble"] = tiny.stand_in()
    sys.modules["ostraka.app.plots"] = tiny.Undrawn("ostraka.app.plots")
    compiled = (m.name for m in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."))
    named = (f"ostraka.app.{name}" for name in WARM)
    for name in (*named, *compiled, *LIBRARIES, *sys.argv[1:]):
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")
    gc.freeze()  # children share these pages as long as nobody looks through them
    children: set[int] = set()
    rest = b""
    while True:
        if select.select([0], [], [], 0.01)[0]:
            got = os.read(0, 1 << 16)
            if not got:
                break
            *lines, rest = (rest + got).split(b"\n")
            for line in lines:
                children.add(fork(json.loads(line)))
        reap(children)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def fork(order: dict[str, Any]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        live(order)
    say({"number": order["number"], "pid": pid})
    return pid


def reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def say(record: dict[str, Any]) -> None:
    os.write(1, json.dumps(record).encode() + b"\n")


def live(order: dict[str, Any]) -> None:
    """In the child: the party's whole life, from its command line to its exit code."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, log, log)):
        os.dup2(file, number)
    tiny.OPTIONS.pause_s = order["pause_s"]
    sys.argv = ["ostraka", *order["argv"]]
    code: Any = 70
    try:
        with hooked(fault_of(order["fault"])) if order["fault"] else contextlib.nullcontext():
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 70)


def fault_of(fault: dict[str, Any]) -> Hook:
    match fault["kind"]:
        case "kill":
            return Killer(fault["at"], fault["how"])
        case "fail":
            return Failing(fault["at"], fault["how"], fault["code"])
        case "kill-at-name":
            return Doomed(fault["name"], fault["how"])
    raise ValueError(fault)


class Doomed:
    """Ends the process before or after it puts a file of this name in place."""

    def __init__(self, name: str, how: str) -> None:
        self.name, self.how = name, how

    def __call__(self, call_name: str, call: Any, args: Any, named: Any) -> Any:
        doomed = call_name == "replace" and os.path.basename(args[1]) == self.name
        if doomed and self.how == "after":
            call(*args, **named)
        if doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **named)


if __name__ == "__main__":
    main()
