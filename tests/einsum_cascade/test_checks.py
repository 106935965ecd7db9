"""Every rule of a legal cascade, as the message that a reader sees: place, caret, hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from einsum_cascade import CascadeError, parse
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Rank, Signature
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Apply, Num, Var


def mistakes() -> list[tuple[str, str, str]]:
    """Blocks of the golden file: a name, the text, the message; each was read and judged before it was kept."""
    text = Path(__file__).with_name("mistakes.txt").read_text(encoding="utf-8")
    out = []
    for block in text.split("===== ")[1:]:
        name, _, rest = block.partition("\n")
        source, _, message = rest.partition("-----\n")
        out.append((name, source, message.rstrip("\n")))
    return out


@pytest.mark.parametrize(("source", "message"), [m[1:] for m in mistakes()], ids=[m[0] for m in mistakes()])
def test_message(source: str, message: str) -> None:
    with pytest.raises(CascadeError) as caught:
        parse(source, file="mine.cascade")
    assert str(caught.value) == message


def test_there_are_enough_of_them() -> None:
    assert len(mistakes()) >= 45


def test_an_object_that_exists_is_legal() -> None:
    wrong = Einsum(Access("O", (Var("i"),)), Access("A", (Var("j"),)))
    with pytest.raises(CascadeError, match="variable i runs over rank I, which is not declared"):
        Cascade("c", ranks=(Rank("J"),), inputs=(Signature("A", ("J",)),), body=(wrong,))


def test_depth_is_bounded() -> None:
    deep = Num(1)
    with pytest.raises(CascadeError, match="nests more than 100 levels deep"):
        for _ in range(200):
            deep = Apply("neg", (deep,))
