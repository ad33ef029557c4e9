"""From a data set to an exported encoder, by the commands a user types."""

from pathlib import Path

import pytest
import torch
from trainable import write_trainable
from typer.testing import CliRunner

from drrgen.cli import app

TINY = ("--set", "data.batch=8", "--set", "optim.epochs=2", "--set", "model.dim=16",
        "--set", "data.dev_share=0.3", "--set", "optim.warmup_steps=0")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_trainable(tmp_path, n=24, with_ct=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("drrgen.jobs.runner.HANDFUL", 1000)
    return tmp_path


def call(*words: str, code: int = 0) -> str:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = CliRunner().invoke(app, list(words))
    torch.set_num_threads(threads)
    assert result.exit_code == code, result.output
    return result.output


def test_the_commands_of_both_stages_run_one_after_the_other(folder: Path) -> None:
    call("pack", "CXR", "--out", "PACK", "--size", "40", "--ct-dir", "CT")
    call("train", "CXR", "--recipe", "stage1", "--pack", "PACK", "--out", "S1", *TINY)
    call("embed", "CXR", "--of", "ct", "--encoder", "run:S1", "--ct-dir", "CT", "--out", "E/ct")
    call("embed", "CXR", "--of", "report", "--encoder", "run:S1", "--out", "E/report")
    train = ("train", "CXR", "--recipe", "stage2", "--pack", "PACK", "--targets", "E/ct",
             "--targets", "E/report", "--out", "S2", "--set", "model.cxr=tiny:32", *TINY)  # fmt: skip
    said = call(*train)
    assert "S2/best.safetensors" in said and "mean of 1/rank" in said
    assert "nothing to do: this run has come to its end" in call(*train)
    assert "MODEL/model.onnx" in call("export-model", "S2", "--to", "MODEL")
    said = call("embed", "CXR", "--of", "cxr", "--encoder", "run:S2", "--out", "E/cxr")
    assert "24 to embed, 0 there already" in said
    assert "0 to embed, 24 there already" in call(
        "embed", "CXR", "--of", "cxr", "--encoder", "run:S2", "--out", "E/cxr"
    )
    said = call("embed", "CXR", "--of", "report", "--encoder", "hashed", "--out", "E/ct", code=1)
    assert "was made with other settings" in said


def test_a_training_that_gets_no_better_says_why_it_stopped(folder: Path) -> None:
    call("pack", "CXR", "--out", "PACK", "--size", "40", "--ct-dir", "CT")
    said = call("train", "CXR", "--recipe", "stage1", "--pack", "PACK", "--out", "S3", *TINY, "--set",
                "optim.epochs=9", "--set", "run.patience=1", "--set", "optim.lr=1e-12")  # fmt: skip
    assert "stopped after epoch" in said and "no better on the dev patients for 1 looks" in said


def test_a_dry_run_prints_the_settings_and_trains_nothing(folder: Path) -> None:
    said = call("train", "CXR", "--out", "RUN", "--dry-run", "--set", "optim.lr=0.125")
    assert "lr = 0.125  # learning rate" in said and 'cxr = "hf:swin-tiny"' in said
    assert not (folder / "RUN").exists()


def test_wrong_words_end_with_the_code_of_wrong_usage(folder: Path) -> None:
    assert "did you mean" in call("train", "CXR", "--out", "RUN", "--set", "optim.epoch=1", code=2)
    assert "no report encoder" in call(
        "embed", "CXR", "--of", "report", "--encoder", "bert", "--out", "E", code=2
    )
    assert "no finished manifest" in call("pack", "nowhere", "--out", "PACK", code=1)


def test_a_ct_that_is_gone_is_a_failed_row_and_exit_code_three(folder: Path) -> None:
    (folder / "CT" / "s003.nii.gz").unlink()
    call(
        "embed", "CXR", "--of", "ct", "--encoder", "tiny3d", "--ct-dir", "CT", "--out", "E", code=3
    )


def test_weights_of_ct_clip_are_converted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weights import TINY_CT, TINY_TEXT, make_state

    monkeypatch.setattr("drrgen_training.ctclip.load.CTShape", lambda: TINY_CT)
    monkeypatch.setattr("drrgen_training.ctclip.load.TextShape", lambda: TINY_TEXT)
    torch.save(make_state(), folder / "CT-CLIP_v2.pt")
    said = call("export-model", "CT-CLIP_v2.pt", "--ct-clip", "--to", "WEIGHTS")
    assert "WEIGHTS/ct.safetensors" in said and "WEIGHTS/text.safetensors" in said
