"""Cascade to text and LaTeX; what is printed is read back as the same cascade."""

from __future__ import annotations

import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from einsum_cascade import latex, parse, render, zoo
from einsum_cascade.cascade import Cascade
from einsum_cascade.expr import Expr
from einsum_cascade.parser import parse_expression
from einsum_cascade.printer import expression, latex_expression


@settings(max_examples=150, deadline=None)
@given(strategies.expressions() | strategies.predicates())
def test_expressions_are_read_back(node: Expr) -> None:
    assert parse_expression(expression(node)) == node


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategies.cascades())
def test_cascades_are_read_back(cascade: Cascade) -> None:
    text = render(cascade)
    assert parse(text) == cascade
    assert render(parse(text)) == text


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo_is_read_back(name: str) -> None:
    cascade = zoo.load(name)
    assert parse(render(cascade)) == cascade
    text = latex(cascade)
    assert text.count("{") == text.count("}")
    assert text.count("\\\\") == text.count("&=") + text.count(r"\text{for }")


@settings(max_examples=50, deadline=None)
@given(strategies.expressions() | strategies.predicates())
def test_latex_is_balanced(node: Expr) -> None:
    text = latex_expression(node)
    assert text.count("{") == text.count("}")
    assert text.count(r"\left") == text.count(r"\right")


def test_latex() -> None:
    lines = latex(zoo.load("attention_causal")).splitlines()
    assert lines[0] == r"\begin{align*}"
    assert lines[1] == r"\mathit{QK}_{m, p} &= \sum_{e} Q_{e, p} \, K_{e, m} \quad\text{where } m \le p \\"
    assert lines[4] == r"\mathit{SD}_{p} &= \sum_{m} \mathit{SN}_{m, p} \\"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**18 - 1))
def test_whole_numbers_stay_whole(value: int) -> None:
    assert parse_expression(str(value)).value == value
