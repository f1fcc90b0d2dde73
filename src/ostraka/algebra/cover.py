"""Vertex cover of bounded size: does a graph have k vertices that touch every edge?

A bounded search tree (Downey and Fellows; Buss' rule for vertices of degree above k) on bitmasks
held in Python integers. Exponential in k in the worst case; two lower bounds, edges against degree
and a greedy clique cover, keep the tree small on the threshold graphs of distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


def members(mask: int) -> Iterator[int]:
    """Give the vertices of a bitmask, lowest first."""
    while mask:
        bit = mask & -mask
        yield bit.bit_length() - 1
        mask ^= bit


@dataclass(slots=True)
class CoverSearch:
    """A graph as neighbour bitmasks, and the work spent on it so far in search tree nodes."""

    neighbours: Sequence[int]
    nodes: int = 0

    def exists(self, alive: int, budget: int) -> bool:
        """Whether the subgraph on `alive` has a vertex cover of at most `budget` vertices."""
        pending = [(alive, budget)]
        while pending:
            self.nodes += 1
            alive, budget = self._reduce(*pending.pop())
            if budget < 0:
                continue
            if not alive:
                return True
            degrees = {v: (self.neighbours[v] & alive).bit_count() for v in members(alive)}
            top = max(degrees, key=degrees.__getitem__)
            if sum(degrees.values()) > 2 * budget * degrees[top]:
                continue
            if degrees[top] == 2:
                if self._cycles(alive) <= budget:
                    return True
                continue
            if self._bound(degrees) > budget:
                continue
            rest = alive & ~(1 << top)
            pending.append((rest & ~self.neighbours[top], budget - degrees[top]))
            pending.append((rest, budget - 1))
        return False

    def _reduce(self, alive: int, budget: int) -> tuple[int, int]:
        """Take what some smallest cover must contain; a budget below 0 says that there is none."""
        changed = True
        while changed and budget >= 0:
            changed = False
            for v in members(alive):
                if not alive >> v & 1:
                    continue
                near = self.neighbours[v] & alive
                degree = near.bit_count()
                if degree > budget and degree > 0:
                    alive, budget, changed = alive & ~(1 << v), budget - 1, True
                elif degree <= 1 or (degree == 2 and self._adjacent(near)):
                    alive, budget = alive & ~(near | 1 << v), budget - degree
                    changed = changed or degree > 0
                if budget < 0:
                    break
        return alive, budget

    def _adjacent(self, pair: int) -> bool:
        return bool(self.neighbours[pair.bit_length() - 1] & pair)

    def _cycles(self, alive: int) -> int:
        """Smallest cover of a graph whose vertices all have degree 2: disjoint cycles."""
        total = 0
        while alive:
            reached = alive & -alive
            edge = reached
            while edge:
                near = 0
                for v in members(edge):
                    near |= self.neighbours[v]
                edge = near & alive & ~reached
                reached |= edge
            total += (reached.bit_count() + 1) // 2
            alive &= ~reached
        return total

    def _bound(self, degrees: dict[int, int]) -> int:
        """Lower bound on a cover: all but one vertex of each clique of a greedy clique cover."""
        cliques: list[int] = []
        for v in sorted(degrees, key=degrees.__getitem__):
            near, bit = self.neighbours[v], 1 << v
            for at, clique in enumerate(cliques):
                if clique & ~near == 0:
                    cliques[at] = clique | bit
                    break
            else:
                cliques.append(bit)
        return len(degrees) - len(cliques)
