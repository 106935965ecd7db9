"""Text from strangers gives a cascade or a CascadeError, never another exception."""

from __future__ import annotations

import warnings

import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from einsum_cascade import CascadeError, parse, render

SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def survives(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            cascade = parse(text)
        except CascadeError as error:
            assert str(error)
            assert error.at is None or (error.at[0] >= 1 and error.at[1] >= 1)
            return
        assert parse(render(cascade)) == cascade


@SETTINGS
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_characters(text: str) -> None:
    survives(text)
    survives("cascade c\nrank I\ninput A[I]\noutput O[I]\nO[i] = " + text)


@SETTINGS
@given(strategies.token_soup())
def test_words_of_the_language_in_any_order(text: str) -> None:
    survives(text)


@SETTINGS
@given(strategies.damaged())
def test_legal_cascades_with_damage(text: str) -> None:
    survives(text)
