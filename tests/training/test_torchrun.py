"""Two processes of torchrun train to what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drrgen_training.losses import Modality
from drrgen_training.model import LAST, read_model
from drrgen_training.reports import Template
from drrgen_training.samples import read_samples
from drrgen_training.targets import embed, identify
from trainable import write_trainable

ROOT = Path(__file__).parents[2]
SET = ("model.cxr=tiny:32", "model.dim=2048", "data.batch=8", "optim.epochs=2", "optim.lr=1e-3",
       "optim.warmup_steps=0", "data.dev_share=0.3", "loss.gamma=0", "loss.scale=learned",
       "data.crop=0", "data.brightness=0", "data.contrast=0")  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_to_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without augmentation, whose chance is each process's own."""
    monkeypatch.setattr("drrgen.jobs.runner.HANDFUL", 1000)
    samples = read_samples(write_trainable(tmp_path, n=24))
    told = identify(Modality.REPORT, "hashed", Template.SECTIONS)
    list(embed(samples, told, tmp_path / "EMB"))
    path = os.pathsep.join(map(str, (ROOT, ROOT / "pipelines", ROOT / "training")))
    (tmp_path / "go.py").write_text("from drrgen.cli import main\nmain()\n")
    words = ["go.py", "train", "CXR", "--recipe", "stage2", "--targets", "EMB", "-q",
             *(w for each in SET for w in ("--set", each))]  # fmt: skip
    for out, start in (
        ("one", [sys.executable]),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
    ):  # fmt: skip
        done = subprocess.run(
            [*start, *words, "--out", out], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = (read_model(tmp_path / out / LAST)[0] for out in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=5e-4)
