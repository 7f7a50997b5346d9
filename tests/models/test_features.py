"""Columns of features: a worked example, ranges and their ends, what is not known, and the way there and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from factorlake.errors import ConfigError
from factorlake.models.features import MOST_COLUMNS, Vocabulary, values_of
from factorlake.texts import number_of

FILMS = Vocabulary(("genre", "year"), (("comedy", "drama", "film noir"), ()), ((), (1960.0, 1990.0)))


def test_columns_and_rows_by_hand() -> None:
    assert FILMS.columns() == [
        "(all)", "genre=comedy", "genre=drama", "genre=film noir",
        "year -inf to 1960", "year 1960 to 1990", "year 1990 to inf",
    ]  # fmt: skip
    assert FILMS.n_columns == 7
    rows = FILMS.rows(
        [
            ["comedy|drama", "1959"],
            [" film noir\u3000| unknown", "\ufeff1960\t"],
            ["drama|drama", "1989.5"],
            [None, "1990"],
            ["", "1_970"],
            ["Comedy", None],
        ]
    )
    assert rows.dtype == np.float32
    assert rows.tolist() == [
        [1, 1, 1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0, 1, 0],
        [1, 0, 1, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],
    ]
    assert FILMS.rows([]).shape == (0, 7)
    assert FILMS.kinds() == {"genre": "category (values: 3)", "year": "number (ranges: 3)"}


def test_a_vocabulary_comes_back_from_its_json() -> None:
    assert Vocabulary.from_json(json.dumps(FILMS.to_json())) == FILMS


@pytest.mark.parametrize(
    ("text", "separator", "values"),
    [
        ("a|b", "|", ["a", "b"]),
        (" a || b|", "|", ["a", "b"]),
        ("a|b", "", ["a|b"]),
        (" ", "|", []),
        ("a; b", ";", ["a", "b"]),
    ],
)
def test_texts_are_parted(text: str, separator: str, values: list[str]) -> None:
    assert values_of(text, separator) == values


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("1.5", 1.5), ("-2e3", -2000.0), ("+.5", 0.5), ("7.", 7.0), ("007", 7.0)),
        *((text, None) for text in ("nan", "inf", "-Infinity", "1e999", "", ".", "1e", "1 000", "1,5")),
        # What Spark alone or Python alone takes for a number.
        *((text, None) for text in ("1d", "2.5F", "0x1p3", "1_000", "\u0663\u0664", "\uff11")),
    ],
)
def test_only_finite_decimal_numbers_are_numbers(text: str, number: float | None) -> None:
    assert number_of(text) == number


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_values"):
        Vocabulary(("tag",), (tuple(str(n) for n in range(MOST_COLUMNS)),), ((),))
    with pytest.raises(ConfigError, match="values and edges"):
        Vocabulary(("tag",), (), ())
