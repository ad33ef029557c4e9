import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.results import (
    Curve,
    Difference,
    Evaluation,
    LabelPrediction,
    Score,
)
from drrgen_training.evaluation.write import (
    METRICS,
    PER_LABEL,
    PREDICTIONS,
    read_metrics,
    to_csv,
    to_json,
    write_evaluation,
)
from hypothesis import given
from hypothesis import strategies as st

from drrgen.errors import InputError, ManifestError

NAN = float("nan")
TASK = "zero-shot from cxr"
ALL = Score(model="m", task=TASK, measure="macro AUROC", value=0.75, low=0.7, high=0.8,
            chance=0.5, n=3, undefined=1)  # fmt: skip
ONE = Score(model="m", task=TASK, measure="AUROC", value=0.1 + 0.2, low=0.25, high=NAN, n=3,
            label="Effusion", positives=2, note="few positives")  # fmt: skip
TWO = replace(ONE, measure="AUPRC", value=0.5, high=0.875, note="")
DIFFERENCE = Difference(model="m", other="o", task=TASK, measure="macro AUROC", value=0.125,
                        low=-0.25, high=0.5, p=0.0625)  # fmt: skip
PREDICTION = LabelPrediction(model="m", task=TASK, label="Effusion", names=("a", "b", "c"),
                        patient=np.array([4, 4, 5]), scores=np.array([0.1, 0.2, NAN]),
                        truth=np.array([1, 0, -1]))  # fmt: skip
LINE = np.array([0.0, 1.0])
WHOLE = Evaluation(
    scores=(ALL, ONE, TWO),
    differences=(DIFFERENCE,),
    curves=(Curve(model="m", task=TASK, kind="roc", label="Effusion", x=LINE, y=LINE, low=LINE,
                  high=LINE, chance=LINE),),
    predictions=(PREDICTION, replace(PREDICTION, model="o")),
    published=(replace(ONE, measure="ctclip F1"),),
    facts={"models": ["m", "o"], "rows": np.int64(3), "confusion": {"m": {"shares": [[NAN]]}},
           "dataset": Path("DATA")},
    warnings=("few patients", "„quoted“ <b>"),
)  # fmt: skip


def make_test(n: int = 3) -> Embedded:
    numbers = np.arange(n)
    return Embedded(
        model="m", names=tuple(f"r{i}" for i in range(n)), patient=numbers, study=numbers,
        report=numbers, split=np.array(["test"] * n),
        vectors={"cxr": np.ones((n, 2), np.float32)}, labels={"Effusion": numbers % 2},
    )  # fmt: skip


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    write_evaluation(WHOLE, make_test(), tmp_path)
    for path in (tmp_path, tmp_path / METRICS):
        found = read_metrics(path)
        for name in ("scores", "differences", "published"):
            # Compared as text: a NaN is not equal to itself.
            assert repr(getattr(found, name)) == repr(getattr(WHOLE, name))
        assert found.warnings == WHOLE.warnings
        assert found.facts == {
            "models": ["m", "o"], "rows": 3, "confusion": {"m": {"shares": [[None]]}},
            "dataset": "DATA",
        }  # fmt: skip
        assert (found.curves, found.predictions, found.hits) == ((), (), ())


def test_metrics_are_plain_json_that_says_its_version_first() -> None:
    text = to_json(WHOLE)
    assert text.startswith('{\n "schema_version": 1,\n')
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(found) == ["schema_version", "facts", "warnings", "scores", "differences",
                           "published"]  # fmt: skip
    assert found["scores"][1] == asdict(ONE) | {"high": None, "chance": None}
    assert "„quoted“" in text


@given(
    value=st.floats(),
    note=st.text(),
    positives=st.none() | st.integers(0, 10**9),
    label=st.none() | st.text(),
)
def test_any_score_survives_the_way_through_json(
    tmp_path_factory: pytest.TempPathFactory,
    value: float,
    note: str,
    positives: int | None,
    label: str | None,
) -> None:
    score = replace(ONE, value=value, note=note, positives=positives, label=label)
    path = tmp_path_factory.mktemp("json") / METRICS
    try:
        path.write_text(to_json(Evaluation(scores=(score,))), encoding="utf-8")
    except UnicodeEncodeError:  # half a character, which no file holds
        return
    (found,) = read_metrics(path).scores
    wanted = replace(score, value=value if math.isfinite(value) else NAN)
    assert repr(found) == repr(wanted)


def test_equal_evaluations_make_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_evaluation(WHOLE, make_test(), tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["index.html", METRICS, PER_LABEL, PREDICTIONS]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_files_of_another_kind_or_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    whole = json.loads(to_json(WHOLE))
    lacking = [{k: v for k, v in whole["scores"][0].items() if k != "chance"}]
    for text, match in (
        ("{", "is no JSON"),
        ("[]", "schema version None, wanted 1"),
        (json.dumps(whole | {"schema_version": 2}), "schema version 2, wanted 1"),
        ('{"schema_version": 1}', r"lacks what version 1 has, or has more \('facts'|'scores'"),
        (json.dumps(whole | {"scores": lacking}), "'chance'"),
        (json.dumps(whole | {"scores": [whole["scores"][0] | {"new": 1}]}), "'new'"),
        (json.dumps(whole | {"scores": 3}), "wanted differences, facts"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ManifestError, match=match):
            read_metrics(path)
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path / "none.json")


def test_a_fact_that_json_cannot_hold_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    odd = replace(WHOLE, facts={"when": object()})
    with pytest.raises(InputError, match="a fact of the evaluation is a object"):
        write_evaluation(odd, make_test(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_metrics_appear_last(tmp_path: Path) -> None:
    bad = replace(WHOLE, predictions=(replace(PREDICTION, truth=np.array([1])),))
    with pytest.raises(InputError, match=r"'Effusion' by 'm' has 3 names.*'truth': 1"):
        write_evaluation(bad, make_test(), tmp_path)
    assert not (tmp_path / METRICS).exists()
    assert not (tmp_path / PREDICTIONS).exists()


def test_a_killed_writer_leaves_no_metrics_of_another_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluation(WHOLE, make_test(), tmp_path)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drrgen_training.evaluation.write.write_predictions", stop)
    with pytest.raises(KeyboardInterrupt):
        write_evaluation(WHOLE, make_test(), tmp_path)
    assert not (tmp_path / METRICS).exists() and (tmp_path / PER_LABEL).exists()


def test_the_table_has_a_row_for_each_model_task_and_finding() -> None:
    scores = (ALL, ONE, TWO, replace(ONE, model='o, "quoted"', measure="F1 at 0.5", note=""))
    lines = read_csv(to_csv(scores))
    assert [(line["model"], line["task"], line["label"]) for line in lines] == [
        ("m", TASK, "Effusion"), ('o, "quoted"', TASK, "Effusion"),
    ]  # fmt: skip
    first, second = lines
    assert list(first)[:9] == ["model", "task", "label", "n", "positives", "note", "auroc",
                               "auroc_low", "auroc_high"]  # fmt: skip
    assert (first["n"], first["positives"], first["note"]) == ("3", "2", "few positives")
    assert float(first["auroc"]) == 0.1 + 0.2
    assert (first["auroc_low"], first["auroc_high"], first["auprc_high"]) == ("0.25", "", "0.875")
    assert first["f1"] == "" and second["auroc"] == ""
    assert float(second["f1_at_0_5"]) == 0.1 + 0.2


def test_the_table_of_nothing_has_its_head() -> None:
    assert to_csv([]).startswith("model,task,label,n,positives,note,auroc,auroc_low,auroc_high,")
    assert to_csv([]).count("\n") == 1


def test_predictions_can_be_counted_again(tmp_path: Path) -> None:
    write_evaluation(WHOLE, make_test(), tmp_path)
    table = pq.read_table(tmp_path / PREDICTIONS)
    assert table.column_names == ["name", "patient", "model", "task", "label", "score", "truth"]
    assert table.num_rows == 6
    found = table.slice(0, 3).to_pydict()
    assert found["name"] == ["a", "b", "c"]
    assert (found["patient"], found["truth"]) == ([4, 4, 5], [1, 0, -1])
    assert found["score"][:2] == [0.1, 0.2] and math.isnan(found["score"][2])
    assert table["model"].to_pylist() == ["m"] * 3 + ["o"] * 3
    assert table.schema.metadata[b"drrgen_schema_version"] == b"1"


def test_no_predictions_make_an_empty_table(tmp_path: Path) -> None:
    write_evaluation(Evaluation(scores=()), make_test(), tmp_path)
    assert pq.read_table(tmp_path / PREDICTIONS).num_rows == 0
