"""How a bare socket becomes one that knows its peer: what a transport asks of it, and nothing."""

from __future__ import annotations

import socket
from typing import Protocol


class Refused(Exception):  # noqa: N818
    """A handshake that ended badly: what this side saw in the other."""


class Security(Protocol):
    """Turns a connected non-blocking socket into one that knows its peer, or closes it."""

    async def accept(self, sock: socket.socket) -> tuple[socket.socket, str | None]:
        """The socket to use and the peer's name (None: what HELLO says). Raises Refused."""

    async def dial(self, sock: socket.socket, peer: str) -> socket.socket:
        """The socket to use, if the other end is this peer. Raises Refused."""

    def explain(self, error: Exception | None) -> str | None:
        """Why the other side refused our identity, if that is what this error says."""


class Plain:
    """No security at all: names are believed. For tests and measurements, never for a party."""

    async def accept(self, sock: socket.socket) -> tuple[socket.socket, str | None]:
        """See Security."""
        return sock, None

    async def dial(self, sock: socket.socket, peer: str) -> socket.socket:
        """See Security."""
        return sock

    def explain(self, error: Exception | None) -> str | None:
        """See Security."""
        return None
