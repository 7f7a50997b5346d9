"""Progress is lines in a log and one live line on a terminal, and silence when asked."""

from __future__ import annotations

import io
import itertools
import re

import pytest

from factorlake.reporting.progress import open_progress

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_tell_stage_what_and_seconds_since_the_start() -> None:
    stream = io.StringIO()
    ticks = itertools.count(0, 1.5)
    with open_progress(stream=stream, clock=lambda: next(ticks)) as progress:
        progress("ingest: 12 new files")
        progress("24,000 records read")
        progress("train: epoch 1, loss 3.2")
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert lines == [
        ["ingest", "12", "new", "files", "1.50", "s"],
        ["ingest", "24,000", "records", "read", "3.00", "s"],
        ["train", "epoch", "1,", "loss", "3.2", "4.50", "s"],
    ]


def test_each_plain_line_is_written_when_it_is_told() -> None:
    stream = io.StringIO()
    with open_progress(stream=stream) as progress:
        progress("ingest: one")
        assert stream.getvalue().count("\n") == 1


def test_message_without_a_stage_is_no_error() -> None:
    stream = io.StringIO()
    with open_progress(stream=stream) as progress:
        progress("hello: World: again")
        progress("C: not a stage")
    assert "C: not a stage" in stream.getvalue()


def test_terminal_keeps_a_line_for_each_finished_message() -> None:
    stream = Terminal()
    with open_progress(stream=stream) as progress:
        progress("ingest: 12 new files")
        progress("train: epoch 1")
    text = CONTROL.sub("", stream.getvalue())
    assert re.search(r"✓ ingest +12 new files  0\.\d\d s", text)
    assert re.search(r"✓ train +epoch 1  0\.\d\d s", text)


def test_terminal_marks_the_message_that_failed_and_lets_the_error_through() -> None:
    stream = Terminal()
    with pytest.raises(ValueError, match="broken"), open_progress(stream=stream) as progress:
        progress("train: epoch 1")
        raise ValueError("broken")
    assert re.search(r"✗ train +epoch 1", CONTROL.sub("", stream.getvalue()))


def test_quiet_says_nothing() -> None:
    stream = io.StringIO()
    with open_progress(quiet=True, stream=stream) as progress:
        progress("ingest: one")
    assert stream.getvalue() == ""


def test_control_characters_in_a_message_do_not_reach_the_stream() -> None:
    stream = io.StringIO()
    with open_progress(stream=stream) as progress:
        progress("ingest: file \x1b[2J\x07.csv\nnext line")
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1
