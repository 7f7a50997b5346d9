"""Pseudonyms of single records, beside HMAC written out (RFC 2104)."""

from __future__ import annotations

import hashlib

import pytest

from factorlake.spark.pseudonyms import Pseudonyms, pseudonym
from factorlake.spark.records import FileFormat, Record, parse

KEY = "a key of sixteen or more"
HIDE = Pseudonyms(KEY, ("user", "user_2"))
JSON, CSV = FileFormat("json"), FileFormat("csv")


def hmac_sha256(key: bytes, message: bytes) -> str:
    """The definition: H((K ⊕ opad) ‖ H((K ⊕ ipad) ‖ message)), K filled with zeros to a block of 64 bytes."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).hexdigest()


def hidden(content: str, form: FileFormat, how: Pseudonyms = HIDE) -> list[Record]:
    return [how.hide(record) for record in parse(content.encode(), form)]


@pytest.mark.parametrize("key", [KEY, "k" * 64, "ключ" * 40])
@pytest.mark.parametrize("user", ["u1", "żółw", "x" * 300])
def test_a_pseudonym_is_half_of_the_hmac(key: str, user: str) -> None:
    assert pseudonym(key, user) == hmac_sha256(key.encode(), user.encode())[:32]


def test_the_columns_of_users_are_replaced_and_the_text_is_made_of_the_fields() -> None:
    (record,) = hidden('{"user": "u1", "item": "u1", "user_2": null}', JSON)
    told = hmac_sha256(KEY.encode(), b"u1")[:32]
    assert record.fields == {"user": told, "item": "u1", "user_2": None}
    assert record.raw == f'{{"user":"{told}","item":"u1","user_2":null}}'


def test_a_record_has_the_same_id_from_every_format_and_another_under_another_key() -> None:
    (of_csv,), (of_json,) = hidden("user,item\nu1,i1\n", CSV), hidden('{"item": "i1", "user": "u1"}', JSON)
    (other,) = hidden("user,item\nu1,i1\n", CSV, Pseudonyms("another key than that", ("user",)))
    assert of_csv.event_id == of_json.event_id != other.event_id


@pytest.mark.parametrize(
    ("text", "same_as", "trim", "integral"),
    [
        (" u1\t", "u1", True, False),
        (" u1\t", " u1\t", False, False),
        ("17850.0", "17850", True, True),
        ("17850.0", "17850.0", True, False),
        ("-3.00", "-3", True, True),
        ("1.5", "1.5", True, True),
    ],
)
def test_texts_that_are_one_id_have_one_pseudonym(text: str, same_as: str, trim: bool, integral: bool) -> None:
    assert Pseudonyms(KEY, (), trim, integral).of(text) == pseudonym(KEY, same_as)


@pytest.mark.parametrize("text", ["", "  ", "\ufeff\u00a0"])
def test_what_is_no_id_stays_for_the_rules(text: str) -> None:
    assert HIDE.of(text) is None
    assert HIDE.hide(Record(0, text, {"user": text}, None, "")).fields == {"user": text}


def test_nan_is_no_id_where_ids_came_through_floats() -> None:
    assert Pseudonyms(KEY, (), integral_floats=True).of(" NaN ") is None
    assert HIDE.of("NaN") == pseudonym(KEY, "NaN")


@pytest.mark.parametrize("torn", ['{"user": "canary", "item": ', '["canary"]', '{"user": "canary", "user": "u2"}'])
def test_nothing_stays_of_a_text_without_fields_but_its_length(torn: str) -> None:
    plain = next(iter(parse(torn.encode(), JSON)))
    (record,) = hidden(torn, JSON)
    assert "canary" not in str(record)
    assert (record.defect, record.position) == (plain.defect, 0)
    assert record.raw.startswith(f"[{len(torn)} characters")
    # Told apart as before, and by nobody without the key.
    assert (
        record.event_id == hidden(torn, JSON)[0].event_id not in (plain.event_id, hidden(torn + " ", JSON)[0].event_id)
    )


def test_of_bytes_that_fit_no_encoding_the_fields_are_kept_and_hidden() -> None:
    (record,) = (HIDE.hide(one) for one in parse(b"user,item\ncanary,\xff\n", CSV))
    assert record.defect == "wrong_encoding"
    assert record.fields == {"user": pseudonym(KEY, "canary"), "item": "\ufffd"}
    assert "canary" not in str(record)


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(HIDE)
    assert KEY not in HIDE.digest
    assert HIDE.digest == Pseudonyms(KEY, ()).digest != Pseudonyms(KEY + "x", ()).digest
