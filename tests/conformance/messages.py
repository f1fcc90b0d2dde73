"""What the parties of these tests say to one another, and who they are."""

from dataclasses import dataclass
from typing import Annotated

from ostraka.net import Net
from ostraka.wire import Array, Index, Message, Tensor


@dataclass(frozen=True)
class Word(Message):
    value: Index


@dataclass(frozen=True)
class Block(Message):
    data: Annotated[Array, Tensor("float32", ("d",))]


WORD = Word.form()
SMALL = Block.form(d=4)
EXPECTS = {"Word": WORD.max_bytes, "Block": Block.form(d=2_000_000).max_bytes}
TRIO = ("a", "b", "c")


def others(net: Net) -> tuple[str, ...]:
    return tuple(name for name in TRIO if name != net.me)
