"""Tables: every format gives the same text, and what is wrong is named by file, row and column."""

import csv
import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drrgen.errors import InputError
from drrgen.io import tables
from drrgen.io.labels import LabelColumns, LabelTable, read_labels
from drrgen.io.tables import list_columns, make_keyed, read_rows, settle_columns, take_key

ROWS = [
    {"volume": "a", "text": 'Größe 5 mm,\n"frei"', "n": "1"},
    {"volume": "b", "text": "", "n": ""},
]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows in the format of the ending."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pd.DataFrame(rows).to_parquet(path)
        return path
    if name.endswith(".jsonl"):
        data = "".join(json.dumps(row) + "\n\n" for row in rows).encode()
    else:
        (path.parent / "plain").unlink(missing_ok=True)
        with (path.parent / "plain").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ".tsv" in name else ",")
            writer.writeheader()
            writer.writerows(rows)
        data = (path.parent / "plain").read_bytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path, *columns: str) -> list[tuple[str, ...]]:
    return [row.values for row in read_rows(path, columns)]


@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "t.parquet"]
)
def test_every_format_gives_the_same_text(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, ROWS)
    assert set(list_columns(path)) == {"volume", "text", "n"}
    assert read(path, "n", "volume", "text") == [("1", "a", ROWS[0]["text"]), ("", "b", "")]
    assert read(path, "volume", "") == [("a", ""), ("b", "")]


def test_values_of_other_types_become_the_text_a_csv_would_have(tmp_path: Path) -> None:
    values = [1, 1.0, 0.5, True, None, float("nan"), ["x"]]
    (tmp_path / "t.jsonl").write_text(
        "".join(f'{{"k": "a", "v": {json.dumps(v)}}}\n' for v in values)
    )
    assert [v for _, v in read(tmp_path / "t.jsonl", "k", "v")] == [
        "1",
        "1",
        "0.5",
        "1",
        "",
        "",
        '["x"]',
    ]
    pd.DataFrame({"k": ["a", "b"], "v": [1, None]}).to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", "k", "v") == [("a", "1"), ("b", "")]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("volume;text\na;ä\n".encode("utf-8-sig"))
    assert read(tmp_path / "t.csv", "volume", "text") == [("a", "ä")]


def test_latin_1_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_bytes("volume,text\na,Größe\n".encode("latin-1"))
    assert read(tmp_path / "t.csv", "text") == [("Größe",)]
    assert "taken for Latin-1" in caplog.text


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", b"", "t.csv is empty"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "row 3 has 3 cells, wanted 2"),
        ("t.csv", b"a,b\n1,2\n1\n", "row 3 has 1 cells, wanted 2"),
        ("t.csv", b'a,b\n1,"2\n', "row 2, near line 2: unexpected end of data"),
        ("t.csv", b'a,b\n1,"2"x\n', "row 2"),
        ("t.csv", b"a,a\n1,2\n", "names the column 'a' twice"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', "line 2 is no JSON object"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is no JSON"),
        ("t.jsonl", b"[" * 100_000, "line 1 is no JSON"),
        ("t.jsonl", b"\n", "is empty"),
        ("t.parquet", b"PAR1 and no more", "cannot be read"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 999)[:-20], "cannot be read"),
        ("t.csv.gz", b"no gzip", "cannot be read"),
        ("t.xlsx", b"PK", "unknown ending"),
        ("t.pkl", b"\x80", "unknown ending"),
    ],
)
def test_what_is_wrong_is_told(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name, "a")
    assert said in str(caught.value) and name in str(caught.value)


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no table is at"):
        list_columns(tmp_path / "t.csv")


def test_a_column_that_is_not_there_gets_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ROWS)
    with pytest.raises(InputError, match=r"no column volum; did you mean volume\?"):
        read(path, "volum")
    with pytest.raises(InputError, match="no column zzz; it has volume, text, n"):
        settle_columns(path, {"key": ("zzz", "yyy")})
    assert settle_columns(path, {"key": ("v", "volume"), "x": ("y",)})[0] == {
        "key": "volume",
        "x": "",
    }


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.parquet"])
def test_a_table_that_unpacks_without_end_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / name, ROWS * 999)
    monkeypatch.setattr(tables, "MAX_BYTES", 20_000)
    with pytest.raises(InputError, match="more than 20000 bytes"):
        read(path, "volume")


def test_an_endless_line_or_cell_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1," + "x" * 200_000 + "\n")
    with pytest.raises(InputError, match="field larger than field limit"):
        read(tmp_path / "t.csv", "a")
    monkeypatch.setattr(tables, "MAX_LINE", 1000)
    with pytest.raises(InputError, match="a line of more than 1000 characters"):
        read(tmp_path / "t.csv", "a")
    monkeypatch.setattr(tables, "MAX_COLUMNS", 1)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="2 columns, wanted 1 at most"):
        read(tmp_path / "t.csv", "a")


def test_a_row_without_a_key_is_an_error_and_an_empty_row_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n,\n\n1,2\n,3\n")
    rows = list(read_rows(tmp_path / "t.csv", ["a", "b"]))
    assert take_key(rows[0], lambda key, _: key) == "1"
    with pytest.raises(InputError, match=r"t\.csv row 5 names nothing"):
        take_key(rows[1], lambda key, _: key)


def test_a_row_that_is_there_twice_is_kept_once_and_one_that_differs_is_named(
    tmp_path: Path,
) -> None:
    def collect(text: str, *, several: bool = False) -> list[tuple[str, ...]]:
        (tmp_path / "t.csv").write_text("a,b\n" + text)
        rows = ((r, r.values[0], r.values[1:]) for r in read_rows(tmp_path / "t.csv", ["a", "b"]))
        keyed = make_keyed(rows, ["b"], word="reports", several=several)
        assert "x" in keyed and "z" not in keyed and keyed.find("z") == ()
        return [keyed.get(position) for position in keyed.find("x")]

    assert collect("x,1\nx,1\ny,2\n") == [("1",)]
    with pytest.raises(
        InputError, match=r"t\.csv row 2 and t\.csv row 4 are different reports of 'x'"
    ):
        collect("x,1\ny,2\nx,3\n")
    assert collect("x,1\nx,2\nx,1\nx,3\n", several=True) == [("1",), ("2",), ("3",)]


def test_a_row_is_found_again_among_many(tmp_path: Path) -> None:
    count = 2 * tables._BATCH_ROWS + 7
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"k{i},v{i}\n" for i in range(count)))
    rows = ((r, r.values[0], r.values[1:]) for r in read_rows(tmp_path / "t.csv", ["a", "b"]))
    keyed = make_keyed(rows, ["b"], word="reports")
    assert len(keyed) == len(list(keyed)) == count
    for i in (0, 1, count // 2, count // 2 + 1, count - 8, count - 1):
        (position,) = keyed.find(f"k{i}")
        assert keyed.get(position) == (f"v{i}",)
        assert keyed.tell_place(position) == f"t.csv row {i + 2}"


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(cells=st.lists(st.tuples(CELL, CELL), max_size=6))
@settings(max_examples=20)
def test_any_text_comes_back_from_a_csv_without_blanks_at_its_ends(
    cells: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write(path, [{"a": "a", "b": "b"}, *({"a": a, "b": b} for a, b in cells)])
    wanted = [(a.strip(), b.strip()) for a, b in cells]
    assert read(path, "a", "b") == [("a", "b"), *(each for each in wanted if any(each))]


def labels(path: Path, text: str, **columns: object) -> LabelTable:
    path.write_text(text)
    return read_labels([path], LabelColumns(key=("v",), **columns), lambda key, _: key)  # type: ignore[arg-type]


def test_labels_are_present_absent_uncertain_or_unknown(tmp_path: Path) -> None:
    found = labels(tmp_path / "l.csv", "v,A,B,C,D,E,id\nx,1.0,0,-1,,nan,9\n", leave_out=("id",))
    assert found.find("x") == {"A": 1, "B": 0, "C": -1} and found.find("y") == {}
    assert found.names == ("A", "B", "C", "D", "E")


def test_a_value_that_is_no_label_is_named_by_row_and_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"l\.csv row 3, column B: got 'maybe', wanted 1, 0, -1"):
        labels(tmp_path / "l.csv", "v,A,B\nx,1,0\ny,1,maybe\n")


def test_labels_are_chosen_and_renamed(tmp_path: Path) -> None:
    text = "v,A,B,C\nx,1,0,1\n"
    assert labels(tmp_path / "l.csv", text, columns=("C", "A"), renames={"C": "See"}).find("x") == {
        "See": 1,
        "A": 1,
    }
    with pytest.raises(InputError, match="no column for the labels D"):
        labels(tmp_path / "l.csv", text, columns=("A", "D"))


def test_merging_takes_whole_parts_of_a_name_and_the_strongest_value(tmp_path: Path) -> None:
    text = "v,pleural_effusion*left,effusion*left,left*effusion,effusion_old\nx,1,0,-1,1\ny,1,0,1,0\nz,1,,,1\n"
    found = labels(tmp_path / "l.csv", text, merge={"Effusion": ("effusion",)})
    assert [found.find(key) for key in "xyz"] == [{"Effusion": -1}, {"Effusion": 1}, {}]
    with pytest.raises(InputError, match="no column for the labels Nodule"):
        labels(tmp_path / "l.csv", text, merge={"Nodule": ("nodule",)})


def test_labels_of_several_rows_are_refused_or_the_strongest_is_taken(tmp_path: Path) -> None:
    text = "v,A,B\nx,1,0\nx,0,-1\n"
    with pytest.raises(InputError, match="different labels of 'x'"):
        labels(tmp_path / "l.csv", text)
    assert labels(tmp_path / "l.csv", text, several="strongest").find("x") == {"A": 1, "B": -1}


def test_labels_of_several_tables_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v,A\nx,1\n")
    (tmp_path / "b.csv").write_text("v,A,B\ny,0,1\n")
    found = read_labels(
        [tmp_path / "a.csv", tmp_path / "b.csv"], LabelColumns(key=("v",)), lambda key, _: key
    )
    assert found.find("x") == {"A": 1} and found.find("y") == {"A": 0, "B": 1}
