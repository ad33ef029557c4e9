from pathlib import Path

import numpy as np
import pytest
import torch
from drrgen_training.evaluation.classification import measure_auroc
from drrgen_training.evaluation.embed import read_labels
from drrgen_training.pictures import PackSettings, PictureFiles
from drrgen_training.samples import read_samples
from drrgen_training.supervised import SupervisedSettings, classify, fit_supervised
from trainable import write_trainable

from drrgen.errors import InputError

SETTINGS = SupervisedSettings(encoder="tiny:32", steps=120, batch=16)


def test_a_classifier_learns_what_pictures_tell_and_the_same_again(tmp_path: Path) -> None:
    samples = read_samples(write_trainable(tmp_path, n=56))
    pictures, labels = PictureFiles(samples, PackSettings(size=36)), read_labels(samples)
    rows = np.arange(40)
    model = fit_supervised(pictures, rows, labels, SETTINGS)
    scores, features = classify(model, pictures, 56)
    assert scores.shape == (56, 2) and features.shape[0] == 56
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)
    for i, name in enumerate(labels):
        assert measure_auroc(scores[40:, i].astype(float), labels[name][40:]) > 0.9
    again = fit_supervised(pictures, rows, labels, SETTINGS)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_unknown_labels_cost_nothing(tmp_path: Path) -> None:
    """A label that nobody tells leaves its line of the head as it began."""
    samples = read_samples(write_trainable(tmp_path, n=8))
    pictures = PictureFiles(samples, PackSettings(size=36))
    labels = {"known": np.arange(8) % 2, "unknown": np.full(8, -1)}
    quick = SupervisedSettings(encoder="tiny:32", steps=20, batch=8, weight_decay=0.0)
    trained = fit_supervised(pictures, np.arange(8), labels, quick).head.weight
    torch.manual_seed(0)
    from drrgen_training.encoders import make_image_encoder
    from drrgen_training.supervised import Classifier

    fresh = Classifier(make_image_encoder("tiny:32"), 2).head.weight
    assert torch.equal(trained[1], fresh[1]) and not torch.equal(trained[0], fresh[0])
    with pytest.raises(InputError, match="0 radiographs with 2 labels"):
        fit_supervised(pictures, np.zeros(0, np.int64), labels, quick)
