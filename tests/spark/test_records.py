"""Bytes to records: hostile classes one by one, and round trips of generated rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import uuid
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlake.spark import records
from factorlake.spark.records import FileFormat, UnreadableFileError, columns_of, parse, records_of, unpack

CSV, JSON, PARQUET = FileFormat("csv"), FileFormat("json"), FileFormat("parquet")
HEAD = b"user,item,note\n"


def defects(content: bytes, form: FileFormat) -> list[str | None]:
    return [record.defect for record in parse(content, form)]


def fields(content: bytes, form: FileFormat) -> list[dict[str, str | None] | None]:
    return [record.fields for record in parse(content, form)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"1,2\n", ["wrong_number_of_fields"]),
        (b"1,2,3,4\n", ["wrong_number_of_fields"]),
        (b'"1,2,3\n4,5,6\n', ["bad_quoting", None]),
        (b'"1"x,2,3\n4,5,6\n', ["bad_quoting", None]),
        (b'1,2,"a\nb"\n', [None]),
        (b'1,2,"a\nb",9\n4,5,6\n', ["bad_quoting", "wrong_number_of_fields", None]),
        (b'1,2,5" nail\n', [None]),
        (b"1,2,a\x00b\n", [None]),
        (b"1,2,caf\xe9\n4,5,6\n", ["wrong_encoding", None]),
        (b"1,2,3\r\n\r\n4,5,6\r\n", [None, None]),
        (b"1,2,3\n   \n4,5,6", [None, None]),
        (b"1,2," + b"x" * 10_000_000 + b"\n", [None]),
        (b'1,2,"' + b"x" * 10_000_000 + b'"\n', [None]),
        (b'"' * 1001 + b"\n1,2,3\n", ["bad_quoting", None]),
        ("1,\u202e2,\U0001f600\n".encode(), [None]),
        (b"", []),
    ],
)
def test_hostile_csv_is_kept_record_by_record(content: bytes, expected: list[str | None]) -> None:
    assert defects(HEAD + content, CSV) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1', ["broken_json"]),
        (b'{"a": 1} x', ["broken_json"]),
        (b"[1, 2]", ["not_an_object"]),
        (b"null\n5\n", ["not_an_object", "not_an_object"]),
        (b'[{"a": 1},\n{"a": 2}]', ["broken_json", "broken_json"]),
        (b'{"a": 1, "a": 2}', ["duplicate_key"]),
        (b'{"a": "\\ud800"}', ["wrong_encoding"]),
        (b'{"a": "caf\xe9"}\n{"a": 1}', ["wrong_encoding", None]),
        (b"[" * 100_000, ["broken_json"]),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, [None]),
        (b'{"__proto__": {"x": 1}}', [None]),
        (b"{}\n\n{}\r\n", [None, None]),
        (b'{"a": "\x00"}', ["broken_json"]),
        (b"\xef\xbb\xbf{}", [None]),
    ],
)
def test_hostile_json_is_kept_record_by_record(content: bytes, expected: list[str | None]) -> None:
    found = defects(content, JSON)
    # How deep is too deep is Python's to say; that it neither crashes nor loses the record is ours.
    assert found == expected or (b'{"a":' * 1000 in content and found == ["broken_json"])


@pytest.mark.parametrize("text", ["17850.0", "1e309", "-0.0", "9223372036854775808", "1" * 5000, "NaN"])
def test_numbers_keep_the_text_they_had(text: str) -> None:
    assert fields(b'{"v": ' + text.encode() + b"}", JSON) == [{"v": text}]


def test_nested_values_keep_the_json_text_they_had() -> None:
    line = b'{"a": [1, 2.50, {"x":1}], "b" : {"c":  []} , "d":true, "e":null, "f":"t"}'
    assert fields(line, JSON) == [{"a": '[1, 2.50, {"x":1}]', "b": '{"c":  []}', "d": "true", "e": None, "f": "t"}]


def test_a_null_field_is_as_none() -> None:
    (bare,), (null,), (empty,) = (
        [record.event_id for record in parse(line, JSON)]
        for line in (b'{"a": "1"}', b'{"b": null, "a": "1", "c": null}', b'{"a": "1", "b": ""}')
    )
    assert bare == null != empty


def test_quoted_line_end_stays_within_one_record() -> None:
    (record,) = parse(HEAD + b'1,2,"a\nb"\n', CSV)
    assert record.fields == {"user": "1", "item": "2", "note": "a\nb"}
    assert record.raw == '1,2,"a\nb"'


def test_repeated_and_empty_header_names_stay_apart() -> None:
    assert columns_of(b"a,a,\n", CSV) == ["a", "a_2", "column_3"]


def test_header_and_empty_files_have_no_records() -> None:
    assert list(parse(HEAD, CSV)) == []
    assert list(parse(b"", CSV)) == []
    assert columns_of(b"", CSV) is None


def test_header_survives_a_cut_in_the_middle_of_a_character() -> None:
    # The header is looked for in the first 64 KiB; the cut falls inside a two-byte letter.
    content = HEAD + b"1,2," + "é".encode() * 40_000 + b"\n"
    assert columns_of(content, CSV) == ["user", "item", "note"]


def test_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert columns_of(b"\xef\xbb\xbfuser,item\n", CSV) == ["user", "item"]


def test_utf_16_that_breaks_off_is_marked_and_kept() -> None:
    content = "u,i\n1,2\n".encode("utf-16") + b"x"
    assert defects(content, FileFormat("csv", encoding="utf-16"))[-1] is not None


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"plain text", lambda b: b + b"tail", lambda b: b[:5]])
def test_damaged_gzip_is_an_unreadable_file(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(UnreadableFileError, match="gzip"):
        unpack(damage(gzip.compress(HEAD * 100)), packed=True)


def test_gzip_of_several_members_is_read_whole() -> None:
    assert unpack(gzip.compress(b"a\n") + gzip.compress(b"b\n"), packed=True) == b"a\nb\n"


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_parquet_values_become_the_shortest_text_that_reads_back() -> None:
    table = pa.table(
        {
            "i": [2**63 - 1, None],
            "f": [17850.0, float("nan")],
            "g": pa.array([0.1, None], pa.float32()),
            "t": pa.array([0, None], pa.timestamp("us", "UTC")),
            "n": pa.array([0, None], pa.timestamp("ns")),
            "l": [[1], None],
        }
    )
    first, second = parse(parquet(table), PARQUET)
    assert first.fields is not None and second.fields is not None
    assert first.fields == {
        "i": "9223372036854775807",
        "f": "17850.0",
        "g": "0.1",
        "t": "1970-01-01 00:00:00.000000Z",
        "n": "1970-01-01 00:00:00.000000000",
        "l": "[1]",
    }
    assert second.fields["f"] == "nan" and second.fields["i"] is None


@pytest.mark.parametrize("cut", [3, 20, 200])
def test_cut_parquet_is_an_unreadable_file(cut: int) -> None:
    with pytest.raises(UnreadableFileError, match="Parquet"):
        list(parse(parquet(pa.table({"a": ["x"] * 100}))[:-cut], PARQUET))


def test_copies_in_different_formats_share_their_id() -> None:
    (from_csv,) = parse(b"b,a\n2,1\n", CSV)
    (from_json,) = parse(b'{"a": "1", "b": 2}', JSON)
    assert from_csv.event_id == from_json.event_id


def test_broken_record_never_shares_the_id_of_a_whole_one() -> None:
    (whole,) = parse(b'{"a": "1"}', JSON)
    # The very text that a whole record's id is the hash of.
    assert records.text_id('[["a","1"]]') != whole.event_id


def test_records_that_differ_in_undecodable_bytes_have_different_ids() -> None:
    first, second = parse(HEAD + b"1,2,\xe9\n1,2,\xe8\n", CSV)
    assert first.raw == second.raw
    assert first.event_id != second.event_id


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
rows = st.lists(st.lists(cells, min_size=3, max_size=3), max_size=12)


@settings(max_examples=300, deadline=None)
@given(rows, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_printed_csv_rows_come_back(table: list[list[str]], line_end: str, quote_all: bool) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=line_end, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    writer.writerows([["user", "item", "note"], *table])
    assert fields(buffer.getvalue().encode(), CSV) == [
        dict(zip(("user", "item", "note"), row, strict=True)) for row in table
    ]


values = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5), st.none() | st.booleans() | cells | st.integers()
)


@settings(max_examples=300, deadline=None)
@given(st.lists(values, max_size=8), st.booleans())
def test_printed_json_lines_come_back(objects: list[dict], ascii_only: bool) -> None:
    content = "\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in objects).encode()
    wanted = [
        {name: value if value is None or isinstance(value, str) else json.dumps(value) for name, value in item.items()}
        for item in objects
    ]
    assert fields(content, JSON) == wanted


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([CSV, JSON, FileFormat("csv", delimiter="\t"), FileFormat("json", encoding="latin-1")]),
)
def test_no_bytes_crash_the_parser_and_every_record_is_whole_or_has_a_defect(content: bytes, form: FileFormat) -> None:
    found = list(parse(HEAD + content if form.kind == "csv" else content, form))
    assert [record.position for record in found] == list(range(len(found)))
    for record in found:
        assert (record.fields is not None) or record.defect is not None
        assert len(record.event_id) == 32
        record.raw.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"1,2,3", b"4,5", b"6,7,8,9", b'a,"b,c', b"", b" ", b'"q,1",2,3']), max_size=30))
def test_every_line_that_is_not_blank_is_in_exactly_one_record(lines: list[bytes]) -> None:
    found = list(parse(HEAD + b"\n".join(lines), CSV))
    told = [line for record in found for line in record.raw.encode().split(b"\n") if line.strip()]
    assert told == [line for line in lines if line.strip()]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.binary(4), pa.binary_view(), pa.string_view(), "dictionary"],
)
def test_text_of_parquet_that_is_no_utf8_is_broken_and_no_two_values_become_one(kind: pa.DataType | str) -> None:
    values = pa.array([b"caf\xe9", b"caf\xe8", b"cafe", b"caf\xe9"])
    if kind == "dictionary":
        column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3]), values)
    elif kind in (pa.string(), pa.large_string()):
        column = values.view(pa.string()) if kind == pa.string() else values.cast(pa.large_binary()).view(kind)
    elif kind == pa.string_view():
        column = pa.array(values.to_pylist(), pa.binary_view()).view(pa.string_view())
    else:
        column = pa.array(values.to_pylist(), kind)
    batch = pa.record_batch({"name": column, "n": pa.array([1, 1, 1, 1])})
    first, second, whole, again = records_of(batch, range(4))
    wrong = "wrong_encoding"
    assert [record.defect for record in (first, second, whole, again)] == [wrong, wrong, None, wrong]
    assert len({first.event_id, second.event_id, whole.event_id}) == 3
    assert again.event_id == first.event_id
    assert (first.fields, whole.fields) == ({"name": "caf\ufffd", "n": "1"}, {"name": "cafe", "n": "1"})


def test_parquet_values_that_no_text_holds_as_they_are_become_text_all_the_same() -> None:
    one = uuid.UUID("12345678-1234-5678-1234-567812345678")
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes, None], pa.binary(16)))
    latin = pa.array([b"caf\xe9", b"tea"]).cast(pa.binary()).view(pa.string())
    year_10000 = pa.array([253_402_300_800], pa.timestamp("s"))
    far = pa.ListArray.from_arrays(pa.array([0, 1, 1], pa.int32()), year_10000)
    table = pa.table({"id": ids, "name": latin, "times": far})
    rows = [record.fields for record in parse(parquet(table), PARQUET)]
    assert [(row["id"], row["name"]) for row in rows if row] == [(str(one), "caf\ufffd"), (None, "tea")]
    assert [row["times"] is not None and row["times"].startswith("[") for row in rows if row] == [True, True]
