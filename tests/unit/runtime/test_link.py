"""Two links over a connection that drops at any point, between processes that restart.

While both processes live nothing is lost, repeated or reordered; to a process that restarted comes
again whatever its sender has not forgotten.
"""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ostraka.drivers.link import ID_BYTES, Bounds, Link, session_id
from ostraka.net import Malformed
from ostraka.party import Frame

BOUNDS = Bounds(frames=6, bytes=400)
ENDS = (0, 1)


def frame(index: int, size: int = 10) -> Frame:
    return Frame((("round", index),), "Word", bytes(size))


def pump(sender: Link, receiver: Link) -> list[int]:
    """Send all there is; gives the rounds that were new."""
    fresh = []
    while (following := sender.next()) is not None:
        sequence, sent = following
        if receiver.deliver(sequence):
            fresh.append(sent.label[0][1])
    return fresh


class Machine(RuleBasedStateMachine):
    """Two ends; ``way[e]`` holds what end e has sent and the other has not read yet."""

    def __init__(self) -> None:
        super().__init__()
        self.links = [Link(BOUNDS), Link(BOUNDS)]
        self.process = [1, 2]
        self.processes = 2
        self.up = False
        self.way: list[deque[tuple[int, Frame]]] = [deque(), deque()]
        self.acks: list[deque[int]] = [deque(), deque()]
        self.posted: list[list[int]] = [[], []]  # by each process, in order
        self.got: list[list[int]] = [[], []]  # what end e's process got of the other's
        self.forgotten: list[set[int]] = [set(), set()]
        self.due: list[set[int]] = [set(), set()]  # what end e must still get, or has got
        self.shrunk = [False, False]  # whether the bounds ever took anything from this end
        self.rounds = 0

    def name(self, end: int) -> bytes:
        return self.process[end].to_bytes(ID_BYTES, "big")

    @initialize()
    def begin(self) -> None:
        self.connect()

    @precondition(lambda self: not self.up)
    @rule()
    def connect(self) -> None:
        hello = [(self.name(e), self.links[e].peer, self.links[e].received) for e in ENDS]
        for end in ENDS:
            process, knows, has = hello[1 - end]
            self.links[end].connected(process, has if knows == self.name(end) else 0)
        self.up = True

    @rule(end=st.sampled_from(ENDS), size=st.sampled_from([0, 10, 150]))
    def post(self, end: int, size: int) -> None:
        self.rounds += 1
        lost, link = self.links[end].lost, self.links[end]
        full = len(link._kept) >= BOUNDS.frames or link._bytes + size > BOUNDS.bytes
        self.shrunk[end] |= full
        gone = self.links[end].post(frame(self.rounds, size))
        assert self.links[end].lost == lost + gone
        self.posted[end].append(self.rounds)
        self.due[1 - end].add(self.rounds)
        self.due[1 - end] &= self.kept(end) | set(self.got[1 - end]) | self.travelling(end)

    def travelling(self, end: int) -> set[int]:
        return {sent.label[0][1] for _, sent in self.way[end]} if self.up else set()

    def kept(self, end: int) -> set[int]:
        """What this end must still have: everything, until the bounds took something."""
        if not self.shrunk[end]:
            return set(self.posted[end])
        return {k.frame.label[0][1] for k in self.links[end]._kept}

    @precondition(lambda self: self.up)
    @rule(end=st.sampled_from(ENDS))
    def send(self, end: int) -> None:
        following = self.links[end].next()
        if following is not None:
            self.way[end].append(following)

    @precondition(lambda self: self.up)
    @rule(end=st.sampled_from(ENDS))
    def read(self, end: int) -> None:
        if self.way[1 - end]:
            sequence, sent = self.way[1 - end].popleft()
            if self.links[end].deliver(sequence):
                self.got[end].append(sent.label[0][1])
            self.acks[end].append(self.links[end].received)

    @precondition(lambda self: self.up)
    @rule(end=st.sampled_from(ENDS), lost=st.booleans())
    def acknowledge(self, end: int, lost: bool) -> None:
        if self.acks[1 - end]:
            sequence = self.acks[1 - end].popleft()
            assert lost or self.links[end].acknowledged(sequence)

    @rule(end=st.sampled_from(ENDS), index=st.integers(0, 40))
    def forget(self, end: int, index: int) -> None:
        self.links[end].forget({(("round", index),)})
        self.forgotten[end].add(index)

    @precondition(lambda self: self.up)
    @rule()
    def drop(self) -> None:
        self.up = False
        for end in ENDS:
            self.due[1 - end] &= self.kept(end) | set(self.got[1 - end])
            self.way[end].clear()
            self.acks[end].clear()

    @rule(end=st.sampled_from(ENDS))
    def restart(self, end: int) -> None:
        """This end's process dies: it knows nothing, and what it had posted is gone."""
        if self.up:
            self.drop()
        self.processes += 1
        self.process[end] = self.processes
        self.links[end] = Link(BOUNDS)
        self.posted[end], self.forgotten[end], self.shrunk[end] = [], set(), False
        self.got[end], self.got[1 - end] = [], []
        other = 1 - end
        self.due[end] = (set(self.posted[other]) - self.forgotten[other]) & self.kept(other)
        self.due[1 - end] = set()

    @invariant()
    def nothing_is_repeated_or_reordered(self) -> None:
        for end in ENDS:
            assert self.got[end] == sorted(set(self.got[end]))
            assert set(self.got[end]) <= set(self.posted[1 - end])

    @invariant()
    def the_queue_is_bounded(self) -> None:
        for link in self.links:
            assert len(link._kept) <= BOUNDS.frames
            assert link._bytes == sum(k.frame.size for k in link._kept)
            assert link._bytes <= BOUNDS.bytes
            assert link.owes == (link.backlog > 0 or any(not link._had(k) for k in link._kept))

    def teardown(self) -> None:
        """However it went: connected once more, everything that is due arrives."""
        if self.up:
            self.drop()
        self.connect()
        for end in ENDS:
            self.got[end] += pump(self.links[1 - end], self.links[end])
            assert self.due[end] <= set(self.got[end])
            assert self.links[1 - end].acknowledged(self.links[end].received)
            assert not self.links[1 - end].owes
        self.nothing_is_repeated_or_reordered()


@pytest.mark.slow
class TestLinksOverBadConnections(Machine.TestCase):
    settings = settings(max_examples=150, stateful_step_count=40)


def joined() -> tuple[Link, Link]:
    a, b = Link(BOUNDS), Link(BOUNDS)
    a.connected(b"b" * ID_BYTES, 0)
    b.connected(b"a" * ID_BYTES, 0)
    return a, b


def test_a_restarted_receiver_gets_again_what_was_acknowledged_and_not_forgotten() -> None:
    a, b = joined()
    for index in range(4):
        a.post(frame(index))
    assert pump(a, b) == [0, 1, 2, 3]
    assert a.acknowledged(4)
    a.forget({(("round", 0),), (("round", 2),)})
    a.connected(b"c" * ID_BYTES, 0)
    assert pump(a, Link()) == [1, 3]


def test_what_was_forgotten_goes_once_it_is_acknowledged_and_not_before() -> None:
    a, b = joined()
    a.post(frame(0, 200))
    a.forget({(("round", 0),)})
    assert pump(a, b) == [0]
    assert a.backlog == 200
    assert a.acknowledged(1)
    assert (a._kept, a._bytes, a.owes) == ([], 0, False)


def test_acknowledged_frames_go_first_and_lost_ones_are_counted() -> None:
    a, b = joined()
    for index in range(3):
        a.post(frame(index))
    assert pump(a, b) == [0, 1, 2]
    assert a.acknowledged(2)
    gone = [a.post(frame(index)) for index in range(3, 9)]
    assert gone == [0, 0, 0, 0, 0, 1]
    assert a.lost == 1
    assert a.post(frame(9, 1000)) == 6, "the newest stays, however long"
    a.connected(b"b" * ID_BYTES, 3)
    assert pump(a, b) == [9]


def test_an_acknowledgement_of_what_was_never_sent_is_refused_and_changes_nothing() -> None:
    a, b = joined()
    a.post(frame(0))
    a.post(frame(1))
    assert not a.acknowledged(1)
    assert a.next() is not None
    assert not a.acknowledged(2)
    assert not a.acknowledged((1 << 64) - 1)
    assert a.acknowledged(1)
    assert a.acknowledged(0), "an old one says nothing new"
    assert a.owes
    assert pump(a, b) == [1]


@pytest.mark.parametrize("has", [2, 3, 1000, (1 << 64) - 1])
def test_a_hello_that_claims_too_much_harms_nobody_else(has: int) -> None:
    """It has what was sent to it, at most; frames posted later still go out."""
    a, b = joined()
    a.post(frame(0))
    assert a.next() is not None
    a.connected(a.peer, has)
    a.post(frame(1))
    assert pump(a, b) == [1]
    a.connected(b"n" * ID_BYTES, has)
    assert pump(a, Link()) == [0, 1], "nothing was ever sent to a new process"


def test_an_acknowledgement_may_speak_of_the_connection_before() -> None:
    """The peer's HELLO was under way while the old connection still brought frames."""
    a, b = joined()
    for index in range(3):
        a.post(frame(index))
    assert pump(a, b) == [0, 1, 2]
    a.connected(a.peer, 1)
    assert a.acknowledged(3)
    assert a.next() is None or not a.owes


def test_a_sequence_number_from_the_far_future_silences_only_its_sender() -> None:
    a, b = joined()
    assert b.deliver((1 << 64) - 1)
    a.post(frame(0))
    assert pump(a, b) == []
    b.post(frame(1))
    assert pump(b, a) == [1]
    b.connected(b"n" * ID_BYTES, 0)
    assert b.deliver(1), "a new process begins anew"


def test_a_malformed_frame_has_no_size() -> None:
    link = Link(BOUNDS)
    link.post(Frame((), "Word", Malformed("too long")))
    assert link.backlog == 0
    assert link.owes


def test_a_session_has_two_ends_in_any_order() -> None:
    one, two = b"1" * ID_BYTES, b"2" * ID_BYTES
    here = session_id(bytes(32), {"a": one, "b": two})
    assert here == session_id(bytes(32), {"b": two, "a": one})
    others = {
        session_id(bytes(32), {"a": two, "b": one}),
        session_id(b"x" * 32, {"a": one, "b": two}),
        session_id(bytes(32), {"a": one, "c": two}),
        session_id(bytes(32), {"ab": one, "": two}),
    }
    assert len(others | {here}) == 5
