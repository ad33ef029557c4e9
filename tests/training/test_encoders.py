import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from drrgen_training.encoders import (
    HashedText,
    ImageSpec,
    hash_text,
    make_ct_encoder,
    make_image_encoder,
    make_report_encoder,
)
from drrgen_training.mobilenet import MobileNetV2
from drrgen_training.reports import Template, drop_sentences, make_text, name_text
from torch import Tensor, nn
from weights import TINY_CT, TINY_TEXT, make_state

from drrgen.errors import ConfigError, InputError
from drrgen.phantoms import make_torso


def save_vision(folder: Path, *, preprocessor: bool = True) -> Path:
    """A tiny ViT as a folder of transformers."""
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, num_channels=3,
    )  # fmt: skip
    hf.ViTModel(config).save_pretrained(folder)
    if preprocessor:
        told = {
            "size": {"height": 32, "width": 32},
            "image_mean": [0.1] * 3,
            "image_std": [0.7] * 3,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def save_bert(folder: Path, *, takes_mean: bool) -> Path:
    """A tiny BERT as a folder of transformers, with a vocabulary."""
    config = hf.BertConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    hf.BertModel(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "no", "left", "effusion", "small", "."]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "1_Pooling").mkdir()
    told = json.dumps({"pooling_mode_mean_tokens": takes_mean})
    (folder / "1_Pooling" / "config.json").write_text(told)
    return folder


def test_the_tiny_encoder_is_small_and_never_mixes_samples() -> None:
    encoder = make_image_encoder("tiny:64").train()
    assert sum(p.numel() for p in encoder.parameters()) < 400_000
    grey = torch.rand(3, 64, 64)
    assert encoder(grey).shape == (3, encoder.width)
    torch.testing.assert_close(encoder(grey)[1:2], encoder(grey[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "width", "millions"), [("hf:swin-tiny", 768, 27.5), ("hf:resnet-50", 2048, 23.5), ("mobilenet-v2", 1280, 2.2)])  # fmt: skip
def test_the_named_encoders_have_the_published_sizes(
    name: str, width: int, millions: float
) -> None:
    encoder = make_image_encoder(name).eval()
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(millions * 1e6, rel=0.02)
    assert encoder.width == width
    assert encoder.spec.size == 224 and len(encoder.spec.mean) == 3
    with torch.no_grad():
        assert encoder(torch.rand(1, 224, 224)).shape == (1, width)


def test_swin_is_normalised_by_halves_and_resnet_by_imagenet() -> None:
    assert make_image_encoder("hf:swin-tiny").spec.mean == (0.5, 0.5, 0.5)
    assert make_image_encoder("hf:resnet-50").spec.mean == (0.485, 0.456, 0.406)


def test_a_folder_of_transformers_says_what_it_wants_to_see(tmp_path: Path) -> None:
    encoder = make_image_encoder(f"hf:{save_vision(tmp_path / 'vit')}")
    assert encoder.spec == ImageSpec(size=32, mean=(0.1,) * 3, std=(0.7,) * 3)
    assert encoder(torch.rand(2, 32, 32)).shape == (2, 16)
    plain = make_image_encoder(f"hf:{save_vision(tmp_path / 'plain', preprocessor=False)}")
    assert plain.spec == ImageSpec(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_weights_of_imagenet_load_into_mobilenet_and_others_are_told(tmp_path: Path) -> None:
    """The published file has a classifier beside the features; it is left out."""
    donor = MobileNetV2()
    state = donor.state_dict() | {"classifier.1.weight": torch.zeros(1000, 1280)}
    torch.save(state, tmp_path / "mobilenet_v2.pth")
    encoder = make_image_encoder("mobilenet-v2", tmp_path / "mobilenet_v2.pth")
    for name, tensor in encoder.body.state_dict().items():
        assert torch.equal(tensor, state[name])
    with pytest.raises(InputError, match=r"does not fit the encoder: .* tensors are missing"):
        make_image_encoder("tiny", tmp_path / "mobilenet_v2.pth")


@pytest.mark.slow
def test_weights_of_a_hub_model_load_with_and_without_its_prefix(tmp_path: Path) -> None:
    state = make_image_encoder("hf:resnet-50").body.state_dict()
    bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    torch.save(bare, tmp_path / "r50.pt")
    loaded = make_image_encoder("hf:resnet-50", tmp_path / "r50.pt").body.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_hashed_text_knows_negation_and_ignores_case() -> None:
    def near(a: str, b: str) -> float:
        return float(hash_text(a, 2048) @ hash_text(b, 2048))

    assert near("No pleural effusion.", "no pleural effusion") == pytest.approx(1)
    assert near("There is pleural effusion.", "There is no pleural effusion.") < 0.6
    assert near("No nodule. Large effusion.", "Large effusion.") > near(
        "No nodule. Large effusion.", "No effusion."
    )
    assert near("Cardiomegaly.", "Bronchiectasis.") == pytest.approx(0, abs=0.1)
    assert not hash_text("", 8).any()


def test_hashed_text_is_the_same_in_every_process() -> None:
    """Python's own hash is not."""
    made = hash_text("left pleural effusion", 64)
    assert np.nonzero(made)[0].tolist() == HASHED_PLACES
    assert HashedText(64)(["left pleural effusion"]).tolist() == [made.tolist()]


HASHED_PLACES = [4, 12, 22, 40, 45, 59]


@pytest.mark.parametrize("takes_mean", [True, False])
def test_a_text_model_pools_as_its_folder_says(tmp_path: Path, takes_mean: bool) -> None:
    encoder = make_report_encoder(
        f"hf:{save_bert(tmp_path / 'bert', takes_mean=takes_mean)}"
    ).eval()
    texts = ["No effusion.", "Small left effusion . no left"]
    with torch.no_grad():
        both, alone = encoder(texts), encoder(texts[:1])
        states = encoder.model(input_ids=torch.tensor([[2, 4, 6, 8, 3]])).last_hidden_state[0]
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone[0], states.mean(0) if takes_mean else states[0])


def test_ct_clip_is_an_encoder_of_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drrgen_training.ctclip.load.CTShape", lambda: TINY_CT)
    monkeypatch.setattr("drrgen_training.ctclip.load.TextShape", lambda: TINY_TEXT)
    state = make_state()
    torch.save(state, tmp_path / "CT-CLIP_v2.pt")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(TINY_TEXT.words - 4))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    ct = make_ct_encoder(f"ctclip:{tmp_path / 'CT-CLIP_v2.pt'}")
    report = make_report_encoder(f"ctclip:{tmp_path / 'CT-CLIP_v2.pt'}")
    assert ct.is_final and report.is_final and ct.width == report.width == 12
    assert ct.scale == report.scale == pytest.approx(state["temperature"].exp().item())
    assert ct(torch.zeros(1, 1, *TINY_CT.volume)).norm().item() == pytest.approx(1, abs=1e-5)
    assert report(["w1 w2", "w3"]).shape == (2, 12)
    (tmp_path / "vocab.txt").write_text("\n".join(words[:-1]))
    with pytest.raises(InputError, match=r"vocab.txt has 39 pieces, the weights have 40"):
        make_report_encoder(f"ctclip:{tmp_path / 'CT-CLIP_v2.pt'}")


def test_the_small_ct_encoder_sees_the_whole_ct_as_zero_to_one() -> None:
    encoder = make_ct_encoder("tiny3d")
    for spacing_mm in (4.0, 12.0):  # finer and coarser than its grid
        made = encoder.prepare(make_torso(spacing_mm=spacing_mm, height_mm=200.0))
        assert made.shape == (1, 48, 64, 64)
        assert made.min() >= 0 and made.max() <= 1
        assert made[0, 0, 0, 0] == 0  # a corner: air
    assert encoder(torch.rand(2, 1, 48, 64, 64)).shape == (2, encoder.width)


class Own(nn.Module):
    width, spec, scale, is_final = 3, None, None, False

    def prepare(self, volume: object) -> Tensor:
        return torch.zeros(1, 1, 1, 1)


def test_an_encoder_of_ones_own_is_taken_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("my_encoders")
    module.make, module.bad = Own, nn.Identity  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_encoders", module)
    assert isinstance(make_ct_encoder("python:my_encoders:make"), Own)
    with pytest.raises(ConfigError, match="a Identity that lacks width, spec"):
        make_ct_encoder("python:my_encoders:bad")
    with pytest.raises(ConfigError, match="python:my_encoders:none cannot be had"):
        make_ct_encoder("python:my_encoders:none")


def test_unknown_encoders_are_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no radiograph encoder 'swin'; wanted tiny"):
        make_image_encoder("swin")
    with pytest.raises(ConfigError, match=r"no report encoder 'bert'; wanted hashed"):
        make_report_encoder("bert")
    with pytest.raises(ConfigError, match=r"no CT encoder 'vit'; wanted tiny3d"):
        make_ct_encoder("vit")
    with pytest.raises(InputError, match="no folder of transformers"):
        make_image_encoder(f"hf:{tmp_path}")
    with pytest.raises(ConfigError, match="an image encoder of size 4"):
        make_image_encoder("tiny:4")


def test_reports_become_text_by_named_rules() -> None:
    both = ("Heart (large).", "Effusion.")
    assert make_text(*both, Template.SECTIONS) == "Heart (large). Effusion."
    assert make_text(*both, Template.FINDINGS) == "Heart (large)."
    assert make_text(*both, Template.IMPRESSION) == "Effusion."
    assert make_text(*both, Template.CTCLIP) == "Heart large.Effusion."
    assert make_text("Not given.", None, Template.SECTIONS) is None
    assert make_text("nan", "A.", Template.SECTIONS) == "A."
    assert drop_sentences("A. B? C!", [False, True]) == "B?"
    assert drop_sentences("A. B.", [False]) == "A. B."
    assert name_text("a") == name_text("a") != name_text("b")
