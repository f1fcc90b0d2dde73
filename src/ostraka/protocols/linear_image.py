"""What server 1 is shown: the least linear image of the Gram matrix that the rule needs.

Source: He, Karimireddy and Jaggi 2020, section 3.2, which opens distances; a rule that reads less
is shown less. Parties: two servers. Revealed to server 1, over the surviving rows only: squared
distances among workers, squared norms, products with a public row, any of them or none. One message
from server 0; nothing goes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ostraka.algebra.ring import Ring
from ostraka.net import Net
from ostraka.wire import Array, Message, Tensor


@dataclass(frozen=True)
class ImageShare(Message):
    """Server 0 to server 1: its share of the image."""

    words: Annotated[Array, Tensor("uint64", ("count",))]


@dataclass(frozen=True)
class Image:
    """Which values are opened. Distances and norms together say as much as the Gram matrix."""

    distances: bool
    norms: bool
    products: bool

    @property
    def full(self) -> bool:
        """Whether cross terms of the Gram matrix are needed."""
        return self.distances

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of what is opened."""
        parts = ("distances", self.distances), ("norms", self.norms), ("products", self.products)
        return tuple(name for name, wanted in parts if wanted)

    def count(self, n: int) -> int:
        """Words that are opened of n rows."""
        return n * (n - 1) // 2 * self.distances + n * self.norms + n * self.products

    def of(self, gram: Ring, products: Ring | None, rows: list[int]) -> Ring:
        """The image of a share: uint64 (count,), over these rows; a linear map, the same for both.

        ``gram`` is a share of 2 X X^T (n, n), or of its diagonal (n,) where ``full`` is False, so
        distances and norms come out twice; ``products`` (n,) or None come out once.
        """
        diagonal = (np.diagonal(gram) if gram.ndim == 2 else gram)[rows]
        parts = []
        if self.distances:
            inner = gram[np.ix_(rows, rows)]
            upper = np.triu_indices(len(rows), 1)
            parts.append(diagonal[upper[0]] + diagonal[upper[1]] - np.uint64(2) * inner[upper])
        if self.norms:
            parts.append(diagonal)
        if self.products and products is not None:
            parts.append(products[rows])
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


NOTHING = Image(distances=False, norms=False, products=False)


@dataclass(frozen=True)
class Opened:
    """An opened image as signed integers: squared distances (n, n), squared norms, products."""

    distances: np.ndarray | None
    norms: np.ndarray | None
    products: np.ndarray | None


def send_image(net: Net, server_1: str, share: Ring) -> None:
    """Server 0's side."""
    net.send(server_1, ImageShare(share))


async def open_image(
    net: Net, server_0: str, image: Image, share: Ring, n: int, *, timeout_s: float
) -> Opened:
    """Server 1's side: the values over the n surviving rows."""
    form = ImageShare.form(count=image.count(n))
    theirs = await net.recv(form, server_0, timeout_s=timeout_s)
    return unpack(image, share + theirs.words, n)


def unpack(image: Image, words: Ring, n: int) -> Opened:
    """The parts of an opened image, those that came twice halved; all are below 2^56 in size."""
    values = words.view(np.int64)
    distances = norms = products = None
    if image.distances:
        pairs = n * (n - 1) // 2
        distances = np.zeros((n, n), np.int64)
        distances[np.triu_indices(n, 1)] = values[:pairs] >> 1
        distances += distances.T
        values = values[pairs:]
    if image.norms:
        norms, values = values[:n] >> 1, values[n:]
    if image.products:
        products = values
    return Opened(distances, norms, products)
