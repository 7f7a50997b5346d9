"""Keyed pseudonyms in the place of user ids, before a record is written anywhere. Pure Python, tested without Java."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from factorlake.spark.records import Fields, Record, fields_id, text_of
from factorlake.texts import bare

HEX_DIGITS = 32
_INTEGRAL = re.compile(r"([+-]?\d+)\.0+\Z", re.ASCII)
_NAN = re.compile(r"[+-]?nan\Z", re.IGNORECASE)


def pseudonym(key: str, user_id: str) -> str:
    """Return the first 128 bits, in hex, of HMAC-SHA256 (RFC 2104) of an id under a key, both as UTF-8."""
    return hmac.new(key.encode(), user_id.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:HEX_DIGITS]


@dataclass(frozen=True)
class Pseudonyms:
    """How the ids of users are replaced.

    key : whoever has it can tell whether a pseudonym is that of an id; nobody else can.
    columns : raw columns that hold ids of users.
    trim, integral_floats : what makes two texts one id, as `events.trim_ids` and `events.integral_float_ids`: the
        pseudonyms of one id must be equal, and of what is no id there is none.
    """

    key: str
    columns: tuple[str, ...]
    trim: bool = True
    integral_floats: bool = False

    def __repr__(self) -> str:
        # A frame's plan and a trace back may show it.
        return f"Pseudonyms(columns={self.columns})"

    @property
    def digest(self) -> str:
        """Tells whether two keys are one, and nothing else of them."""
        return pseudonym(self.key, "\0the key itself")

    def of(self, text: str) -> str | None:
        """Return the pseudonym of the id that a text holds; None where it holds none."""
        stripped = bare(text)
        found = stripped if self.trim else text
        if not stripped or (self.integral_floats and _NAN.match(found)):
            return None
        if self.integral_floats and (integral := _INTEGRAL.match(found)):
            found = integral[1]
        return pseudonym(self.key, found)

    def hide(self, record: Record) -> Record:
        """Return the record with pseudonyms in its columns of users, and a text made of its fields. Of one without
        fields nobody knows where in its text an id stands: only its length stays."""
        if record.fields is None:
            told = f"[{len(record.raw)} characters, left out because ids are pseudonyms]"
            return record._replace(raw=told, event_id=self._keyed(record))
        fields: Fields = dict(record.fields)
        for column in self.columns:
            text = fields.get(column)
            if text is not None:
                # What is no id stays, for the rules to tell.
                fields[column] = self.of(text) or text
        event_id = fields_id(fields) if record.defect is None else self._keyed(record)
        return record._replace(raw=text_of(fields), fields=fields, event_id=event_id)

    def _keyed(self, record: Record) -> str:
        """Of broken records the id is a hash of their text: without the key, guesses of it could be tried."""
        return pseudonym(self.key, f"\0{record.event_id}")
