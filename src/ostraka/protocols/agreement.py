"""Agreement: all honest voters decide one value, or that there is none.

Source: Tendermint (Buchman, Kwon and Milosevic 2018, arXiv 1807.04938): proposal, prevote,
precommit, locks, leaders in turn. View changes are PBFT's (Castro and Liskov 1999): a voter
that has waited long enough says so, and a view begins with q who do, so that no clock runs ahead.
Votes go to the leader alone, who shows all what q of them prove (HotStuff, Yin et al. 2019).
Parties: N voters, N >= 3 t + 2 dropouts + 1, up to t Byzantine, up to ``dropouts`` more away;
partially synchronous links. q = floor((N + t) / 2) + 1. Guarantee: never two values; a
decision within t + 2 views after the last fault; q precommits prove it to anybody. Revealed:
values and votes, to all. Undisturbed 5 (N - 1) frames: from the leader to each its value and two
certificates of 64 q bytes, from each two votes of 96; each verifies 2 q + 1 signatures.
docs/protocols/agreement.md has the arguments, each with the check and the test that stands for it.

A value without a certificate is tested by the subject. One with q prevotes of an earlier view, not
older than the voter's lock, is voted for whatever the voter holds: liars can show an item to some
only, so that tests on it would never end. A voter asks a leader for what it lacks of a fresh
value, and a leader, before it proposes afresh in view 1 or later, asks all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ostraka.crypto.sign import Sign
from ostraka.net import Arrival, Inbox, Net, Trace
from ostraka.protocols.ballots import (
    ASK,
    DECIDED,
    VIEW,
    Change,
    Decision,
    Have,
    Stored,
    Subject,
    dims,
)
from ostraka.protocols.views import Asks, Ration
from ostraka.protocols.voter import Handlers, Voter, take
from ostraka.protocols.votes import Instance, Plan

NEVER = (1 << 64) - 1


async def agree(
    net: Net,
    plan: Plan,
    instance: Instance,
    subject: Subject,
    *,
    sign: Sign,
    store: Callable[[Stored], None],
    restored: Sequence[Stored] = (),
    life: int = 1,
    trace: Trace,
) -> Decision:
    """Decide an instance, and come to hold what its value speaks of.

    ``net`` is the instance's own label. ``store`` makes durable what is signed before it leaves;
    ``restored`` is all that earlier processes of this voter stored for this instance, in order;
    ``life`` counts these processes from 1. What is stored must stay until the decision is, and a
    decided instance must not be run again. Afterwards `remain` answers those who are behind.
    Raises ValueError where the plan promises too much, or the subject's value is none.
    """
    plan.check()
    net.window(DECIDED, (0,), (0,))
    asks = Asks(net, life)
    voter = Voter(net, plan, instance, subject, asks, sign, store, trace)
    decision = await voter.run(restored)
    await _stay(net, plan, decision, subject, trace, asks)
    return decision


async def remain(net: Net, plan: Plan, decision: Decision, subject: Subject, trace: Trace) -> None:
    """Show a decision, and its items, to whoever asks; runs until it is ended, by `Net.race`."""
    await _stay(net, plan, decision, subject, trace, None)


async def _stay(
    net: Net, plan: Plan, decision: Decision, subject: Subject, trace: Trace, asks: Asks | None
) -> None:
    """Answer others; who ``asks`` stays until it holds what was decided."""
    others = frozenset(plan.voters) - {net.me}
    sizes = dims(plan, subject.value_bytes, subject.have_bytes)
    shown, given, answer = Ration(net, plan), Ration(net, plan), decision.message(plan)

    def show(got: Arrival) -> None:
        if shown.due(got.sender):
            net.sub(DECIDED[0]).send(got.sender, answer)

    def give(got: Arrival) -> None:
        if given.due(got.sender):
            subject.give(net, got.sender, got.message.have)

    for path in (VIEW, DECIDED):  # nobody reads it any more, and it must not pile up
        net.window(path, (NEVER,))
    handlers: Handlers = {
        Inbox(ASK, Change.form(**sizes), others): show,
        Inbox(ASK, Have.form(**sizes), others): give,
        **dict.fromkeys(subject.inboxes, subject.upon),
    }
    ask_at = net.now
    while asks is None or not (decision.void or subject.holds(decision.value)):
        if asks is not None and net.now >= ask_at:
            asks.items(subject, tuple(others))
            ask_at = net.now + plan.view_s
        wait_s = None if asks is None else ask_at - net.now
        await take(net, handlers, wait_s, trace)
