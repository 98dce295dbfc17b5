import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot

from truenorm import files
from truenorm.errors import InvalidInput, InvalidRecord
from truenorm.record import FORMAT, ClassCounts, Measurement, Record, installed_versions, this_machine

finite = st.floats(allow_nan=False, allow_infinity=False)
# What a name can hold: any text, and what Python makes of bytes that are none (surrogates).
names = st.text(st.characters(), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
measurements = st.builds(
    Measurement,
    trial=names,
    arm=names,
    layer=st.none() | names,
    metric=names,
    value=finite,
    error=st.none() | finite,
    n=st.none() | st.integers(0, 2**40),
)
matrices = st.builds(
    ClassCounts,
    trial=names,
    arm=names,
    counts=st.lists(st.lists(st.integers(0, 2**40), max_size=3).map(tuple), max_size=3).map(tuple),
)
records = st.builds(
    Record,
    command=names,
    rows=st.lists(measurements, max_size=4).map(tuple),
    class_counts=st.lists(matrices, max_size=3).map(tuple),
    configuration=st.dictionaries(names, plain, max_size=3),
    trials=st.dictionaries(names, st.dictionaries(names, plain, max_size=2), max_size=3),
    versions=st.dictionaries(names, names, max_size=3),
    machine=st.dictionaries(names, plain, max_size=3),
    notes=st.lists(names, max_size=3).map(tuple),
    complete=st.booleans(),
)


def small(**changes):
    fields = {
        "command": "truenorm study --seeds 1",
        "rows": (
            Measurement("t1", "static-0.1", None, "accuracy", 0.9, None, 359),
            Measurement("t1", "static-0.1", "bn1", "shift.joint", 0.31, 0.02, 1200),
        ),
        "configuration": {"data": "digits"},
        "trials": {"t1": {"seed": 0}},
        "versions": {"torch": "2.13"},
        "machine": {"cores": 2},
        "notes": ("a note",),
    }
    return Record(**fields | changes)


def damaged(**changes):
    """The text of a record with keys replaced, or left out where the value is `...`."""
    data = json.loads(small().dumps()) | changes
    return json.dumps({key: value for key, value in data.items() if value is not ...})


def refused(text):
    with pytest.raises(InvalidRecord) as caught:
        Record.loads(text)
    return str(caught.value)


@settings(deadline=None)
@given(records)
def test_what_is_written_is_read(record):
    assert Record.loads(record.dumps()) == record


@settings(deadline=None)
@given(record=records)
def test_what_is_saved_is_loaded(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("records") / "record.json"
    record.save(path)
    assert Record.load(path) == record
    assert Record.load(path.parent) == record


@settings(deadline=None)
@given(record=records, value=finite)
def test_the_round_trip_sees_a_changed_number(record, value):
    """Planted: one more row is another record."""
    other = Record.loads(record.dumps())
    assert (
        Record(**{f: getattr(other, f) for f in other.__slots__} | {"rows": (*other.rows, other_row(value))}) != record
    )


def other_row(value):
    return Measurement("t", "a", None, "m", value)


def test_the_text():
    assert small().dumps() == snapshot("""\
{
 "format": 1,
 "command": "truenorm study --seeds 1",
 "configuration": {
  "data": "digits"
 },
 "trials": {
  "t1": {
   "seed": 0
  }
 },
 "versions": {
  "torch": "2.13"
 },
 "machine": {
  "cores": 2
 },
 "notes": [
  "a note"
 ],
 "complete": true,
 "columns": [
  "trial",
  "arm",
  "layer",
  "metric",
  "value",
  "error",
  "n"
 ],
 "rows": [
["t1", "static-0.1", null, "accuracy", 0.9, null, 359],
["t1", "static-0.1", "bn1", "shift.joint", 0.31, 0.02, 1200]
]}
""")


def test_a_matrix_is_a_line_below_the_rows():
    counted = small(class_counts=(ClassCounts("t1", "static-0.1", ((179, 1), (0, 179))),))
    assert counted.dumps().removeprefix(small().dumps()[:-3]) == snapshot("""\
],
 "class_counts": [
["t1","static-0.1",[[179,1],[0,179]]]
]}
""")


def test_a_hundred_classes_take_two_bytes_for_each_pair():
    """A trial of 20 arms is a few hundred kilobytes."""
    counts = tuple(tuple(9 if true == predicted else 0 for predicted in range(100)) for true in range(100))
    without, with_one = (Record(command="", class_counts=of).dumps() for of in ((), (ClassCounts("t", "a", counts),)))
    assert len(with_one) - len(without) < 21_000


def test_a_record_without_matrices_is_written_as_before_there_were_any():
    assert "class_counts" not in small().dumps() and Record.loads(small().dumps()).class_counts == ()


def test_no_rows():
    assert Record.loads(Record(command="x").dumps()) == Record(command="x")


def test_counts_stay_integers_and_values_become_floats():
    row = Record.loads(damaged(rows=[["t", "a", None, "m", 1, 2, 3]])).rows[0]
    assert [type(cell) for cell in (row.value, row.error, row.n)] == [float, float, int]


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers(odd):
    with pytest.raises(InvalidRecord, match="finite numbers only"):
        Measurement("t", "a", None, "accuracy", odd)
    with pytest.raises(InvalidRecord, match="finite numbers only"):
        Measurement("t", "a", None, "accuracy", 1.0, odd)
    with pytest.raises(InvalidRecord, match="cannot be kept"):
        small(configuration={"lr": odd}).dumps()


def test_the_sentence_for_a_number_that_is_not_finite():
    with pytest.raises(InvalidRecord) as caught:
        Measurement("a1", "static-0.9", None, "nll", math.nan)
    assert str(caught.value) == snapshot(
        "nll of arm 'static-0.9' in trial 'a1' has the value nan; a record holds finite numbers only"
    )


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_that_is_not_strict_is_refused_wherever_it_stands(constant):
    assert "finite numbers only" in refused(damaged(configuration={"lr": "HERE"}).replace('"HERE"', constant))
    assert "finite" in refused(damaged(rows=[["t", "a", None, "m", "HERE", None, None]]).replace('"HERE"', constant))


def test_cut_short():
    text = small().dumps()
    assert refused(text[: text.index("study")]) == snapshot(
        "not a record: Unterminated string starting at: line 3 column 13 (char 28); was the file cut short?"
    )
    for length in range(0, len(text) - 2, 7):
        assert refused(text[:length]).startswith("not a record: ")


@pytest.mark.parametrize("text", ["[]", "{}", "1", "null", '"format"', '{"rows": []}'])
def test_json_that_is_no_record(text):
    assert refused(text) == "not a record: there is no format number at its top"


def test_nested_without_end():
    assert refused("[" * 100_000) == snapshot("not a record: it is nested too deeply")


def test_another_format():
    assert refused(damaged(format=FORMAT + 1)) == snapshot(
        "the record has format 2, this truenorm reads 1; read it with what wrote it"
    )
    assert refused(damaged(format=None)) == snapshot(
        "the record has format None, this truenorm reads 1; read it with what wrote it"
    )


def test_keys_that_are_missing_or_unknown():
    assert refused(damaged(notes=..., surprise=1)) == snapshot(
        "the record's header is damaged: missing or unknown keys: notes, surprise"
    )


def test_other_columns():
    assert refused(damaged(columns=["trial", "value"])) == snapshot(
        "the record's columns are ['trial', 'value'], not those of format 1"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("command", 1),
        ("configuration", []),
        ("configuration", None),
        ("trials", []),
        ("trials", {"t1": None}),
        ("versions", "2.13"),
        ("machine", []),
        ("notes", None),
        ("notes", "a note"),
        ("notes", ["a note", 3]),
        ("complete", "yes"),
        ("rows", None),
        ("rows", {}),
        ("class_counts", None),
        ("class_counts", {}),
    ],
)
def test_a_header_of_wrong_types(key, value):
    sentence = refused(damaged(**{key: value}))
    assert sentence.startswith("the record's header is damaged: ") and f"{key} is " in sentence


def test_the_sentences_for_a_damaged_header():
    assert refused(damaged(notes=5)) == snapshot("the record's header is damaged: notes is 5")
    assert refused(damaged(notes=[3])) == snapshot("the record's header is damaged: item 0 of notes is 3")
    assert refused(damaged(trials={"t1": 3})) == snapshot("the record's header is damaged: 't1' of trials is 3")


GOOD = ["t", "a", None, "m", 1.0, None, None]


@pytest.mark.parametrize(
    "row",
    [
        None,
        {},
        "t a None m 1.0",
        [],
        GOOD[:-1],
        [*GOOD, None],
        *([*GOOD[:place], odd, *GOOD[place + 1 :]] for place in (0, 1, 3) for odd in (None, 1, True)),
        [*GOOD[:2], 1, *GOOD[3:]],
        *([*GOOD[:4], odd, None, None] for odd in (None, "1.0", True, [1.0])),
        *([*GOOD[:5], odd, None] for odd in ("1.0", False)),
        *([*GOOD[:6], odd] for odd in (1.5, "3", True)),
        [*GOOD[:4], 10**400, None, None],
    ],
)
def test_a_damaged_row_is_named_by_its_number(row):
    assert refused(damaged(rows=[GOOD, row])).startswith("row 1 of the record is damaged: ")


def test_the_sentence_for_a_damaged_row():
    assert refused(damaged(rows=[["t", "a", None, "m", "0.9", None, None]])) == snapshot(
        "row 0 of the record is damaged: ['t', 'a', None, 'm', '0.9', None, None]"
    )


@pytest.mark.parametrize(
    "matrix",
    [
        None,
        {},
        "t a",
        [],
        ["t", "a"],
        ["t", "a", [[1]], 1],
        [1, "a", [[1]]],
        ["t", None, [[1]]],
        *(["t", "a", odd] for odd in (None, 1, "1", [1], [[1], None], ["1"], {"a": [1]})),
        *(["t", "a", [[1, odd]]] for odd in (None, "1", 1.0, True, [1])),
    ],
)
def test_a_damaged_matrix_is_named_by_its_number(matrix):
    assert refused(damaged(class_counts=[["t", "a", [[1]]], matrix])).startswith(
        "matrix 1 of the record's class_counts is damaged: "
    )


def test_loading_names_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.json").write_text(small().dumps()[:40])
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder").mkdir()

    def failed(path):
        with pytest.raises(InvalidRecord) as caught:
            Record.load(path)
        return str(caught.value)

    assert failed("nowhere.json") == snapshot("cannot read nowhere.json: No such file or directory")
    assert failed("folder") == snapshot("cannot read folder/record.json: No such file or directory")
    assert failed("cut.json") == snapshot(
        "cut.json: not a record: Unterminated string starting at: line 3 column 13 (char 28); was the file cut short?"
    )
    assert failed("binary.json") == snapshot(
        "cannot read binary.json: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    )


def test_the_old_record_survives_a_save_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    small().save(path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InvalidInput, match="No space left on device"):
        small(notes=()).save(path)
    with pytest.raises(InvalidRecord):
        small(configuration={"lr": math.nan}).save(path)
    assert Record.load(path) == small()
    assert os.listdir(tmp_path) == ["record.json"]


def test_versions_of_what_is_installed():
    found = installed_versions("torch", "no-such-package-anywhere")
    assert set(found) == {"python", "torch"}
    assert found["torch"][0].isdigit()


def test_the_machine_without_names():
    found = this_machine()
    assert set(found) == {"system", "architecture", "processor", "cores"}
    assert found["cores"] == os.cpu_count()
    assert os.uname().nodename not in found.values()
    json.dumps(found, allow_nan=False)
