"""Figures and foreign text read as people expect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorlake.reporting.markup import Html, join, table, tag
from factorlake.reporting.text import count, figure, plural, printable, seconds, share


@given(st.text(alphabet=st.characters(), max_size=400))
def test_printable_text_is_one_short_line_that_encodes(text: str) -> None:
    shown = printable(text, 50)
    shown.encode("utf-8")
    assert 0 < len(shown) <= 50
    assert len(shown.splitlines()) == 1
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", ["Ça va", "日本語", "👩\u200d👧", "naïve – “x”", "می\u200cخواهم"])
def test_ordinary_names_of_any_script_stay_as_they_are(name: str) -> None:
    assert printable(name) == name


def test_figures_read_as_people_expect() -> None:
    assert count(541909) == "541,909"
    assert count(None) == "–"
    assert [figure(value) for value in (0.33124, None, float("nan"), 40400.0, 1.2e9)] == [
        "0.3312",
        "–",
        "not finite",
        "40,400.0",
        "1.20000e+09",
    ]
    assert [seconds(length) for length in (0.42, 12.34, 245, 7380)] == [
        "0.42 s",
        "12.3 s",
        "4 min 05 s",
        "2 h 03 min",
    ]
    assert [plural(1, "record"), plural(2, "record")] == ["1 record", "2 records"]


def test_share_never_rounds_some_to_none_or_most_to_all() -> None:
    assert [share(1, 1_000_000), share(999_999, 1_000_000)] == ["< 0.1 %", "> 99.9 %"]
    assert [share(0, 10), share(10, 10), share(0, 0)] == ["0.0 %", "100.0 %", "–"]


def test_tag_escapes_all_but_markup() -> None:
    assert tag("p", "a<b", Html("<br>"), title='"x"', class_="n") == '<p title="&quot;x&quot;" class="n">a&lt;b<br></p>'
    assert join(["<", None, Html("<")]) == "&lt;<"


def test_table_says_how_many_rows_it_leaves_out() -> None:
    assert "and 7 more" in table("c", ("a",), [("x",)] * 10, limit=3)
    assert table("c", ("a",), []) == ""
