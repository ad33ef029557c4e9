"""The registry of encoders: a name makes a module that knows what it wants to see.

An encoder has ``width`` (of its features), ``spec`` (of its input; a report encoder takes texts),
and ``scale``: the factor of the cosines that it was trained with, where it was. ``is_final`` says
that its features are an embedding already, so that it goes without a head.
"""

import functools
import importlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from drrgen.errors import ConfigError, InputError
from drrgen.volume import CTVolume
from drrgen_training.ctclip.load import load_ct, load_text, read_state
from drrgen_training.ctclip.prepare import SIZE_ZXY, prepare_volume, to_lps
from drrgen_training.ctclip.text import TextTower, WordPieces
from drrgen_training.mobilenet import WIDTH as MOBILENET_WIDTH
from drrgen_training.mobilenet import MobileNetV2

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
HASHED_WIDTH = 2048
_PATCH = 4  # pixels or voxels, of the small encoders
_NEGATIONS = {"no", "not", "without", "free", "negative", "absence", "neither", "nor", "denies"}
_WORD = re.compile(r"[a-z0-9]+|[.;:!?]")
_ADVICE = "see training/README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """What a radiograph encoder wants to see; black is 0 and white is 1 before ``mean``, ``std``.

    Attributes:
        size: Rows and columns [pixels].
        mean: Subtracted, for each channel; as many channels as numbers.
        std: Divided by, for each channel.
    """

    size: int
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096 or not len(self.mean) == len(self.std) > 0:
            raise ConfigError(
                f"an image encoder of size {self.size}, mean {self.mean}, std {self.std}; wanted 8 "
                "to 4096 pixels, and as many means as deviations"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec:
    """What a CT encoder wants to see.

    Attributes:
        size: Voxels along the three axes of its input.
        low: HU that becomes 0.
        high: HU that becomes 1.
    """

    size: tuple[int, int, int]
    low: float = -1000.0
    high: float = 1000.0


@runtime_checkable
class CTEncoder(Protocol):
    """What a CT encoder can; a module of one's own (``python:MODULE:FUNCTION``) too."""

    width: int
    spec: VolumeSpec
    scale: float | None
    is_final: bool

    def prepare(self, volume: CTVolume) -> Float[Tensor, "1 z y x"]:
        """Make the input of one CT, on the processor."""

    def __call__(self, volume: Float[Tensor, "b 1 z y x"]) -> Float[Tensor, "b k"]:
        """Encode a batch."""


# Radiographs


class ImageEncoder(nn.Module):
    """A radiograph encoder: grey of 0 to 1 in, features out."""

    def __init__(self, body: nn.Module, spec: ImageSpec, width: int) -> None:
        super().__init__()
        self.body, self.spec, self.width = body, spec, width
        self.scale: float | None = None
        self.is_final = False
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, grey: Float[Tensor, "b v u"]) -> Float[Tensor, "b k"]:
        """Encode."""
        features: Tensor = self.body((grey[:, None] - self.mean) / self.std)
        return features


def _block(given: int, made: int, kernel: int, stride: int, dims: int) -> nn.Sequential:
    """Convolution, norm over groups of channels (so that samples never mix), GELU."""
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    padding = 0 if kernel == stride else kernel // 2
    return nn.Sequential(
        conv(given, made, kernel, stride, padding), nn.GroupNorm(8, made), nn.GELU()
    )  # fmt: skip


class TinyNet(nn.Module):
    """Patches, then stages that halve the size; mean and maximum over all places.

    Args:
        widths: Channels of the patches and of each stage.
        dims: 2 for pictures, 3 for volumes.
    """

    def __init__(self, widths: Sequence[int], dims: int) -> None:
        super().__init__()
        stages = [_block(a, b, 3, 2, dims) for a, b in pairwise(widths)]
        self.stages = nn.Sequential(_block(1, widths[0], _PATCH, _PATCH, dims), *stages)

    def forward(self, x: Float[Tensor, "b 1 *space"]) -> Float[Tensor, "b k"]:
        """Make one vector."""
        seen: Tensor = self.stages(x).flatten(2)
        return torch.cat([seen.mean(2), seen.amax(2)], dim=1)


class _HfImage(nn.Module):
    """A vision model of transformers: the mean over its tokens or places."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "b c v u"]) -> Float[Tensor, "b k"]:
        """Encode."""
        seen: Tensor = self.model(x).last_hidden_state
        return seen.mean(dim=(2, 3)) if seen.dim() == 4 else seen.mean(dim=1)


def make_image_encoder(name: str, weights: Path | None = None) -> ImageEncoder:
    """Make a radiograph encoder.

    Args:
        name: ``tiny`` or ``tiny:SIZE`` (a quarter of a million weights); ``hf:swin-tiny`` and
            ``hf:resnet-50`` (built in, random weights); ``hf:DIR`` (a folder of transformers, with
            its weights); ``mobilenet-v2``.
        weights: File of weights for it; random ones without.

    Raises:
        ConfigError: No such encoder.
        InputError: Weights that do not fit, or transformers is not installed.
    """
    kind, _, detail = name.partition(":")
    if kind == "tiny":
        spec = ImageSpec(size=int(detail) if detail.isdigit() else 128)
        encoder = ImageEncoder(TinyNet((32, 64, 128, 192), 2), spec, 2 * 192)
    elif name == "mobilenet-v2":
        spec = ImageSpec(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        encoder = ImageEncoder(MobileNetV2(), spec, MOBILENET_WIDTH)
    elif kind == "hf" and detail:
        encoder = _make_hf_image(detail)
    else:
        raise ConfigError(
            f"there is no radiograph encoder {name!r}; wanted tiny, tiny:SIZE, hf:swin-tiny, "
            f"hf:resnet-50, hf:DIR or mobilenet-v2; {_ADVICE}"
        )
    if weights is not None:
        load_weights(encoder.body, weights)
    return encoder


def _make_hf_image(detail: str) -> ImageEncoder:
    """Make a vision model of transformers, of random weights or from a folder."""
    hf = _import_transformers()
    if detail == "swin-tiny":  # the defaults of its configuration are Swin-T's
        body = hf.SwinModel(hf.SwinConfig(), add_pooling_layer=False)
        return ImageEncoder(_HfImage(body), ImageSpec(size=224, mean=HALF, std=HALF), 768)
    if detail == "resnet-50":  # likewise
        spec = ImageSpec(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return ImageEncoder(_HfImage(hf.ResNetModel(hf.ResNetConfig())), spec, 2048)
    model = _load_hf(detail)
    config = model.config
    widths = getattr(config, "hidden_sizes", None)
    width = int(widths[-1] if widths else config.hidden_size)
    return ImageEncoder(_HfImage(model), _read_image_spec(Path(detail), config), width)


def _read_image_spec(folder: Path, config: Any) -> ImageSpec:
    """Read from a folder of transformers what its model wants to see."""
    told = _read_json(folder / "preprocessor_config.json")
    size: Any = told.get("size", getattr(config, "image_size", None) or 224)
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or 224
    channels = int(getattr(config, "num_channels", 3))
    mean, std = told.get("image_mean", HALF[:channels]), told.get("image_std", HALF[:channels])
    return ImageSpec(size=int(size), mean=tuple(mean), std=tuple(std))


def load_weights(body: nn.Module, path: Path) -> None:
    """Load weights by name; a classifier that the file has beside them is left out.

    Raises:
        InputError: Tensors are missing, or of another shape.
    """
    state = read_state(path)
    own = body.state_dict()
    inner = "model." if all(name.startswith("model.") for name in own) else ""
    renamed = {name if name in own else inner + name: tensor for name, tensor in state.items()}
    missing = sorted(own.keys() - renamed.keys())
    misshapen = sorted(n for n in own.keys() & renamed.keys() if own[n].shape != renamed[n].shape)
    if missing or misshapen:
        raise InputError(
            f"{path} does not fit the encoder: {len(missing)} tensors are missing "
            f"{missing[:3]}, {len(misshapen)} have another shape {misshapen[:3]}; give the weights "
            "of this very architecture"
        )
    body.load_state_dict({name: renamed[name] for name in own})


# Reports


class HashedText(nn.Module):
    """Words and pairs of words, hashed to a vector; needs no weights and no files.

    A word behind a negation, up to the end of the sentence, is another word. Counts are damped by a
    logarithm, signs are hashed too, so that collisions cancel on average.

    Source: Weinberger et al. 2009, Feature hashing for large scale multitask learning.
    """

    def __init__(self, width: int = HASHED_WIDTH) -> None:
        super().__init__()
        self.width = width
        self.scale: float | None = None
        self.is_final = False
        self.register_buffer("_where", torch.zeros(0), persistent=False)
        self._where: Tensor

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "b k"]:
        """Encode."""
        made = np.stack([hash_text(text, self.width) for text in texts])
        return torch.from_numpy(made).to(self._where.device)


@functools.lru_cache(maxsize=65536)
def hash_text(text: str, width: int) -> Float[np.ndarray, " k"]:
    """Hash a text to a unit vector."""
    counts: dict[str, int] = {}
    is_negated, before = False, ""
    for word in _WORD.findall(text.lower()):
        if not word[0].isalnum():
            is_negated, before = False, ""
            continue
        told = f"not {word}" if is_negated else word
        for feature in (told, f"{before} {told}"):
            counts[feature] = counts.get(feature, 0) + 1
        is_negated, before = is_negated or word in _NEGATIONS, told
    made = np.zeros(width, np.float32)
    for feature, count in counts.items():
        number = zlib.crc32(feature.encode())
        made[number % width] += (1 if number >> 31 else -1) * (1 + np.log(count))
    return made / max(float(np.linalg.norm(made)), 1e-12)


class HfText(nn.Module):
    """A text model of transformers from a folder, and its own pieces of words."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        model = _load_hf(str(folder))
        self.model, self.width = model, int(model.config.hidden_size)
        self.scale: float | None = None
        self.is_final = False
        longest = int(getattr(model.config, "max_position_embeddings", 512))
        self._cut = _make_tokenizer(folder, min(longest, 512))
        pooling = _read_json(folder / "1_Pooling" / "config.json")
        self.takes_mean = bool(pooling.get("pooling_mode_mean_tokens", False))

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "b k"]:
        """Encode: the mean of the tokens where the folder says so, else the first token."""
        device = next(self.parameters()).device
        pieces, there = (each.to(device) for each in self._cut(texts))
        states: Tensor = self.model(input_ids=pieces, attention_mask=there).last_hidden_state
        if not self.takes_mean:
            return states[:, 0]
        weight = there[..., None].to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)


class _FastPieces:
    """The tokenizer of a ``tokenizer.json``."""

    def __init__(self, path: Path, tokens: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.enable_truncation(tokens)
        self._tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Cut texts; pad to the longest."""
        cut = self._tokenizer.encode_batch(list(texts))
        return torch.tensor([e.ids for e in cut]), torch.tensor([e.attention_mask for e in cut])


def _make_tokenizer(folder: Path, tokens: int) -> "WordPieces | _FastPieces":
    """Open the tokenizer of a folder."""
    if (folder / "tokenizer.json").is_file():
        return _FastPieces(folder / "tokenizer.json", tokens)
    return WordPieces(folder / "vocab.txt", tokens)


class CtClipText(nn.Module):
    """The report tower of CT-CLIP with its vocabulary."""

    def __init__(self, tower: TextTower, cut: WordPieces, scale: float) -> None:
        super().__init__()
        if cut.words != tower.shape.words:
            raise InputError(
                f"vocab.txt has {cut.words} pieces, the weights have {tower.shape.words}; put the "
                "vocab.txt that belongs to them beside them"
            )
        self.tower, self._cut, self.width, self.scale = tower, cut, tower.shape.latent, scale
        self.is_final = True

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "b k"]:
        """Encode."""
        device = next(self.parameters()).device
        pieces, there = self._cut(texts)
        embedded: Tensor = self.tower(pieces.to(device), there.to(device))
        return embedded


def make_report_encoder(name: str) -> nn.Module:
    """Make a report encoder.

    Args:
        name: ``hashed``; ``hf:DIR`` (a folder of transformers, such as CXR-BERT or MiniLM);
            ``ctclip:FILE`` (CT-CLIP's weights, with vocab.txt beside them).

    Raises:
        ConfigError: No such encoder.
        InputError: Weights or a vocabulary that do not fit.
    """
    kind, _, detail = name.partition(":")
    if name == "hashed":
        return HashedText()
    if kind == "hf" and detail:
        return HfText(Path(detail))
    if kind == "ctclip" and detail:
        tower, scale = load_text(Path(detail))
        return CtClipText(tower, WordPieces(Path(detail).with_name("vocab.txt")), scale)
    raise ConfigError(
        f"there is no report encoder {name!r}; wanted hashed, hf:DIR or ctclip:FILE; {_ADVICE}"
    )


# CT


class Tiny3d(nn.Module):
    """A small CT encoder that trains on a processor."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = VolumeSpec(size=(48, 64, 64))
        self.body = TinyNet((32, 64, 128), 3)
        self.width, self.is_final = 2 * 128, False
        self.scale: float | None = None

    def prepare(self, volume: CTVolume) -> Float[Tensor, "1 z y x"]:
        """Turn to the patient's axes, resample the whole CT to the size, window to 0 to 1."""
        return shrink_volume(volume, self.spec)

    def forward(self, volume: Float[Tensor, "b 1 z y x"]) -> Float[Tensor, "b k"]:
        """Encode."""
        features: Tensor = self.body((volume - 0.3) / 0.3)
        return features


class CtClipCT(nn.Module):
    """The CT tower of CT-CLIP."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tower, self.scale = load_ct(path)
        self.width, self.is_final = self.tower.shape.latent, True
        self.spec = VolumeSpec(size=SIZE_ZXY)

    def prepare(self, volume: CTVolume) -> Float[Tensor, "1 z x y"]:
        """Make what it was trained on."""
        return prepare_volume(volume)

    def forward(self, volume: Float[Tensor, "b 1 z x y"]) -> Float[Tensor, "b k"]:
        """Encode."""
        embedded: Tensor = self.tower(volume)
        return embedded


def shrink_volume(volume: CTVolume, spec: VolumeSpec) -> Float[Tensor, "1 z y x"]:
    """Average a CT down (or interpolate it up) to a grid over its whole extent, as 0 to 1."""
    hu, _ = to_lps(volume)
    values = torch.from_numpy(hu).float().clamp_(spec.low, spec.high)[None, None]
    if all(n >= wanted for n, wanted in zip(hu.shape, spec.size, strict=True)):
        small = functional.adaptive_avg_pool3d(values, spec.size)
    else:
        small = functional.interpolate(values, spec.size, mode="trilinear", align_corners=False)
    return (small[0] - spec.low) / (spec.high - spec.low)


def make_ct_encoder(name: str) -> nn.Module:
    """Make a CT encoder.

    Args:
        name: ``tiny3d``; ``ctclip:FILE`` (CT-CLIP_v2.pt, or ct.safetensors of it);
            ``python:MODULE:FUNCTION`` (a function of yours that makes a ``CTEncoder``).

    Raises:
        ConfigError: No such encoder.
        InputError: Weights that do not fit.
    """
    kind, _, detail = name.partition(":")
    if name == "tiny3d":
        return Tiny3d()
    if kind == "ctclip" and detail:
        return CtClipCT(Path(detail))
    if kind == "python" and ":" in detail:
        return _make_own(*detail.split(":", 1))
    raise ConfigError(
        f"there is no CT encoder {name!r}; wanted tiny3d, ctclip:FILE or "
        f"python:MODULE:FUNCTION; {_ADVICE}"
    )


def _make_own(module: str, function: str) -> nn.Module:
    """Make an encoder by a function of the user's."""
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"python:{module}:{function} cannot be had: {error}") from error
    lacks = [n for n in ("width", "spec", "scale", "is_final", "prepare") if not hasattr(made, n)]
    if lacks or not isinstance(made, nn.Module):
        raise ConfigError(
            f"{function} of {module} made a {type(made).__name__} that lacks "
            f"{', '.join(lacks) or 'being a torch module'}; wanted what "
            "drrgen_training.encoders.CTEncoder describes"
        )
    return made


def _import_transformers() -> Any:
    """Import transformers; say how to get it where it is not there."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            "this encoder needs transformers, which is not installed; pip install 'drrgen[train]'"
        ) from error


def _load_hf(folder: str) -> Any:
    """Load a model of transformers from a folder; nothing is fetched."""
    hf = _import_transformers()
    if not (Path(folder) / "config.json").is_file():
        raise InputError(
            f"{folder} is no folder of transformers: it has no config.json; wanted one with "
            "config.json and model.safetensors (nothing is downloaded)"
        )
    try:
        return hf.AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} cannot be loaded: {str(error)[:300]}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; nothing where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def to_unit(stored: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn bytes into 0 to 1."""
    return stored.float() / 255
