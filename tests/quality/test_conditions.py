"""The condition language: what it allows, how it is written out, and what it refuses."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorlake.errors import ConfigError
from factorlake.quality.conditions import anchored, compile_condition, sql_text


@pytest.mark.parametrize(
    ("condition", "sql"),
    [
        ("value > 2", "(`value` > CAST('2' AS DOUBLE))"),
        ("event_type in ('play', 'like')", "((`event_type` = 'play') OR (`event_type` = 'like'))"),
        (
            "length(Description) >= 3",
            "(CAST(length(try_element_at(`fields`, 'Description')) AS DOUBLE) >= CAST('3' AS DOUBLE))",
        ),
        ("not user_id is null", "(NOT (`user_id` IS NULL))"),
        ("event_time < '2030-01-01'", "(`event_time` < try_to_timestamp('2030-01-01'))"),
        ("value / 0 = 1", "(try_divide(`value`, CAST('0' AS DOUBLE)) = CAST('1' AS DOUBLE))"),
        ("StockCode rlike '^[0-9]{5}$'", r"(try_element_at(`fields`, 'StockCode') RLIKE '^[0-9]{5}\\z')"),
    ],
)
def test_condition_is_written_out_anew_as_sql(condition: str, sql: str) -> None:
    assert compile_condition(condition, "rule").sql == sql


def test_raw_text_compared_with_a_number_is_read_without_failing() -> None:
    assert "try_cast(try_element_at(`fields`, 'UnitPrice') AS DOUBLE)" in compile_condition("UnitPrice > 0", "rule").sql


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        ("java_method('java.lang.System', 'exit', 1) = 'x'", "java_method"),
        ("reflect('a', 'b') = 'x'", "reflect"),
        ("value > (select 1)", "1"),
        ("value > 1; drop table x", "; drop"),
        ("value", "number"),
        ("value = 1 -- and more", "'and'"),
        ("user_id like concat('a', '%')", "concat"),
        ("user_id like item_id", "like"),
        ("event_time > value", "comparison of times"),
        ("length(value) > 1", "length"),
        ("value between 1", "and"),
        ("", "the end"),
        ("(" * 200 + "true" + ")" * 200, "nested"),
        ("not " * 200 + "true", "nested"),
        ("-" * 200 + "1 = 1", "nested"),
    ],
)
def test_what_the_language_does_not_know_is_refused_by_name(condition: str, named: str) -> None:
    with pytest.raises(ConfigError, match="rule 'mine'") as caught:
        compile_condition(condition, "mine")
    assert named in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_compiles_or_is_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        compile_condition(text, "rule")


@given(st.text(max_size=30))
def test_text_literal_cannot_leave_its_quotes(text: str) -> None:
    inner = sql_text(text)[1:-1]
    assert re.fullmatch(r"(?:[^'\\]|\\.)*", inner, re.DOTALL)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^a$", r"^a\z"),
        (r"\$5", r"\$5"),
        ("[$]x", "[$]x"),
        (r"a\Z", r"a\z"),
        ("(?m)^a$", "(?m)^a$"),
        ("a$|b$", r"a\z|b\z"),
    ],
)
def test_dollar_means_the_very_end(pattern: str, expected: str) -> None:
    assert anchored(pattern) == expected
