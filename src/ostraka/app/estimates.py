"""What each trust model promises, costs and takes, by a federation file; for `ostraka explain`."""

from __future__ import annotations

import math
from dataclasses import replace

from ostraka.app.build import TWO_SERVER, Recipe, rule_of
from ostraka.app.config import Config, Faults
from ostraka.app.errors import UserError
from ostraka.app.secure import CLIP, Secure
from ostraka.drivers.trace import Record
from ostraka.learn.settings import Training
from ostraka.protocols.compare import triples_needed
from ostraka.protocols.wrap_check import LEAST_PROJECTIONS, wrap_triples
from ostraka.rules.mean import Mean
from ostraka.trust import trusted, two_server
from ostraka.trust.api import Terms

LINK_BITS_PER_S = 100e6
FLOPS = 1e10
RING_PRODUCTS_PER_S = 5e9
"""Products of 64-bit words, added up, on one core (measured: benchmarks/ring_kernels.py)."""
ROUND_TRIPS, ROUND_TRIP_S = 20, 0.05


def terms_of(config: Config, recipe: Recipe | None, d: int | None, rule: Record) -> Terms:
    """Promise and cost. Without a recipe (the federation is refused) those of one that would hold.

    UserError for a model of that size (d) on which the promise cannot hold.
    """
    if config.federation.trust != TWO_SERVER:
        return trusted.terms(config.n, min(config.f, rule.get("largest_f", config.f)), d)
    plan = _sketch(config, recipe, d)
    return two_server.terms(replace(plan, f=max(0, min(plan.f, rule.get("largest_f", plan.f)))), d)


def _sketch(config: Config, recipe: Recipe | None, d: int | None) -> two_server.Plan:
    if recipe is not None and recipe.secure is not None:
        return recipe.secure.sketch(config, recipe, d or 1)
    # Refused: the nearest that is not, so that roles and costs can be told all the same.
    contributors = min(config.two_server.min_contributors, config.n)
    f = min(config.f, (config.n - contributors) // 2)
    sound = config.model_copy(update={"faults": Faults(byzantine=f)})
    plain = Recipe(Mean(), (), None, Training(rounds=config.federation.rounds), None, ())
    near = Secure(CLIP, 0.0, None, contributors, f + contributors).sketch(sound, plain, d or 1)
    try:
        rule, pre = rule_of(config)
        return replace(near, rule=two_server.gram_rule(rule), pre=pre)  # what it would be shown
    except (UserError, ValueError):
        return near


def seconds_of(config: Config, terms: Terms, d: int) -> Record:
    """Rough times of one round: one link of 100 Mbit/s for the party that sends and takes most."""
    if config.federation.trust != TWO_SERVER:
        sent = 2 * config.n * 4 * d
        return {
            "network": sent * 8 / LINK_BITS_PER_S,
            "rule": 2.0 * config.n * config.n * d / FLOPS,
            "assumes": "both directions over one server link of 100 Mbit/s; a rule that compares "
            "all pairs at 10 Gflop/s; training comes on top",
        }
    n = config.n
    through = n * 8 * d + terms.cost["server-1"].bytes_sent  # shares in, masked vectors out
    return {
        "network": through * 8 / LINK_BITS_PER_S + ROUND_TRIPS * ROUND_TRIP_S,
        "rule": (1.5 * n * n + LEAST_PROJECTIONS * n) * d / RING_PRODUCTS_PER_S,
        "assumes": f"server 1's link, the busiest, at 100 Mbit/s, and {ROUND_TRIPS} round trips of "
        f"{1000 * ROUND_TRIP_S:.0f} ms; server 0's products of all pairs and projections at 5 G "
        "products a second on one core; training comes on top",
    }


def secure_facts(recipe: Recipe, config: Config, d: int | None) -> Record | None:
    """The numbers of two-server for this file; None for other trust models."""
    if recipe.secure is None:
        return None
    plan = recipe.secure.sketch(config, recipe, d or 1)
    fixed, n = plan.fixed, plan.n
    known = d is not None
    return {
        "clip": recipe.secure.clip,
        "sigma": recipe.secure.sigma,
        "bound": fixed.bound if known else None,
        "frac_bits": fixed.frac_bits if known else None,
        "projections": plan.projections,
        "min_cohort": plan.min_cohort,
        "min_contributors": plan.min_contributors,
        "opened": list(plan.image.labels),
        "between_servers": {
            "formula": "8 n d (masked vectors, one way) + 16 A each way (A = "
            f"{wrap_triples(n, plan.projections) + triples_needed(n, 2):,} AND gates)",
            "bytes_per_round": 8 * n * d if d is not None else None,
        },
        "leaks": leaks(plan, recipe.secure.sigma),
    }


def leaks(plan: two_server.Plan, sigma: float) -> list[str]:
    """What a curious operator may work out, beyond one round; whole sentences."""
    image = plan.image
    found = [
        "server 0: the weights, with changes of who takes part, tell of single workers over many "
        "rounds"
        if image.labels
        else "server 0: changes of who takes part tell of single workers over many rounds, because "
        "it knows the sums"
    ]
    if image.distances:
        found.append(
            f"server 1: distances tell how alike workers' data are; {plan.f} colluding workers "
            f"and server 1 together read {max(0, plan.f - 1)} chosen numbers of every honest "
            "update in every round"
        )
    if image.norms:
        found.append("server 1: norms tell how hard each worker's examples are for the model")
    if image.products:
        found.append("server 1: products tell how far each update agrees with the last aggregate")
    cure = "there is none here" if sigma == 0.0 else "here it has sigma = " + f"{sigma:.3g}"
    return [*found, f"noise ([privacy]) is the cure: {cure}"]


def secure_lines(secure: Record | None) -> list[str]:
    """The same for people; nothing for other trust models."""
    if secure is None:
        return []
    opened = " and ".join(secure["opened"])
    what = f"{opened} of the updates" if opened else "nothing of single updates"
    return [
        "Operators",
        "  three independent ones are needed: server-0, server-1 and dealer; any two of them "
        "together see every update",
        f"  opened to server 1 for this rule: {what}",
        *(f"  {text}" for text in secure["leaks"]),
        "",
        "Numbers",
        *_number_lines(secure),
        "",
    ]


def _number_lines(secure: Record) -> list[str]:
    bound = secure["bound"]
    length = "depends on the model's size" if bound is None else f"{bound:.6g}"
    grid = "" if bound is None else f", on a grid of 2^-{secure['frac_bits']}"
    noise = "no noise" if secure["sigma"] == 0.0 else f"noise of {secure['sigma']:.4g} a coordinate"
    chance = math.log10(2.0) * secure["projections"]
    size = secure["between_servers"]
    return [
        f"  an update is cut to {secure['clip']:g} (clip), {noise}; longest that is taken: "
        f"{length} (bound){grid}",
        f"  {secure['projections']} random projections find one that wraps around, but for one "
        f"chance in 10^{chance:.0f}",
        f"  a round opens something only with {secure['min_cohort']} workers (min_cohort), and no "
        f"sum in which fewer than {secure['min_contributors']} cover for each (min_contributors)",
        f"  from server 1 to server 0: {size['formula']} bytes",
    ]
