from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.tables import join_train, read_embedded, write_embedded

from drrgen.errors import InputError, ManifestError


def make_embedded(prefix: str = "a", n: int = 6) -> Embedded:
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    report = x.copy()
    report[2] = np.nan
    return Embedded(
        model="mine", names=tuple(f"{prefix}{i}" for i in range(n)), patient=np.arange(n) // 2,
        study=np.arange(n), report=np.array([0, 1, -1, 2, 3, 0][:n]),
        split=np.array(["train", "train", "dev", "dev", "test", "test"][:n]),
        vectors={"cxr": x, "report": report}, labels={"Mass": np.array([1, 0, -1, 0, 1, 0][:n])},
        prompts={"A mass.": x[0]}, scale=3.0, texts=tuple(f"text {i}" for i in range(n)),
        pictures=("",) * n, people=tuple(f"{prefix}p{i // 2}" for i in range(n)),
    )  # fmt: skip


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    mine = make_embedded()
    write_embedded(mine, tmp_path)
    read = read_embedded(tmp_path)
    assert (read.model, read.names, read.scale, read.texts) == (
        mine.model,
        mine.names,
        3.0,
        mine.texts,
    )
    for name in ("patient", "study", "report", "split"):
        assert (getattr(read, name) == getattr(mine, name)).all()
    assert (read.labels["Mass"] == mine.labels["Mass"]).all() and read.people == mine.people
    np.testing.assert_allclose(read.vectors["report"], mine.vectors["report"], atol=1e-6)
    assert read.has("report").tolist() == [True, True, False, True, True, True]
    np.testing.assert_allclose(read.prompts["A mass."], mine.prompts["A mass."], atol=1e-6)


def test_a_table_of_anybody_s_own_is_read(tmp_path: Path) -> None:
    pd.DataFrame({
        "name": ["a", "b", "c"], "patient_id": ["p", "p", "q"], "split": ["test"] * 3,
        "cxr": [[3.0, 4.0], None, [0.0, 2.0]], "Mass": [1, 0, 7],
    }).to_parquet(tmp_path / "rows.parquet")  # fmt: skip
    read = read_embedded(tmp_path, "theirs")
    assert read.model == "theirs" and read.patient.tolist() == [0, 0, 1]
    assert read.study.tolist() == read.report.tolist() == [0, 1, 2]
    np.testing.assert_allclose(read.vectors["cxr"][[0, 2]], [[0.6, 0.8], [0, 1]])
    assert read.labels["Mass"].tolist() == [1, 0, -1] and not read.prompts
    assert read.people == ("p", "p", "q")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ["a", "a"]}, "1 names twice"),
        ({"view": ["LATERAL", "PA"]}, "view says LATERAL, wanted PA, AP, LL, RL or nothing"),
        ({"cxr": [[1.0], [1.0, 2.0]]}, r"have \[1, 2\] numbers, wanted one length"),
        ({"cxr": [[0.0, 0.0], [1.0, 2.0]]}, "1 rows that are zero or not finite"),
        ({"cxr": [None, None]}, "no embedding in any of cxr, ct, report"),
        ({"cxr": [[1.0, np.inf], [1.0, 2.0]]}, "1 rows that are zero or not finite"),
        ({"cxr": [[1.0, np.nan], [np.inf, 2.0]]}, "2 rows that are zero or not finite"),
        ({"cxr": [1, 2]}, "column cxr of .* is int64, wanted a list of numbers"),
        ({"cxr": [["a"], ["b"]]}, "wanted a list of numbers"),
        ({"name": ["a", None]}, "column name of .* is null in 1 of 2 rows"),
        ({"patient_id": ["p", None]}, "column patient_id of .* is null in 1 of 2 rows"),
        ({"split": [None, "test"]}, "column split of .* is null in 1 of 2 rows"),
        ({"patient_id": [["p"], ["q"]]}, "column patient_id is list"),
        ({"study_id": ["1", "1"]}, "1 values of study_id in .* are of several patients"),
        ({"labels": [1, 0]}, "column labels of .* is int64"),
        ({"labels": [[{"name": "Mass", "value": "1"}], []]}, r"wanted a list of name and value"),
        ({"labels": [[{"name": "Mass", "value": 1}, {"name": "Mass", "value": 0}], []]}, "twice"),
        ({"labels": [[{"name": None, "value": 1}], []]}, "1 rows of .* have a label without a"),
    ],
)
def test_a_table_that_cannot_be_judged_is_told(tmp_path: Path, change: dict, said: str) -> None:
    good = {"name": ["a", "b"], "patient_id": ["p", "q"], "split": ["test"] * 2,
            "cxr": [[1.0, 0.0], [1.0, 2.0]]}  # fmt: skip
    pd.DataFrame(good | change).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=said):
        read_embedded(tmp_path)


def test_views_are_read_in_either_case_and_may_be_missing(tmp_path: Path) -> None:
    rows = {"name": ["a", "b", "c"], "patient_id": ["p", "q", "r"], "split": ["test"] * 3,
            "cxr": [[1.0, 0.0]] * 3, "view": ["pa", None, "LAT"]}  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    read = read_embedded(tmp_path)
    assert read.views == ("PA", "", "LL") and "view" not in read.labels
    write_embedded(read, tmp_path)
    assert read_embedded(tmp_path).views == read.views


def test_a_row_without_a_scan_is_a_scan_of_its_own_and_not_one_with_the_others(
    tmp_path: Path,
) -> None:
    pd.DataFrame({
        "name": ["a", "b", "c", "d"], "patient_id": list("pqrr"), "split": ["test"] * 4,
        "study_id": [None, None, "s", "s"], "report_id": [None, "x", None, None],
        "report": [[1.0], [1.0], [1.0], None],
    }).to_parquet(tmp_path / "rows.parquet")  # fmt: skip
    read = read_embedded(tmp_path)
    assert read.study.tolist() == [0, 1, 2, 2]
    assert read.report.tolist() == [0, 1, 2, -1]  # a vector is of a report, whoever names it


@pytest.mark.parametrize("told", [b"{", b"[1]", b'{"model": 5}', b'{"scale": "x"}', b'{"scale": 0}',
                                  b'{"scale": NaN}'])  # fmt: skip
def test_metadata_that_tell_no_model_or_scale_are_refused(tmp_path: Path, told: bytes) -> None:
    write_embedded(make_embedded(), tmp_path)
    table = pq.read_table(tmp_path / "rows.parquet")
    pq.write_table(
        table.replace_schema_metadata({b"drrgen_embedded": told}), tmp_path / "rows.parquet"
    )
    with pytest.raises(ManifestError, match="do not tell a model and its scale"):
        read_embedded(tmp_path)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"text": ["A"]}, "lacks embedding"),
        ({"text": ["A"], "embedding": ["x"]}, "column embedding of .* is .*string"),
        ({"text": ["A", "A"], "embedding": [[1.0], [2.0]]}, "has a sentence twice"),
        ({"text": ["A", None], "embedding": [[1.0], [2.0]]}, "without a sentence"),
        ({"text": ["A", "B"], "embedding": [[1.0], None]}, "or an embedding"),
        ({"text": ["A", "B"], "embedding": [[1.0], [np.nan]]}, "1 rows that are zero or not"),
    ],
)
def test_sentences_that_cannot_be_compared_are_told(tmp_path: Path, table: dict, said: str) -> None:
    write_embedded(make_embedded(), tmp_path)
    pd.DataFrame(table).to_parquet(tmp_path / "prompts.parquet")
    with pytest.raises((InputError, ManifestError), match=said):
        read_embedded(tmp_path)


def test_a_killed_writer_leaves_no_rows_beside_the_sentences_of_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_embedded(make_embedded(), tmp_path)
    write = pq.write_table

    def stop(table: object, path: Path, **options: object) -> None:
        if "rows" in path.name:
            raise KeyboardInterrupt
        write(table, path, **options)

    monkeypatch.setattr(pq, "write_table", stop)
    with pytest.raises(KeyboardInterrupt):
        write_embedded(replace(make_embedded(), prompts={}), tmp_path)
    with pytest.raises(ManifestError, match="is no table of embeddings"):
        read_embedded(tmp_path)


def test_a_folder_without_a_table_or_a_column_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is no table of embeddings"):
        read_embedded(tmp_path)
    pd.DataFrame({"name": ["a"]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ManifestError, match="lacks patient_id, split"):
        read_embedded(tmp_path)


def test_train_rows_of_one_data_set_stand_before_the_test_rows_of_another() -> None:
    both = join_train(make_embedded("a"), make_embedded("b"))
    assert both.names == ("a0", "a1", "a2", "a3", "b4", "b5")
    assert not set(both.patient[:4]) & set(both.patient[4:])
    assert both.report.tolist()[2] == -1 and not set(both.report[:4]) & set(both.report[4:])
    assert both.people == ("ap0", "ap0", "ap1", "ap1", "bp2", "bp2")
    again = replace(make_embedded("b"), names=("x0", "x1", "x2", "x3", "a0", "b1"))
    with pytest.raises(InputError, match="1 rows are in both data sets"):
        join_train(make_embedded("a"), again)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("test", ("b4", "b5")),
        ("dev", ("b2", "b3")),
        ("all", ("b0", "b1", "b2", "b3", "b4", "b5")),
    ],
)
def test_the_rows_that_are_judged_are_test_rows_once_joined(
    split: str, names: tuple[str, ...]
) -> None:
    both = join_train(make_embedded("a"), make_embedded("b"), split)
    assert both.names == ("a0", "a1", "a2", "a3", *names)
    assert both.split.tolist() == ["train"] * 2 + ["dev"] * 2 + ["test"] * len(names)


def test_a_patient_of_both_data_sets_is_refused_where_it_is_learnt_from() -> None:
    train, test = make_embedded("a"), make_embedded("b")
    learnt = replace(test, people=(*test.people[:4], "ap1", "ap1"))
    with pytest.raises(InputError, match="1 patients are in both data sets, such as ap1"):
        join_train(train, learnt)
    join_train(train, replace(test, people=(*test.people[:4], "ap2", "ap2")))  # of its test rows
    join_train(train, replace(test, people=("ap0", "ap0", *test.people[2:])))  # is not judged
    untold = replace(train, people=("",) * 6)
    assert join_train(untold, replace(test, people=("",) * 6)).people == ("",) * 6
    assert join_train(train, replace(test, people=())).people == ()


def test_a_join_has_the_shared_labels_and_the_modalities_that_are_judged() -> None:
    train, test = make_embedded("a"), make_embedded("b")
    mine = dict.fromkeys(("D", "C", "Mass", "A"), train.labels["Mass"])
    theirs = dict.fromkeys(("C", "B", "Mass", "D"), test.labels["Mass"])
    train = replace(train, labels=mine, vectors={"cxr": train.vectors["cxr"]})
    both = join_train(train, replace(test, labels=theirs, prompts={}))
    assert list(both.labels) == ["C", "Mass", "D"]  # in the order of what is judged
    assert both.has("report").tolist() == [False] * 4 + [True] * 2
    assert set(both.prompts) == {"A mass."}
    with pytest.raises(InputError, match="there is D, C, Mass, A to learn and B to judge; give"):
        join_train(train, replace(test, labels={"B": test.labels["Mass"]}))
    wide = replace(test, vectors={"cxr": np.eye(6, dtype=np.float32)})
    with pytest.raises(InputError, match=r"cxr vectors have \[4, 6\] numbers"):
        join_train(train, wide)
    of_report = replace(test, vectors={"report": np.eye(6, dtype=np.float32)})
    with pytest.raises(InputError, match=r"report vectors have \[4, 6\] numbers"):
        join_train(make_embedded("a"), of_report)
