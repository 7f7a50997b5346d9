"""The result of a search as a conf file, to be laid over the one that the search was started with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from factorlake.errors import ConfigError
from factorlake.models.parameters import AlsParameters
from factorlake.paths import has_scheme
from factorlake.pipelines.tune_records import train_settings_of


def conf_text(parameters: AlsParameters, told: Sequence[str]) -> str:
    """Return the conf file of settings; ``told`` are lines of comment above them."""
    train = {**train_settings_of(parameters), "early_stopping": None}
    comments = "".join(f"# {line}\n" for line in told)
    return comments + yaml.safe_dump({"train": train}, sort_keys=False)


def write_conf(path: str, text: str) -> None:
    """Write the file whole or not at all, in a folder that is made where it is not there yet.

    Raises
    ------
    ConfigError : the path is of a store, or cannot be written.
    """
    if has_scheme(path):
        raise ConfigError(f"tune.out {path} is in a store: name a file of this machine")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        part = f"{path}.part"
        Path(part).write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"tune.out {path} cannot be written: {error.strerror}") from error
