"""Progress while a job works: a live line on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.text import Text

from factorlake.reporting.text import printable, seconds

Progress = Callable[[str], None]
Clock = Callable[[], float]
STAGE = re.compile(r"([a-z][a-z0-9_-]{0,15}): ")
STAGE_WIDTH = 11


@contextmanager
def open_progress(
    quiet: bool = False, stream: TextIO | None = None, clock: Clock = time.monotonic
) -> Iterator[Progress]:
    """Yield ``progress(message)``; a message that starts with ``stage: `` opens that stage.

    Plain streams get one line a message, when it comes: stage, what, seconds since the job began. A terminal
    gets one live line with the message at work, and a line that stays for each message that is done, with its
    own seconds.

    Parameters
    ----------
    quiet : say nothing.
    stream : where to write; default stderr.
    clock : seconds that only rise; tests hand in their own.
    """
    target = sys.stderr if stream is None else stream
    if quiet:
        yield lambda message: None
    elif target.isatty():
        with _live(target, clock) as progress:
            yield progress
    else:
        yield _plain(target, clock)


def _split(message: str, stage: str) -> tuple[str, str]:
    match = STAGE.match(message)
    return (match[1], printable(message[match.end() :])) if match else (stage, printable(message))


def _plain(stream: TextIO, clock: Clock) -> Progress:
    began = clock()
    stage = ""

    def progress(message: str) -> None:
        nonlocal stage
        stage, what = _split(message, stage)
        stream.write(f"{stage:<{STAGE_WIDTH}}{what:<60}  {seconds(clock() - began):>11}\n")
        stream.flush()

    return progress


@contextmanager
def _live(stream: TextIO, clock: Clock) -> Iterator[Progress]:
    # force_terminal: the caller has asked the stream itself, rich would ask the environment.
    console = Console(file=stream, force_terminal=True, highlight=False)
    stage, what, began = "", "", clock()

    def line() -> Text:
        return Text.assemble((f"{stage:<{STAGE_WIDTH}}", "bold"), what)

    def keep(mark: str, style: str) -> None:
        if what:
            console.print(Text.assemble((mark, style), " ", line(), (f"  {seconds(clock() - began)}", "dim")))

    with console.status(Text("starting")) as status:

        def progress(message: str) -> None:
            nonlocal stage, what, began
            keep("✓", "green")
            stage, what = _split(message, stage)
            began = clock()
            status.update(line())

        try:
            yield progress
        except BaseException:
            keep("✗", "red")
            raise
        keep("✓", "green")
