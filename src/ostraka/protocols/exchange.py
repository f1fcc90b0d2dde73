"""The smallest exchange: both of two parties send a message of one type and take the other's."""

from __future__ import annotations

from typing import TypeVar

from ostraka.net import Net
from ostraka.wire import Form, Message

M = TypeVar("M", bound=Message)


async def swap(net: Net, peer: str, message: Message, form: Form[M], timeout_s: float) -> M:
    """Send and receive in this label. Raises Timeout and Abort as ``Net.recv`` does."""
    net.send(peer, message)
    return await net.recv(form, peer, timeout_s=timeout_s)
