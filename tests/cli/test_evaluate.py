import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, TriModal, save_model
from drrgen_training.reports import Template
from drrgen_training.samples import read_samples
from drrgen_training.settings import read_settings
from drrgen_training.targets import embed, identify
from drrgen_training.volumes import find_places
from trainable import write_run, write_trainable
from typer.testing import CliRunner

from drrgen.cli import app

runner = CliRunner()
QUICK = ("--replicates", "100", "-q")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a run of random weights, and the targets that it could have been trained on."""
    root = tmp_path_factory.mktemp("evaluate")
    splits = dict.fromkeys(range(16, 32), "test") | dict.fromkeys(range(12, 16), "dev")
    data = write_trainable(root, n=32, splits=splits, with_ct=True)
    samples = read_samples(data)
    write_run(root / "RUN")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drrgen.jobs.runner.HANDFUL", 1000)
        told = identify(Modality.CT, "tiny3d", Template.SECTIONS)
        list(embed(samples, told, root / "ct", places=find_places(data, root / "CT")))
    return root


def call(*words: object) -> tuple[int, str]:
    result = runner.invoke(app, ["evaluate", *map(str, words)])
    return result.exit_code, f"{result.output} {result.exception!r}"


def test_a_run_and_its_baselines_are_judged_and_kept(trained: Path, tmp_path: Path) -> None:
    code, said = call(
        trained / "CXR", "--checkpoint", f"mine={trained / 'RUN'}", "--targets", trained / "ct",
        "--baseline", "chance", "--baseline", "pixels", "--baseline", "supervised",
        "--baseline", "ct", "--out", tmp_path / "E", *QUICK,
    )  # fmt: skip
    assert code == 0, said
    metrics = json.loads((tmp_path / "E" / "metrics.json").read_text())
    models = ["mine", "chance", "pixels", "supervised", "ct"]
    assert metrics["schema_version"] == 1 and metrics["facts"]["models"] == models
    found = {(s["model"], s["task"], s["measure"]): s["value"] for s in metrics["scores"]}
    assert ("supervised", "classifier", "macro AUROC") in found
    assert ("pixels", "probe of cxr, 100 %", "macro AUROC") in found
    assert ("chance", "cxr to ct", "recall@5") in found
    predictions = pd.read_parquet(tmp_path / "E" / "predictions.parquet")
    assert set(predictions["label"]) == {"Left mass", "Upper mass"} and "supervised" in set(
        predictions["model"]
    )
    assert (tmp_path / "E" / "index.html").stat().st_size > 10_000
    again = tmp_path / "AGAIN"
    kept = tmp_path / "E" / "embeddings"
    code, said = call("--embeddings", kept / "mine", "--embeddings", f"other={kept / 'pixels'}",
                      "--out", again, *QUICK)  # fmt: skip
    assert code == 0, said
    read = json.loads((again / "metrics.json").read_text())
    same = {(s["model"], s["task"], s["measure"]): s["value"] for s in read["scores"]}
    assert same["mine", "cxr to ct", "recall@5"] == found["mine", "cxr to ct", "recall@5"]
    assert read["facts"]["models"] == ["mine", "other"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to judge"),
        (("DATA",), "a data set goes with --checkpoint RUN"),
        (("--embeddings", "NONE"), "is no table of embeddings"),
        (("DATA", "--checkpoint", "NONE"), "is no run of drrgen train"),
        (("--embeddings", "A", "--baseline", "luck"), "there is no baseline luck"),
        (("--embeddings", "A", "--baseline", "pixels"), "need the radiographs"),
        (("--embeddings", "A=x", "--embeddings", "A=y"), "two models are called A"),
        (
            ("DATA", "--checkpoint", "RUN", "--embeddings", "A", "--train-on", "DATA"),
            "cannot be both",
        ),
        (("--embeddings", "A", "--prompts", "none"), "is no table of embeddings"),
        (("DATA", "--checkpoint", "RUN", "--baseline", "mean-projection"), "with --ct-dir"),
        (("--embeddings", "../x=A"), "wanted NAME=FOLDER"),
        (("--embeddings", "..=A"), "wanted NAME=FOLDER"),
        (("--embeddings", "\udcff=A"), "wanted NAME=FOLDER"),
        (("--embeddings", "x="), "wanted NAME=FOLDER"),
        (("--embeddings", "A", "--targets", "B"), "--targets go with a data set"),
    ],
)
def test_what_is_wrong_is_said(trained: Path, tmp_path: Path, words: tuple, said: str) -> None:
    places = {"DATA": trained / "CXR", "RUN": trained / "RUN"}
    code, found = call(*(places.get(w, w) for w in words), "--out", tmp_path / "E", *QUICK)
    assert code in (1, 2) and said in " ".join(found.split()), found


def test_an_output_that_cannot_be_written_is_told_before_anything_is_judged(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    code, said = call("--embeddings", "NONE", "--out", tmp_path / "file", *QUICK)
    assert code == 2 and "cannot be written" in said, said


def test_a_folder_with_an_equals_sign_is_no_name(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"
    shutil.copytree(trained / "RUN", folder)
    for words, name in ((folder, "lr=0.1"), (f"mine={folder}", "mine")):
        code, said = call(trained / "CXR", "--checkpoint", words, "--targets", trained / "ct",
                          "--no-probes", "--out", tmp_path / "E", *QUICK)  # fmt: skip
        assert code == 0, said
        metrics = json.loads((tmp_path / "E" / "metrics.json").read_text())
        assert metrics["facts"]["models"] == [name]
        assert (tmp_path / "E" / "embeddings" / name / "rows.parquet").is_file()


def test_targets_that_a_run_was_not_trained_on_are_refused(trained: Path, tmp_path: Path) -> None:
    settings = read_settings(trained / "RUN" / "config.toml")
    shutil.copytree(trained / "RUN", tmp_path / "R")
    save_model(tmp_path / "R" / BEST, TriModal(settings).own_state(), settings,
               {"identity": {"targets": {"ct": "another"}}})  # fmt: skip
    code, said = call(trained / "CXR", "--checkpoint", tmp_path / "R", "--targets", trained / "ct",
                      "--out", tmp_path / "E", *QUICK)  # fmt: skip
    assert code == 1 and "was trained on another" in " ".join(said.split()), said


def test_a_patient_in_both_data_sets_is_refused(trained: Path, tmp_path: Path) -> None:
    splits = dict.fromkeys(range(16), "test")
    write_trainable(tmp_path, n=32, splits=splits)  # the same patients, the other way round
    code, said = call(
        trained / "CXR", "--checkpoint", trained / "RUN", "--targets", trained / "ct",
        "--train-on", tmp_path / "CXR", "--out", tmp_path / "E", *QUICK,
    )  # fmt: skip
    assert code == 2 and "16 rows are in both data sets" in " ".join(said.split()), said


def test_a_run_without_its_targets_is_told(trained: Path, tmp_path: Path) -> None:
    code, said = call(trained / "CXR", "--checkpoint", trained / "RUN", "--out", tmp_path, *QUICK)
    assert code == 2 and "drrgen embed" in " ".join(said.split()), said
