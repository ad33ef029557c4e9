from pathlib import Path

import numpy as np
import pytest
import torch
from drrgen_training.encoders import make_report_encoder
from drrgen_training.evaluate import HeldOut, embed_test, measure_test
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, Tower, TriModal, save_model
from drrgen_training.pictures import PackSettings, PictureFiles
from drrgen_training.reports import Template
from drrgen_training.samples import read_samples
from drrgen_training.settings import read_settings
from drrgen_training.targets import embed, identify, read_targets
from drrgen_training.volumes import find_places
from trainable import write_trainable

from drrgen.errors import InputError


def make_perfect(n: int = 24) -> tuple[HeldOut, Tower]:
    """Radiographs and CT whose vectors are those of a sentence on their labels."""
    torch.manual_seed(0)
    tower = Tower(make_report_encoder("hashed"), None)
    labels = {"Mass": np.arange(n) % 2, "Cyst": np.arange(n) % 3 // 2, "Rare": np.arange(n) == 0}
    texts = [
        " ".join(f"There is {'' if on[i] else 'no '}{name.lower()}." for name, on in labels.items())
        for i in range(n)
    ]  # fmt: skip
    vectors = tower(texts).numpy()
    _, report = np.unique(texts, return_inverse=True)
    whole = {name: np.asarray(on, dtype=np.int64) for name, on in labels.items()}
    return HeldOut(
        vectors=dict.fromkeys(("cxr", "ct", "report"), vectors), report=report, labels=whole
    ), tower


def test_perfect_vectors_get_perfect_numbers_beside_chance() -> None:
    test, tower = make_perfect()
    lines = {(line.task, line.measure): line for line in measure_test(test, tower)}
    assert (
        lines["cxr to report", "recall@1"].value == 1.0 > lines["cxr to report", "recall@1"].chance
    )
    assert lines["report to ct", "median rank"].value == 1.0
    assert lines["zero-shot from cxr", "AUROC Mass"].value == 1.0
    assert lines["zero-shot from ct", "macro AUROC"].chance == 0.5
    assert ("zero-shot from cxr", "AUROC Rare") not in lines  # one positive says nothing


def test_only_test_studies_are_measured_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drrgen.jobs.runner.HANDFUL", 1000)
    splits = dict.fromkeys(range(6), "test")
    data = write_trainable(tmp_path, n=10, views=("PA", "LL"), splits=splits, with_ct=True)
    samples = read_samples(data)
    settings = read_settings(None, ("model.cxr=tiny:32", "model.dim=256"))
    model = TriModal(settings)
    save_model(tmp_path / "RUN" / BEST, model.own_state(), settings, {})
    targets = {}
    for modality, encoder in ((Modality.CT, "tiny3d"), (Modality.REPORT, "hashed")):
        told = identify(modality, encoder, Template.SECTIONS)
        list(embed(samples, told, tmp_path / modality, places=find_places(data, tmp_path / "CT")))
        targets[modality.value] = read_targets(tmp_path / modality)
    pictures = PictureFiles(samples, PackSettings(size=36))
    test = embed_test(samples, pictures, tmp_path / "RUN", targets)
    assert {name: v.shape for name, v in test.vectors.items()} == {
        "cxr": (6, 256), "ct": (6, 256), "report": (6, 2048)
    }  # fmt: skip
    assert test.labels["Left mass"].tolist() == [1, 0, 1, 0, 1, 0]
    none = samples.take(np.flatnonzero([row["split"] == "train" for row in samples.rows]))
    with pytest.raises(InputError, match=r"has 0 test radiographs with embedded CT and report"):
        embed_test(none, pictures, tmp_path / "RUN", targets)
