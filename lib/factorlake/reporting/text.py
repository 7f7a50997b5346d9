"""Figures and foreign text as people read them."""

from __future__ import annotations

import math
import unicodedata

# Controls, bidirectional overrides, unpaired surrogates and private use: they can rewrite a terminal line or
# turn a page's text round, and are never part of a name one would read.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
JOINERS = {"\u200c", "\u200d"}
MAX_CHARACTERS = 160
ABSENT = "–"


def printable(text: object, limit: int = MAX_CHARACTERS) -> str:
    """Return foreign text on one line, safe for a terminal: unprintable marks become U+FFFD, the end is cut.

    White space of any kind becomes single spaces. Empty text gives "–".
    """
    # Cut before looking at characters, so that a name of megabytes costs nothing.
    words = " ".join(str(text)[: 4 * limit].split())
    kept = "".join(
        "\ufffd" if unicodedata.category(mark) in UNPRINTABLE and mark not in JOINERS else mark for mark in words
    )
    return (kept if len(kept) <= limit else kept[: limit - 1] + "…") or ABSENT


def count(number: int | None) -> str:
    """Return a count with thousands separated: 541,909. None gives "–"."""
    return ABSENT if number is None else f"{number:,}"


def figure(value: float | None, digits: int = 4) -> str:
    """Return a figure with ``digits`` decimals, fewer above 1,000; absent or not finite: said so."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "not finite"
    if abs(value) >= 1e7:
        return f"{value:.5e}"
    if abs(value) >= 1000:
        return f"{value:,.1f}"
    return f"{value:.{digits}f}"


def share(part: float, whole: float) -> str:
    """Return part of whole in per cent, "–" of nothing; what is not all or nothing is never rounded to it."""
    if not whole:
        return ABSENT
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def seconds(length: float) -> str:
    """Return a length of time: 0.42 s, 12.3 s, 4 min 05 s, 2 h 03 min."""
    if not math.isfinite(length):
        return ABSENT
    if length < 9.995:
        return f"{length:.2f} s"
    if length < 99.95:
        return f"{length:.1f} s"
    whole = round(length)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(number: int, noun: str) -> str:
    """Return a count with its noun, which takes a plain s: 1 record, 2 records."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
