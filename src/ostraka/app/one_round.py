"""`secure_aggregate`: one round of a real protocol, in the simulator, on rows of an array.

The rows are what the workers send: a row longer than `clip` is refused by the servers, as it would
be from a worker that does not obey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ostraka.algebra.fixed import FixedPoint
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign, signer_from
from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Simulation
from ostraka.mailbox import Limits
from ostraka.net import Program
from ostraka.rules.api import GramRule, PreAggregation, Rule, own_f
from ostraka.rules.bounds import remaining
from ostraka.trust import two_server
from ostraka.trust.api import Promise

MIN_CONTRIBUTORS = 3
TRUST_MODELS = ("two_server",)
PATIENCE_S = 60.0
Rows = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SecureAggregate:
    """What the protocol made of the rows, and what it showed to whom.

    ``vector`` (d,) has the dtype and array type of the rows; ``weights`` (n,) float64 are the
    integer weights that were used, 0 for dropped rows; ``dropped`` maps a row to its reason;
    ``opened`` lists (what, to whom, how many words); ``capped``: the guard lowered some weights;
    ``bytes_sent`` per party or, for workers, of all of them together; ``promise``: who may lie and
    who may look.
    """

    vector: Any
    weights: npt.NDArray[np.float64]
    dropped: dict[int, str]
    opened: tuple[tuple[str, str, int], ...]
    capped: bool
    bytes_sent: Mapping[str, int]
    promise: Promise


def secure_aggregate(
    updates: Any,
    rule: Rule,
    *,
    trust: str,
    pre: Sequence[PreAggregation] = (),
    reference: Any = None,
    seed: int = 0,
    f: int | None = None,
    clip: float | None = None,
    frac_bits: int | None = None,
    min_contributors: int | None = None,
) -> SecureAggregate:
    """Aggregate the rows of an (n, d) float32 or float64 array or torch tensor among parties.

    ``trust`` names the trust model. ``f``: the rule's or its pre-aggregations', else 0. ``clip``:
    the smallest power of two that is not below the norm of any finite row. ``frac_bits``: the
    largest that fits, at most 20. ``min_contributors``: 3. The parties' secrets follow from
    ``seed`` here, so the call can be repeated and hides nothing from whoever runs it. Raises
    ValueError with a sentence for every refusal, a round that ends without opening among them.
    """
    if trust.replace("-", "_") not in TRUST_MODELS:
        raise ValueError(f"trust must be one of {', '.join(TRUST_MODELS)}, got {trust!r}")
    rule = two_server.gram_rule(rule)
    rows, give = _as_rows(updates)
    force = _common_f(rule, pre, f)
    centre = None if reference is None or not rule.uses_reference else _as_rows([reference])[0][0]
    shifted = rows if centre is None else rows - centre

    finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(shifted).all(axis=1))
    fixed = _fixed(shifted[finite], clip, frac_bits)
    sent, dropped = _sendable(shifted, finite, fixed)
    _, force_left = remaining(len(rows), force, len(dropped), 0, None)
    least = MIN_CONTRIBUTORS if min_contributors is None else min_contributors
    plan, signs = _plan(rule, tuple(pre), force_left, fixed, sent, least)
    found = _Round(plan, signs, shifted, seed).run()

    vector = found.state.previous if centre is None else found.state.previous + centre
    return SecureAggregate(
        vector=give(vector),
        weights=found.weights(len(rows)),
        dropped=dict(sorted({**dropped, **found.dropped}.items())),
        opened=tuple(found.opened),
        capped=found.capped,
        bytes_sent=found.bytes_sent,
        promise=two_server.terms(plan, fixed.d).promise,
    )


def _common_f(rule: GramRule, pre: Sequence[PreAggregation], f: int | None) -> int:
    parts: list[Rule | PreAggregation] = [rule, *pre]
    known = {value for value in (f, *map(own_f, parts)) if value is not None}
    if len(known) > 1:
        raise ValueError(f"the rule, its pre-aggregations and f disagree: {sorted(known)}")
    return known.pop() if known else 0


def _fixed(finite: Rows, clip: float | None, frac_bits: int | None) -> FixedPoint:
    if clip is None:
        longest = max((float(np.linalg.norm(row)) for row in finite), default=0.0)
        if not math.isfinite(longest):
            raise ValueError("some row is too long to have a norm: give a clip")
        clip = 2.0 ** math.ceil(math.log2(longest)) if longest > 0 else 1.0
        clip = clip if clip >= longest else 2 * clip
    return FixedPoint.fitting(finite.shape[1], clip, frac_bits=frac_bits)


def _sendable(
    rows: Rows, finite: npt.NDArray[np.bool_], fixed: FixedPoint
) -> tuple[list[int], dict[int, str]]:
    """Which rows can be said in words of 64 bits at all, and the reason for those that cannot."""
    dropped = {int(i): "non-finite" for i in np.flatnonzero(~finite)}
    most = math.ldexp(1.0, 63 - fixed.frac_bits)
    large = finite & (np.abs(np.where(finite[:, None], rows, 0.0)).max(axis=1, initial=0) >= most)
    dropped |= {int(i): "overflow" for i in np.flatnonzero(large)}
    return [i for i in range(len(rows)) if i not in dropped], dropped


def _plan(
    rule: GramRule,
    pre: tuple[PreAggregation, ...],
    f: int,
    fixed: FixedPoint,
    sent: list[int],
    least: int,
) -> tuple[two_server.Plan, dict[str, Sign]]:
    signs, keys = {}, {}
    for row in sent:
        sign, public = signer_from(digest("simulated identity", row.to_bytes(8, "little")))
        signs[f"row-{row}"], keys[f"row-{row}"] = sign, public
    plan = two_server.Plan(
        keys=keys,
        server_0="server-0",
        server_1="server-1",
        dealer="dealer",
        session=digest("secure_aggregate"),
        rounds=1,
        rule=rule.with_f(f),
        pre=tuple(part.with_f(f) for part in pre),
        f=f,
        dropouts=None,
        rate=lambda round: 1.0,
        deadline_s=PATIENCE_S,
        patience_s=PATIENCE_S,
        max_norm=math.inf,
        fixed=fixed,
        min_contributors=least,
        min_cohort=f + least,
    )
    plan.check()
    return plan, signs


@dataclass
class _Round:
    """One round of the real programs on these rows, and what was heard of it."""

    plan: two_server.Plan
    signs: Mapping[str, Sign]
    rows: Rows
    seed: int

    def __post_init__(self) -> None:
        self.dropped: dict[int, str] = {}
        self.opened: list[tuple[str, str, int]] = []
        self.influence: dict[str, float] = {}
        self.capped = False

    def run(self) -> _Round:
        """Run it; ValueError when it ends without an aggregate."""
        plan = self.plan
        limits = Limits(64, plan.most_unread(), plan.most_bytes())
        simulation = Simulation(self._programs(), seed=self.seed, limits=limits)
        outcomes = simulation.run()
        failed = next((o for o in outcomes.values() if o.error is not None), None)
        if failed is not None:
            raise ValueError(str(failed.error))
        self.state: two_server.State0 = outcomes[plan.server_0].result
        sent = simulation.bytes_sent
        operators = (plan.server_0, plan.server_1, plan.dealer)
        self.bytes_sent = {name: sent[name] for name in operators}
        self.bytes_sent["workers"] = sum(sent[name] for name in plan.workers)
        return self

    def weights(self, n: int) -> npt.NDArray[np.float64]:
        """Every row's weight."""
        out = np.zeros(n)
        for name, weight in self.influence.items():
            out[_row(name)] = weight
        return out

    def _programs(self) -> dict[str, Program]:
        plan, zero = self.plan, np.zeros(self.plan.fixed.d, np.float32)
        programs: dict[str, Program] = {
            plan.server_0: lambda net: two_server.server_0(
                net,
                plan,
                two_server.State0.initial(zero),
                own=self._own(net.me),
                commit=_forget,
                trace=self._trace,
            ),
            plan.server_1: lambda net: two_server.server_1(
                net,
                plan,
                two_server.State1.initial(zero),
                own=self._own(net.me),
                commit=_forget,
                trace=_silent,
            ),
            plan.dealer: lambda net: two_server.dealer(net, plan, 1, own=self._own(net.me)),
        }
        return programs | dict.fromkeys(plan.workers, self._worker)

    async def _worker(self, net: Any) -> Any:
        row = self.rows[_row(net.me)]
        return await two_server.worker(
            net,
            self.plan,
            lambda round, model: row,
            own=self._own(net.me),
            sign=self.signs[net.me],
            encode=lambda plan, update: plan.fixed.encode_exactly(update),
            trace=_silent,
        )

    def _own(self, name: str) -> Key:
        where = self.seed.to_bytes(16, "little", signed=True)
        return Key(digest("simulated secrets", where, name.encode()))

    def _trace(self, event: str, **fields: Any) -> None:
        match event:
            case "excluded":
                self.dropped[_row(fields["party"])] = fields["reason"]
            case "opened":
                self.opened.append((fields["label"], fields["to"], fields["words"]))
            case "capped":
                self.capped = True
            case "aggregated":
                self.influence = fields["influence"]


def _row(name: str) -> int:
    return int(name.rpartition("-")[2])


def _silent(event: str, **fields: Any) -> None:
    """Forget an event."""


def _forget(state: Any) -> None:
    """Store nothing: there is no run to go on with."""


def _as_rows(updates: Any) -> tuple[Rows, Any]:
    """The rows as float64 (n, d), and what gives a vector back in their own type."""
    first = updates[0] if isinstance(updates, list | tuple) and len(updates) else updates
    if type(first).__module__.partition(".")[0] == "torch":
        from ostraka.learn.ops import TORCH

        tensor = TORCH.rows(updates)
        rows = np.asarray(TORCH.wide(tensor).detach().cpu().numpy(), np.float64)
        return rows, tensor.new_tensor
    from ostraka.algebra.ops import NUMPY

    array = NUMPY.rows(updates)
    return array.astype(np.float64), lambda vector: vector.astype(array.dtype)
