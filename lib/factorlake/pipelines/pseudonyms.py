"""Whether a lake holds pseudonyms in the place of user ids, and under which key: all of it, or none of it."""

from __future__ import annotations

from collections.abc import Iterable

from factorlake.errors import ConfigError
from factorlake.pipelines.context import Context
from factorlake.spark.pseudonyms import Pseudonyms
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS

KEY_DIGEST = "factorlake.pseudonyms"
"""Property of raw_events: digest of the key."""


def pseudonyms_of(context: Context, columns: Iterable[str] = ()) -> Pseudonyms | None:
    """Return what replaces ids of users in these raw columns; None where the settings have no key.

    Raises ConfigError where raw_events was made under another key, with one and the settings have none, or without.
    """
    settings = context.settings
    key, path = settings.ingest.pseudonym_key, context.lake.shared("raw_events")
    noted = delta_io.properties(context.spark, path).get(KEY_DIGEST)
    if key is None:
        if noted is not None:
            raise ConfigError(
                f"{path} holds pseudonyms in the place of user ids: set `ingest.pseudonym_key` to the key that "
                "they were made by"
            )
        return None
    found = Pseudonyms(key, tuple(columns), settings.events.trim_ids, settings.events.integral_float_ids)
    if noted not in (None, found.digest):
        raise ConfigError(
            f"`ingest.pseudonym_key` is not the key of {path}: under two keys one user would be two. Set the lake's "
            "key, or another `root`"
        )
    if noted is None and delta_io.exists(context.spark, path) and not delta_io.read(context.spark, path).isEmpty():
        raise ConfigError(
            f"{path} holds user ids as they are: take `ingest.pseudonym_key` away, or ingest the log into another "
            "`root`"
        )
    return found


def note_key(context: Context, pseudonyms: Pseudonyms) -> None:
    """Make raw_events, where it is not there yet, and note the key's digest, before the first record comes in."""
    path = context.lake.shared("raw_events")
    if delta_io.properties(context.spark, path).get(KEY_DIGEST) is None:
        context.note(path, SCHEMAS["raw_events"], {KEY_DIGEST: pseudonyms.digest})
