import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from drrgen_training.encoders import make_image_encoder
from drrgen_training.export import export_run, make_onnx
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, Tower, TriModal, load_run, save_model
from drrgen_training.settings import TrainSettings, read_settings

from drrgen.errors import EngineError, InputError

IDENTITY = {"targets": {"ct": "0a1b", "report": "2c3d"}, "dataset": "feed", "rows": 360,
            "settings": "beef"}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose encoder has random weights."""
    settings: TrainSettings = read_settings(None, ("model.cxr=tiny:32", "model.dim=24"))
    told = {"step": 7, "epoch": 1, "score": 0.25, "identity": IDENTITY}
    save_model(tmp_path / "RUN" / BEST, TriModal(settings).own_state(), settings, told)
    return tmp_path / "RUN"


def test_what_is_exported_embeds_as_the_run_does(run: Path, tmp_path: Path) -> None:
    written = export_run(run, tmp_path / "MODEL")
    assert [path.name for path in written] == [
        "model.safetensors", "config.json", "README.md", "model.onnx"
    ]  # fmt: skip
    grey = torch.rand(5, 32, 32)
    with torch.no_grad():
        wanted = load_run(run, Modality.CXR).eval()(grey).numpy()
        again = (
            load_run(tmp_path / "MODEL" / "model.safetensors", Modality.CXR).eval()(grey).numpy()
        )
    np.testing.assert_array_equal(again, wanted)
    session = onnxruntime.InferenceSession(
        tmp_path / "MODEL" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["embedding"], {"grey": grey.numpy()})
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_card_tells_data_settings_and_limits(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "MODEL", with_onnx=False)
    card = (tmp_path / "MODEL" / "README.md").read_text()
    for words in ("Not a medical device", "`tiny:32`", "32 x 32", "24 numbers", "ct `0a1b`",
                  "fingerprint `feed`", "360 radiographs", "0.2500", "alpha 0, beta 1, gamma 1"):  # fmt: skip
        assert words in card
    assert json.loads((tmp_path / "MODEL" / "config.json").read_text())["model"]["dim"] == 24
    assert not (tmp_path / "MODEL" / "model.onnx").exists()


@pytest.mark.slow
def test_an_export_that_disagrees_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("drrgen_training.export.ONNX_TOL", -1.0)
    with pytest.raises(EngineError, match=r"the ONNX file and torch differ by"):
        make_onnx(Tower(make_image_encoder("tiny:32"), 8).eval(), 32)


def test_without_onnx_installed_it_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript, which is not installed; pip install"):
        export_run(run, tmp_path / "MODEL")


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model of drrgen train"):
        export_run(tmp_path, tmp_path / "MODEL")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf:swin-tiny", "hf:resnet-50", "mobilenet-v2"])
def test_the_large_encoders_export_too(name: str) -> None:
    assert len(make_onnx(Tower(make_image_encoder(name), 512).eval(), 224)) > 5_000_000
