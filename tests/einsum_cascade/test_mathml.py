"""Mathematics for the browser: well-formed, with brackets where a reader needs them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from einsum_cascade import zoo
from einsum_cascade.mathml import expression_mathml, mathml
from einsum_cascade.parser import parse_expression

# Elements of MathML Core that take a fixed number of parts.
ARITY = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2}


@pytest.mark.parametrize("name", zoo.names())
def test_every_entry_is_well_formed_with_one_row_an_einsum(name: str) -> None:
    cascade = zoo.load(name)
    root = ElementTree.fromstring(mathml(cascade))
    blocks = len([1 for item in cascade.body if hasattr(item, "einsums")])
    statements = len(list(cascade.statements))
    assert len(root.findall(".//mtr")) == statements + blocks
    for element in root.iter():
        if element.tag in ARITY:
            assert len(element) == ARITY[element.tag], ElementTree.tostring(element)


def read(text: str) -> str:
    """Return what is shown, without its layout."""
    return re.sub(r"<[^>]*>", "", expression_mathml(parse_expression(text)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("(N + 1) * M", "(N+1)·M"),
        ("N + 1 * M", "N+1·M"),
        ("N - (M - 1)", "N−(M−1)"),
        ("N - M - 1", "N−M−1"),
        ("-(N + M)", "−(N+M)"),
        ("N // 2 % M", "⌊N2⌋modM"),
        ("max(N, 1)", "max(N,1)"),
        ("A[] <= 1 and not (B[] == 2 or 0 < 1)", "A≤1∧¬(B=2∨0<1)".replace("<", "&lt;")),
        ("abs(A[] - 1)", "|A−1|"),
        ("(N - 1)**2", "(N−1)2"),
        ("(N / M)**2", "(NM)2"),
        ("sigmoid(A[p1])", "σ(Ap1)"),
        ("-inf", "−∞"),
    ],
)
def test_brackets(text: str, shown: str) -> None:
    assert read(text) == shown
