"""What `two_server` promises, leaks and costs, and who takes which messages from whom."""

from __future__ import annotations

from collections.abc import Mapping

from ostraka.protocols import compare, gram_sharing, linear_image, opening, turns, upload
from ostraka.protocols.coin import Commitment, Reveal
from ostraka.protocols.last_aggregate import LastAggregate
from ostraka.protocols.public_model import ModelDigest, PublicModel
from ostraka.protocols.wrap_check import wrap_triples
from ostraka.sharing.additive import largest_block
from ostraka.trust.api import Cost, Promise, Terms
from ostraka.trust.two_server.plan import Plan

FAMILIES = ("gram",)
_SMALL = 4096
_OPENED = {
    "distances": "the distances between updates",
    "norms": "the norm of each update",
    "products": "each update's product with the last aggregate",
}


def expects(plan: Plan, me: str, peer: str) -> Mapping[str, int]:
    """The kinds of message that ``me`` takes from ``peer``, and the most bytes of each."""
    d, n = plan.fixed.d, plan.n
    role, other = _role(plan, me), _role(plan, peer)
    gates = compare.Masked.form(count=2 * n * max(2 * plan.projections, 2)).max_bytes
    between_servers = {
        Commitment.kind: _SMALL,
        Reveal.kind: _SMALL,
        compare.Masked.kind: gates,
        compare.Verdict.kind: compare.Verdict.form(rows=n).max_bytes,
    }
    held = {upload.Held.kind: upload.Held.form(n=n).max_bytes}
    active = {upload.Active.kind: upload.Active.form(n=n).max_bytes}
    begin = {turns.Open.kind: _SMALL, turns.Go.kind: _SMALL}
    here = {turns.Boot.kind: _SMALL, turns.Ready.kind: _SMALL}
    part = {turns.Part.kind: _SMALL}
    table: dict[tuple[str, str], dict[str, int]] = {
        ("worker", "server_0"): {PublicModel.kind: PublicModel.form(d=d).max_bytes},
        ("worker", "server_1"): {ModelDigest.kind: _SMALL},
        ("server_0", "worker"): {upload.SeedPart.kind: _SMALL},
        ("dealer", "worker"): {upload.SeedPart.kind: _SMALL},
        ("server_1", "worker"): {upload.SharePart.kind: upload.SharePart.form(d=d).max_bytes},
        ("server_0", "dealer"): {**here, **part},
        ("dealer", "server_0"): {**begin, **part},
        ("dealer", "server_1"): {**part, **active},
        ("server_1", "dealer"): {
            **part,
            **held,
            compare.Correction.kind: compare.Correction.form(
                count=wrap_triples(n, plan.projections)
            ).max_bytes,
            gram_sharing.CrossTerms.kind: gram_sharing.CrossTerms.form(
                count=n * (n + 1) // 2
            ).max_bytes,
        },
        ("server_0", "server_1"): {
            **between_servers,
            **active,
            **here,
            gram_sharing.MaskedBlock.kind: 8 * largest_block(n, d) + _SMALL,
            opening.Weights.kind: opening.Weights.form(n=n).max_bytes,
            opening.Words.kind: opening.Words.form(d=d).max_bytes,
            LastAggregate.kind: LastAggregate.form(d=d).max_bytes,
        },
        ("server_1", "server_0"): {
            **between_servers,
            **held,
            **begin,
            gram_sharing.Taken.kind: _SMALL,
            linear_image.ImageShare.kind: linear_image.ImageShare.form(
                count=plan.image.count(n)
            ).max_bytes,
            opening.Prepared.kind: _SMALL,
            opening.Rounded.kind: opening.Rounded.form(d=d).max_bytes,
        },
    }
    return table.get((role, other), {})


def _role(plan: Plan, name: str) -> str:
    operators = {
        plan.server_0: "server_0",
        plan.server_1: "server_1",
        plan.dealer: "dealer",
    }
    return operators.get(name, "worker")


def terms(plan: Plan, d: int | None) -> Terms:
    """What this trust model promises and costs; d None where the model's size is not known."""
    opened = [_OPENED[label] for label in plan.image.labels]
    n, f = plan.n, plan.f
    promise = Promise(
        trust="two_server",
        may_lie=_may_lie(n, f),
        may_look="Any one of server 0, server 1 and the dealer may keep and study all that it "
        "sees. Three independent operators are needed: any two of them together see every update.",
        sees={
            "server-0": "who takes part, two check bits per worker, every worker's weight in the "
            f"rule's output, and {_sum_text(plan, 'the weighted sum of updates under a dither')}",
            "server-1": f"who takes part, {', '.join(['two check bits per worker', *opened])}, and "
            f"{_sum_text(plan, 'the rounded aggregate')}",
            "dealer": "who takes part",
            "worker": "the model of every round, and with it the aggregate of the round before; "
            + ("which is one worker's update" if _one_row(plan) else "no single update"),
        },
        tolerates={"byzantine workers": f, "byzantine servers": 0, "curious operators": 1},
        not_promised="Anything when an operator does not follow the protocol: a lying server can "
        f"spoil the result, and learn more than what is listed here. {_over_time(plan)} Noise "
        "([privacy]) is the cure.",
    )
    return Terms(promise, costs(n, 0 if d is None else d, plan.projections, plan.image), FAMILIES)


def _over_time(plan: Plan) -> str:
    """What an honest but curious operator may work out from what it sees."""
    told = (
        "Weights and changes of who takes part tell server 0 something over many rounds: least "
        "squares over 40 rounds found one worker's mean gradient with correlation 0.89."
    )
    if plan.image.distances:
        told += (
            " Distances tell server 1 how alike workers' data are: with a few colluding workers, "
            "label histograms (correlation 0.99 at the start, 0.55 to 0.73 late)."
        )
    functions = plan.f if plan.image.norms else plan.f - 1
    if plan.image.distances and functions > 0:
        read = "product" if functions == 1 else "products"
        chosen = "a vector" if functions == 1 else f"{functions} vectors"
        told += (
            f" {plan.f} colluding workers read the {read} of every honest update with {chosen} of "
            "their choice in every round."
        )
    return told


def _one_row(plan: Plan) -> bool:
    """Whether the aggregate is a single worker's update."""
    return plan.rule.publishes_one_row and not plan.pre


def _sum_text(plan: Plan, otherwise: str) -> str:
    if _one_row(plan):
        return f"one worker's update in every round, exactly: {plan.rule.name} opens it"
    return f"{otherwise} (the exact sum where all weights are equal)"


def _may_lie(n: int, f: int) -> str:
    rest = "Servers and dealer follow the protocol."
    if not f:
        return f"Nobody: one worker that lies can bend the model as far as its clip allows. {rest}"
    return (
        f"Up to {f} of {n} workers may send anything, together and knowing everything, also with "
        f"one curious operator. {rest}"
    )


def costs(n: int, d: int, k: int, image: linear_image.Image) -> Mapping[str, Cost]:
    """Bytes that each role sends in one round in which all n workers take part."""
    cross = n * (n + 1) // 2 if image.full else n
    ands = wrap_triples(n, k) + compare.triples_needed(n, 2)
    return {
        "server-0": Cost(
            "4 n d (models) + 16 A (comparisons) + 8 d (aggregate) + 8 image + small",
            n * 4 * d + 16 * ands + 8 * d + 8 * image.count(n) + 34 * n,
        ),
        "server-1": Cost(
            "8 n d (masked vectors to server 0) + 16 A (comparisons) + 8 d (sum) + small",
            8 * n * d + 16 * ands + 8 * d + 44 * n,
        ),
        "dealer": Cost("8 A + 8 cross terms + small", 8 * ands + 8 * cross + 33 * n),
        "worker": Cost("8 d + 416", 8 * d + 416),
    }
