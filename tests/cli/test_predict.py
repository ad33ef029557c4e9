import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from drrgen_training.export import export_run
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, TriModal, save_model
from drrgen_training.reports import Template
from drrgen_training.settings import read_settings
from drrgen_training.targets import identify
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.io.radiographs import write_radiograph

runner = CliRunner()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of random weights, and two pictures beside it."""
    told = identify(Modality.REPORT, "hashed", Template.SECTIONS)
    settings = read_settings(None, ("model.cxr=tiny:32", f"model.dim={told.dim}"))
    identity = {"pack": None, "targets": {"report": told.encoder_id}, "dataset": "d", "rows": 2,
                "settings": "s"}  # fmt: skip
    facts = {"identity": identity, "step": 1, "epoch": 1, "score": 0.5}
    save_model(tmp_path / "RUN" / BEST, TriModal(settings).own_state(), settings, facts)
    (tmp_path / "RUN" / "config.toml").write_text(settings.to_toml())
    for i, name in enumerate(("a.png", "sub/b.png")):
        grey = torch.rand((40, 30), generator=torch.Generator().manual_seed(i))
        write_radiograph(tmp_path / "I" / name, grey)
    return tmp_path / "RUN"


def call(run: Path, *words: object, images: object = None) -> tuple[int, str]:
    folder = run.parent
    result = runner.invoke(app, [
        "predict", "--checkpoint", str(run), "--images", str(images or folder / "I"), "--out",
        str(folder / "O"), *map(str, words),
    ])  # fmt: skip
    return result.exit_code, " ".join(f"{result.output} {result.exception!r}".split())


def test_a_folder_becomes_a_table_vectors_and_a_page(run: Path) -> None:
    labels = run.parent / "labels.txt"
    labels.write_text("\ufeffMass\n\nEmphysema\n", encoding="utf-8")
    code, said = call(run, "--report-encoder", "hashed", "--label", "Nodule", "--labels", labels)
    assert code == 0, said
    table = pd.read_csv(run.parent / "O" / "predictions.csv")
    assert table["path"].tolist() == ["a.png", "sub/b.png"]
    assert list(table)[6:] == ["Nodule", "Mass", "Emphysema"]
    assert table["Mass"].between(0, 1).all() and set(table["status"]) == {"ok"}
    assert "index.html" in said and (run.parent / "O" / "embeddings.parquet").exists()


def test_a_file_and_a_glob_are_taken_too(run: Path) -> None:
    for images in (run.parent / "I" / "a.png", run.parent / "I" / "*.png"):
        code, said = call(run, "--format", "parquet", "-q", images=images)
        assert code == 0, said
        table = pd.read_parquet(run.parent / "O" / "predictions.parquet")
        assert table["path"].tolist() == ["a.png"]


def test_what_was_exported_tells_the_same(run: Path) -> None:
    export_run(run, run.parent / "MODEL", with_onnx=False)
    tables = []
    for model in (run, run.parent / "MODEL", run / BEST):
        code, said = call(run, "--checkpoint", model, "--report-encoder", "hashed")
        assert code == 0, said
        tables.append(pd.read_csv(run.parent / "O" / "predictions.csv"))
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_some_that_cannot_be_read_are_exit_code_3(run: Path) -> None:
    (run.parent / "I" / "z.png").write_bytes(b"rubbish")
    (run.parent / "I" / "notes.txt").touch()
    code, said = call(run, "--page-limit", 1)
    assert code == 3 and "note: embeddings only" in said and "not_radiograph" in said, said
    table = pd.read_csv(run.parent / "O" / "predictions.csv")
    assert table["status"].tolist() == ["ok", "ok", "refused"]
    assert (run.parent / "O" / "index.html").read_text().count("<article>") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--like", "X"), 2, "--targets"),
        (("--labels", "EMPTY"), 2, "names no finding"),
        (("--labels", "BINARY"), 2, "no text in UTF-8"),
        (("--labels", "NONE"), 1, "No such file"),
        (("--label", "Mass"), 2, "labels need an encoder of reports"),
        (("--checkpoint", "NONE"), 2, "holds no model of drrgen train"),
        (("--checkpoint", "BINARY.safetensors"), 2, "holds no model of drrgen train"),
        (("--images", "NONE"), 2, "NONE"),
        (("--images", "VOID"), 2, "no radiograph in"),
        (("--out", "EMPTY"), 2, "cannot be written"),
        (("--report-encoder", "hashed", "--label", "view"), 2, "called view"),
        (("--device", "cuda:7"), 1, "cuda:7"),
    ],
)
def test_what_is_wrong_is_said(run: Path, words: tuple[str, ...], code: int, said: str) -> None:
    folder = run.parent
    (folder / "EMPTY").touch()
    (folder / "VOID").mkdir()
    for name in ("BINARY", "BINARY.safetensors"):
        (folder / name).write_bytes(b"\xff\xfe\x00\x01")
    places = ("EMPTY", "BINARY", "BINARY.safetensors", "NONE", "VOID", "X")
    found, told = call(run, *(folder / w if w in places else w for w in words))
    assert found == code and said in told, told
    assert not (folder / "O" / "predictions.csv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_is_told(run: Path) -> None:
    (run.parent / "O").mkdir(mode=0o500)
    code, said = call(run)
    assert code == 2 and "cannot be written" in said
