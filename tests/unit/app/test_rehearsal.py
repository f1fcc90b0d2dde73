"""The faults of a rehearsal, as people type them."""

import pytest

from ostraka.app.config import Config, check
from ostraka.app.errors import UserError
from ostraka.app.rehearsal import Kill, Rehearsal, Split, rehearsal, seconds


def config(attack: str = "none", n: int = 5) -> Config:
    return check(
        {
            "federation": {"name": "test"},
            "faults": {"byzantine": 1},
            "simulation": {"parties": n, "attack": attack},
        },
        "test",
    )


def read(**flags: object) -> Rehearsal:
    given = {"kill": [], "partition": [], "delay": None, "cut": None, "lie": [], **flags}
    return rehearsal(**given)  # type: ignore[arg-type]


def test_all_flags_are_read() -> None:
    found = read(
        kill=["server@3", "worker-1@0"],
        partition=["worker-0,worker-2@10s-20s"],
        delay="50ms",
        cut=0.05,
        lie=["worker-4:alie"],
    )
    assert found.kills == (Kill("server", 3), Kill("worker-1", 0))
    assert found.partitions == (Split(frozenset({"worker-0", "worker-2"}), 10.0, 20.0),)
    assert (found.delay_s, found.cut) == (0.05, 0.05)
    assert found.lies == {"worker-4": "alie"}
    assert found.on_links
    found.check(config())


def test_in_two_server_every_operator_may_die_and_only_workers_lie() -> None:
    own = check({"federation": {"name": "x", "trust": "two-server"}}, "test")
    kills = [f"{name}@3" for name in ("server-0", "server-1", "dealer", "worker-00")]
    read(kill=kills, partition=["server-1,dealer@1s-2s"], lie=["worker-01:mixed-seeds"]).check(own)
    with pytest.raises(UserError, match="dealer is no worker"):
        read(lie=["dealer:alie"]).check(own)
    with pytest.raises(UserError, match="there is no party 'server'"):
        read(kill=["server@1"]).check(own)


def test_no_flag_is_no_fault() -> None:
    assert read() == Rehearsal()
    assert not Rehearsal().on_links


@pytest.mark.parametrize(("text", "s"), [("50ms", 0.05), ("10s", 10.0), ("1.5s", 1.5), ("2m", 120)])
def test_times(text: str, s: float) -> None:
    assert seconds(text, "--delay") == pytest.approx(s)


@pytest.mark.parametrize(
    "flags",
    [
        {"delay": "50"},
        {"delay": "-1s"},
        {"delay": "٣s"},
        {"delay": "1e3s"},
        {"cut": 1.0},
        {"cut": -0.1},
        {"cut": float("nan")},
        {"kill": ["server"]},
        {"kill": ["server@"]},
        {"kill": ["@3"]},
        {"kill": ["server@-1"]},
        {"kill": ["server@²"]},
        {"partition": ["worker-1"]},
        {"partition": ["worker-1@5s"]},
        {"partition": ["worker-1@9s-5s"]},
        {"partition": ["worker-1@5s-5s"]},
        {"lie": ["worker-1"]},
        {"lie": [":alie"]},
        {"lie": ["worker-1:alie", "worker-1:ipm"]},
    ],
)
def test_what_cannot_be_read_is_refused(flags: dict[str, object]) -> None:
    with pytest.raises(UserError) as refusal:
        read(**flags)
    assert refusal.value.code == 64


@pytest.mark.parametrize(
    "flags",
    [
        {"kill": ["nobody@3"]},
        {"partition": ["worker-0,nobody@1s-2s"]},
        {"lie": ["nobody:alie"]},
        {"lie": ["server:alie"]},
        {"lie": ["worker-0:nothing-known"]},
        {"lie": ["worker-0:none"]},
        {"kill": ["worker-1@3", "server@200"]},
    ],
)
def test_what_cannot_happen_is_refused(flags: dict[str, list[str]]) -> None:
    with pytest.raises(UserError) as refusal:
        read(**flags).check(config())
    assert refusal.value.code == 64


def test_a_kill_in_the_last_round_is_still_one() -> None:
    read(kill=["server@199"]).check(config())
    with pytest.raises(UserError, match="--kill server@200: the run has only 200 rounds"):
        read(kill=["server@200"]).check(config())


def test_the_summary_tells_the_lies_of_the_file_and_of_the_flags() -> None:
    assert read().told(config()) == {}
    assert read().told(config("alie")) == {"worker-4": "alie"}
    lies = read(lie=["worker-3:ipm", "worker-4:zero"])
    assert lies.told(config("alie")) == {"worker-3": "ipm", "worker-4": "zero"}


def test_the_files_attackers_lie_and_one_may_lie_otherwise() -> None:
    attacked = config("alie")
    assert Rehearsal().lie_of("worker-4", attacked) == "alie"
    assert Rehearsal().lie_of("worker-3", attacked) is None
    assert read(lie=["worker-3:ipm"]).lie_of("worker-3", attacked) == "ipm"
    assert Rehearsal().lie_of("worker-4", config()) is None
