"""What the settings of the log's files are refused for before any file is read."""

from __future__ import annotations

from typing import Any

import pytest

from factorlake.config.settings import IngestSettings
from factorlake.errors import ConfigError
from factorlake.spark.files import list_files


class Asked(Exception):
    """The settings passed: the files are asked for."""


class NoSession:
    """Stands where a session is not reached."""

    def __getattr__(self, name: str) -> Any:
        raise Asked


@pytest.mark.parametrize("encoding", ["rot13", "hex", "idna", "undefined", "klingon"])
def test_an_encoding_that_makes_no_text_of_bytes_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(ConfigError, match=rf"`ingest.encoding` is '{encoding}'"):
        list_files(NoSession(), "log", IngestSettings(encoding=encoding))  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "latin-1", "cp1252", "utf-16", "utf-32", "utf-7", "shift_jis"])
def test_encodings_of_text_pass(encoding: str) -> None:
    with pytest.raises(Asked):
        list_files(NoSession(), "log", IngestSettings(encoding=encoding))  # type: ignore[arg-type]
