"""Who takes part in a federation, by trust model: the workers, and the operators by their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

WORKER, RELAY = "worker", "relay"
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "trusted": ("server",),
    "two-server": ("server-0", "server-1", "dealer"),
}
"""The roles that each trust model needs exactly once, beside workers; the first one leads."""
DEFAULT_PARTIES = 12


@dataclass(frozen=True)
class Cast:
    """The parties of a federation that do its work; relays are not among them.

    ``workers`` in order; ``operators`` maps each role that is not a worker's to the party that has
    it, the leader's role first: the leader's events tell the rounds, and it writes the report.
    """

    workers: tuple[str, ...]
    operators: Mapping[str, str]

    @property
    def leader(self) -> str:
        """The party whose events tell the rounds."""
        return next(iter(self.operators.values()))

    @property
    def everybody(self) -> tuple[str, ...]:
        """All names, operators first."""
        return (*self.operators.values(), *self.workers)

    def role_of(self, name: str) -> str:
        """The role of an operator; everybody else is a worker."""
        return next((role for role, party in self.operators.items() if party == name), WORKER)

    def peers_of(self, name: str) -> tuple[str, ...]:
        """Who has business with this party: all operators, and for an operator the workers too."""
        known = self.operators.values() if name in self.workers else self.everybody
        return tuple(peer for peer in known if peer != name)

    @property
    def meetings(self) -> frozenset[frozenset[str]]:
        """All pairs that have business with each other: workers have none among themselves."""
        among = combinations(self.operators.values(), 2)
        outside = ((worker, name) for worker in self.workers for name in self.operators.values())
        return frozenset(frozenset(pair) for pair in (*among, *outside))


def made_up(trust: str, parties: int | None) -> Cast:
    """The cast of a simulation: operators are called by their roles, workers by numbers."""
    n = DEFAULT_PARTIES if parties is None else parties
    width = len(str(n - 1))
    workers = tuple(f"worker-{i:0{width}d}" for i in range(n))
    return Cast(workers, {role: role for role in _operators(trust)})


def listed(trust: str, parties: Sequence[Any]) -> Cast:
    """The cast that [[party]] tables give; ``wrong_roles`` must have nothing to say of them."""
    workers = tuple(p.name for p in parties if p.role == WORKER)
    found = {p.role: p.name for p in parties}
    return Cast(workers, {role: found.get(role, role) for role in _operators(trust)})


def wrong_roles(trust: str, parties: Sequence[Any]) -> str | None:
    """Why these [[party]] tables (each with name and role) do not make a cast; None if they do.

    Of a trust model that is not known nothing is said here.
    """
    wanted = OPERATORS.get(trust)
    if wanted is None:
        return None
    counts = {role: sum(p.role == role for p in parties) for role in wanted}
    needs = f"trust model {trust} needs exactly one [[party]] with role {_listing(wanted)}"
    off = [f"{count or 'none'} with role {role}" for role, count in counts.items() if count != 1]
    if off:
        return needs if len(wanted) == 1 else f"{needs}; the file has {listed_words(off)}"
    strange = next((p for p in parties if p.role not in (WORKER, RELAY, *wanted)), None)
    if strange is not None:
        return (
            f"{strange.name} has the role {strange.role}, which trust model {trust} does not "
            f"know: its roles are {', '.join((WORKER, *wanted, RELAY))}"
        )
    return None


def doubled(trust: str, parties: Sequence[Any]) -> str | None:
    """Why two of these [[party]] tables (name, role, identity) are one party; None if none are."""
    for one, other in combinations(parties, 2):
        if one.name == other.name:
            roles = "" if one.role == other.role else f", as {one.role} and as {other.role}"
            return f"two parties are named {one.name!r}{roles}; every party needs its own name"
        if one.identity is not None and one.identity == other.identity:
            both = {one.role, other.role} <= set(_operators(trust))
            why = ", and no two operators may be one" if both else ""
            return (
                f"{one.name} ({one.role}) and {other.name} ({other.role}) have the same identity "
                f"{one.identity}; every party needs its own key{why}"
            )
    return None


def _operators(trust: str) -> tuple[str, ...]:
    return OPERATORS.get(trust, OPERATORS["trusted"])


def _listing(roles: Sequence[str]) -> str:
    return listed_words([roles[0], *(f"one with {role}" for role in roles[1:])])


def listed_words(words: Sequence[str]) -> str:
    """Words as a sentence lists them; at least one."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
