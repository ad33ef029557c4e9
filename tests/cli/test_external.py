"""Probes learn from one data set and are judged on another, whose labels have other names."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drrgen_training.evaluation.probe import run_probes
from external import (
    ARTERIAL,
    CORONARY,
    CT_RATE,
    RAD,
    draw_findings,
    tell_as_rad,
    write_prompts,
    write_table,
)
from trainable import describe, write_run, write_trainable
from typer.testing import CliRunner

from drrgen.cli import app

pytestmark = pytest.mark.usefixtures("one_probe")
runner = CliRunner()
QUICK = ("--replicates", "100", "-q")
N = 60
SPLIT = np.repeat(["train", "dev", "test"], [30, 10, 20])
WHOLE, ZERO_SHOT = "probe of cxr, 100 %", "zero-shot from cxr"
AMBIGUOUS = np.arange(40, 45)  # test rows that are uncertain about emphysema, and look as it does


@pytest.fixture(scope="module")
def one_probe() -> Iterator[None]:
    """Train a probe on all rows alone: dozens of draws take long."""

    def run(*rows: Any, **told: Any) -> Any:
        return run_probes(*rows, **(told | {"fractions": (1.0,), "shots": ()}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drrgen_training.evaluation.told.run_probes", run)
        yield


def call(*words: object) -> tuple[int, str]:
    result = runner.invoke(app, ["evaluate", *map(str, words)])
    return result.exit_code, " ".join(f"{result.output} {result.exception!r}".split())


def judge(out: Path, *words: object) -> dict[str, Any]:
    """Evaluate, and read what was found."""
    code, said = call(*words, "--out", out, *QUICK)
    assert code == 0, said
    return json.loads((out / "metrics.json").read_text())


def find(metrics: dict[str, Any], task: str, measure: str, model: str = "mine") -> dict[str, float]:
    """Find a measure of each label."""
    return {
        s["label"]: s["value"] for s in metrics["scores"]
        if (s["model"], s["task"], s["measure"]) == (model, task, measure) and s["label"]
    }  # fmt: skip


def write_ct_rate(folder: Path, **columns: object) -> Path:
    """Write the data set to learn from: its test rows lie, so nothing may be learnt of them."""
    found = draw_findings(N, 1)
    return write_table(folder, found, found, SPLIT, "c", wrong=("test",), **columns)


def write_rad(folder: Path, **columns: object) -> Path:
    """Write the external data set: all but its test rows lie.

    Of its test rows none has calcified arteries but in the coronaries, some are uncertain about
    emphysema, and there are labels that the mapping does not know.
    """
    found = draw_findings(N, 2)
    found[ARTERIAL][SPLIT == "test"] = 0
    told = tell_as_rad(found)
    told["emphysema"][AMBIGUOUS] = -1
    more = {"mass": found["Lung nodule"], "Mosaic attenuation pattern": 1 - found[CT_RATE[13]]}
    write_table(folder, found, told | more, SPLIT, "r", wrong=("train", "dev"), **columns)
    return write_prompts(folder)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("external")
    write_ct_rate(root / "CT-RATE")
    write_rad(root / "RAD")
    return root


@pytest.fixture(scope="module")
def metrics(planted: Path, one_probe: None) -> dict[str, Any]:
    return judge(
        planted / "E", "--embeddings", f"mine={planted / 'RAD'}", "--train-on",
        planted / "CT-RATE", "--mapping", "rad-chestct-15",
    )  # fmt: skip


def test_probes_learn_from_the_other_data_set_alone(metrics: dict[str, Any]) -> None:
    """The rows of the external data's own train split, and the other's test split, lie."""
    areas = find(metrics, WHOLE, "AUROC")
    assert list(areas) == list(RAD.labels) and all(area > 0.95 for area in areas.values()), areas
    assert metrics["facts"]["train_patients"] == 40 and metrics["facts"]["patients"] == 20
    assert metrics["facts"]["external"] and not metrics["warnings"][1:]  # but few positives


def test_a_mapped_label_is_learnt_as_the_union_of_its_parts(metrics: dict[str, Any]) -> None:
    """In the rows that are judged it is always the second part that makes it present."""
    assert find(metrics, WHOLE, "AUROC")["calcification"] == 1.0
    assert find(metrics, ZERO_SHOT, "AUROC")["calcification"] == 1.0


def test_a_head_that_starts_from_sentences_learns_a_union_too(
    planted: Path, tmp_path: Path
) -> None:
    metrics = judge(
        tmp_path / "E", "--embeddings", f"mine={planted / 'RAD'}", "--train-on",
        planted / "CT-RATE", "--mapping", "rad-chestct-9", "--probe", "adamw-text",
    )  # fmt: skip
    assert metrics["facts"]["probe"] == "adamw-text"
    areas = find(metrics, WHOLE, "AUROC")
    assert areas["calcification"] > 0.95 and np.mean(list(areas.values())) > 0.85


def test_labels_without_a_mapping_are_not_scored(metrics: dict[str, Any]) -> None:
    assert {s["label"] for s in metrics["scores"] if s["label"]} == set(RAD.labels)
    assert metrics["facts"]["labels"] == list(RAD.labels)


def test_uncertain_labels_are_left_out(metrics: dict[str, Any]) -> None:
    counts = {s["label"]: s["n"] for s in metrics["scores"] if s["measure"] == "AUROC"}
    assert counts == dict.fromkeys(RAD.labels, 20) | {"emphysema": 15}
    assert find(metrics, ZERO_SHOT, "AUROC")["emphysema"] == 1.0


def test_thresholds_are_chosen_on_the_other_data_set_s_dev_rows(metrics: dict[str, Any]) -> None:
    """By the external data's own dev rows, which lie, they would be past one end."""
    assert find(metrics, ZERO_SHOT, "accuracy") == dict.fromkeys(RAD.labels, 1.0)


def test_what_needs_no_probe_is_the_same_without_the_other_data_set(
    planted: Path, metrics: dict[str, Any], tmp_path: Path
) -> None:
    zero = judge(tmp_path / "E", "--embeddings", f"mine={planted / 'RAD'}", "--mapping",
                 "rad-chestct-15", "--no-probes")  # fmt: skip
    for measure in ("AUROC", "AUPRC"):
        assert find(zero, ZERO_SHOT, measure) == find(metrics, ZERO_SHOT, measure)
    assert not zero["facts"]["external"]


def test_a_zero_shot_score_is_the_largest_of_its_parts(tmp_path: Path) -> None:
    """Present: a strong sign of one and none of the other. Absent: a weak sign of both."""
    found = draw_findings(20, 3)
    has = np.arange(20) % 2
    strong = {ARTERIAL: np.where(has, -1.0, 0.4), CORONARY: np.where(has, 0.9, 0.4)}
    told = tell_as_rad(found) | {"calcification": has}
    write_table(tmp_path / "RAD", found | strong, told, np.full(20, "test"), "r")
    write_prompts(tmp_path / "RAD")
    metrics = judge(tmp_path / "E", "--embeddings", f"mine={tmp_path / 'RAD'}", "--mapping",
                    "rad-chestct-15", "--no-probes")  # fmt: skip
    assert find(metrics, ZERO_SHOT, "AUROC")["calcification"] == 1.0


def test_all_rows_of_external_data_can_be_judged_and_none_of_the_other(tmp_path: Path) -> None:
    """RAD-ChestCT is one external set as a whole; its splits are somebody else's."""
    found = draw_findings(N, 2)
    write_table(tmp_path / "RAD", found, tell_as_rad(found), SPLIT, "r")
    write_ct_rate(tmp_path / "CT-RATE")
    told = ("--embeddings", f"mine={tmp_path / 'RAD'}", "--train-on", tmp_path / "CT-RATE",
            "--mapping", "rad-chestct-9")  # fmt: skip
    metrics = judge(tmp_path / "E", *told, "--split", "all")
    assert (metrics["facts"]["rows"], metrics["facts"]["train_patients"]) == (N, 40)
    assert metrics["facts"]["split"] == "all" and min(find(metrics, WHOLE, "AUROC").values()) > 0.95
    predictions = pd.read_parquet(tmp_path / "E" / "predictions.parquet")
    assert {name[0] for name in predictions["name"]} == {"r"}
    metrics = judge(tmp_path / "D", *told, "--split", "dev", "--no-probes")
    assert metrics["facts"]["rows"] == 10 and metrics["facts"]["split"] == "dev"


def test_a_patient_of_both_is_refused_where_probes_would_learn_of_it(tmp_path: Path) -> None:
    write_rad(tmp_path / "RAD")
    told = ("--embeddings", f"mine={tmp_path / 'RAD'}", "--train-on", tmp_path / "CT-RATE",
            "--mapping", "rad-chestct-15", "--no-probes", "--out", tmp_path / "E", *QUICK)  # fmt: skip
    who = [f"cp{i}" for i in range(N)]
    write_ct_rate(tmp_path / "CT-RATE", patient_id=[*who[:29], "rp59", *who[30:]])
    code, said = call(*told)
    assert code == 2 and "1 patients are in both data sets, such as rp59" in said, said
    write_ct_rate(
        tmp_path / "CT-RATE", patient_id=[*who[:59], "rp59"]
    )  # a test row: not learnt from
    assert call(*told)[0] == 0


def test_two_data_sets_without_a_common_label_ask_for_a_mapping(
    planted: Path, tmp_path: Path
) -> None:
    shutil.copytree(planted / "RAD", tmp_path / "RAD")
    table = pd.read_parquet(tmp_path / "RAD" / "rows.parquet")
    table.drop(columns="Mosaic attenuation pattern").to_parquet(tmp_path / "RAD" / "rows.parquet")
    told = ("--embeddings", tmp_path / "RAD", "--train-on", planted / "CT-RATE", "--out",
            tmp_path / "E", *QUICK)  # fmt: skip
    code, said = call(*told)
    assert code == 2 and "no label is in both data sets" in said and "give --mapping" in said, said
    code, said = call(*told, "--mapping", "mimic-ct")
    assert code == 2 and "needs Arterial wall calcification" in said, said


def test_each_of_several_models_learns_from_its_own_embeddings(
    planted: Path, tmp_path: Path
) -> None:
    """The second model shows the opposite of everything, in both data sets."""
    for kind in ("RAD", "CT-RATE"):
        for name in ("mine", "other"):
            shutil.copytree(planted / kind, tmp_path / kind / name)
        path = tmp_path / kind / "other" / "rows.parquet"
        table = pd.read_parquet(path)
        table["cxr"] = [-x for x in table["cxr"]]
        table.to_parquet(path)
    told = ("--embeddings", f"mine={tmp_path / 'RAD/mine'}", "--embeddings",
            f"other={tmp_path / 'RAD/other'}", "--mapping", "rad-chestct-9")  # fmt: skip
    code, said = call(*told, "--train-on", planted / "CT-RATE", "--out", tmp_path / "E", *QUICK)
    assert code == 2 and "has no folder mine" in said, said
    metrics = judge(tmp_path / "E", *told, "--train-on", tmp_path / "CT-RATE")
    for model in ("mine", "other"):
        assert min(find(metrics, WHOLE, "AUROC", model).values()) > 0.95


def tell_mass(number: int) -> list[dict[str, Any]]:
    """What a patient of the external data is told to have; in its own train split the opposite."""
    has = (describe(number)[0] == "left") == (number >= 148)
    return [{"name": "mass_left", "value": int(has)}, {"name": "cyst", "value": int(not has)}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights, the data set it could be of, and an external one."""
    root = tmp_path_factory.mktemp("trained")
    write_trainable(root / "OWN", n=48)
    write_trainable(root / "EXT", n=64, first=100, splits=dict.fromkeys(range(148, 164), "test"),
                    labels={i: tell_mass(i) for i in range(100, 164)})  # fmt: skip
    write_run(root / "RUN", "model.ct=tiny3d")
    (root / "mass.toml").write_text('[labels]\nmass_left = ["Left mass"]\n')
    return root


def test_a_run_is_judged_on_external_data_by_probes_of_its_own(
    trained: Path, tmp_path: Path
) -> None:
    told = (trained / "EXT" / "CXR", "--checkpoint", f"mine={trained / 'RUN'}", "--mapping",
            trained / "mass.toml")  # fmt: skip
    metrics = judge(tmp_path / "E", *told, "--train-on", trained / "OWN" / "CXR")
    assert find(metrics, WHOLE, "AUROC")["mass_left"] > 0.9
    assert metrics["facts"]["labels"] == ["mass_left"]
    assert (metrics["facts"]["rows"], metrics["facts"]["train_patients"]) == (16, 48)
    wrong = judge(tmp_path / "W", *told)  # without it they learn from the external train split
    assert find(wrong, WHOLE, "AUROC")["mass_left"] < 0.1
    kept = tmp_path / "E" / "embeddings" / "mine"
    again = judge(tmp_path / "AGAIN", "--embeddings", kept, "--mapping", trained / "mass.toml")
    assert find(again, WHOLE, "AUROC") == find(metrics, WHOLE, "AUROC")
    people = set(pd.read_parquet(kept / "rows.parquet")["patient_id"])
    assert {"p000", "p163"} <= people and "p100" not in people  # it learns from none of these


def test_a_run_is_not_judged_on_patients_it_learns_from(trained: Path, tmp_path: Path) -> None:
    """All rows of the external data are of one patient, who has a row to learn from too."""
    splits = dict.fromkeys(range(100, 104), "test")
    write_trainable(tmp_path / "EXT", n=4, first=100, splits=splits, patient_id="p003")
    code, said = call(tmp_path / "EXT" / "CXR", "--checkpoint", trained / "RUN", "--train-on",
                      trained / "OWN" / "CXR", "--out", tmp_path / "E", *QUICK)  # fmt: skip
    assert code == 2 and "1 patients are in both data sets, such as p003" in said, said
