"""All settings of a training: frozen records, a TOML file, one fingerprint.

Order of precedence: the defaults here, then a recipe, then ``--set section.key=value``.
"""

import dataclasses
import hashlib
import json
import math
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from drrgen.choices import View
from drrgen.config import check_known, make_record, read_toml, section_to_toml
from drrgen.errors import ConfigError
from drrgen_training.losses import LossKind, Modality, Scale, Weights
from drrgen_training.reports import Template
from drrgen_training.shipped import find_shipped

CACHED, NONE = "cached", "none"  # instead of the name of an encoder


class KeyKind(StrEnum):
    """What is there once in a batch."""

    PATIENT = "patient"
    STUDY = "study"  # one reconstruction of each scan
    INSTANCE = "instance"  # reconstructions of one scan may meet


class Schedule(StrEnum):
    """How the learning rate goes, after warming up."""

    CONSTANT = "constant"
    COSINE = "cosine"  # down to zero at the last step


def _key(default: Any, text: str) -> Any:
    return field(default=default, metadata={"text": text})


def _check(good: bool, key: str, got: object, wanted: str) -> None:
    """Raise ConfigError for a bad value."""
    if not good:
        raise ConfigError(f"{key}: got {got}, wanted {wanted}")


def _check_numbers(record: Any, rules: Mapping[str, tuple[float, float]]) -> None:
    """Check that numbers are finite and within their ends."""
    for key, (low, high) in rules.items():
        value = getattr(record, key)
        good = value is None or (math.isfinite(value) and low <= value <= high)
        _check(good, key, value, f"{low:g} to {high:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What is trained on, and how it is drawn."""

    view: tuple[View, ...] = _key((), "views to train on, such as PA, AP; all of them by default")
    key: KeyKind = _key(KeyKind.STUDY, "once in a batch and an epoch: patient, study, instance")
    batch: int = _key(360, "samples in a batch, over all processes")
    template: Template = _key(
        Template.SECTIONS, "text of a report: sections, findings, impression, ctclip"
    )
    dev_share: float = _key(
        0.1, "share of the train patients held out, where the manifest has no dev split"
    )
    crop: float = _key(0.2, "pictures are cropped at random by up to this share of a side")
    brightness: float = _key(0.1, "shift of the grey, up to so much either way")
    contrast: float = _key(0.2, "steepness of the grey, up to this share either way")

    shift: float = _key(0.0, "packed CT are shifted at random by up to this share of each side")
    drop_sentences: float = _key(
        0.0, "share of a report's sentences left out at random, where its encoder is trained"
    )

    def __post_init__(self) -> None:
        _check_numbers(self, {
            "batch": (2, 10**6), "dev_share": (0.01, 0.5), "crop": (0, 0.9),
            "brightness": (0, 1), "contrast": (0, 0.9), "shift": (0, 0.5),
            "drop_sentences": (0, 0.9),
        })  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The encoders; see ``drrgen_training.encoders``."""

    cxr: str = _key("tiny", "radiograph encoder: tiny, hf:swin-tiny, hf:resnet-50, hf:DIR, ...")
    cxr_weights: str | None = _key(None, "file of weights that it starts from")
    ct: str = _key(CACHED, "CT encoder: cached (drrgen embed), tiny3d, ctclip:FILE, ..., or none")
    report: str = _key(CACHED, "report encoder: cached, hashed, hf:DIR, ctclip:DIR, or none")
    dim: int = _key(512, "width of the common embedding")
    train: tuple[Modality, ...] = _key((Modality.CXR,), "what is trained: cxr, ct, report")

    def __post_init__(self) -> None:
        _check_numbers(self, {"dim": (2, 65536)})
        _check(bool(self.train), "train", "nothing", "at least one of cxr, ct, report")
        for modality in self.train:
            name = getattr(self, modality)
            good = name not in (CACHED, NONE)
            _check(good, modality, name, "an encoder, for train names it; cached ones are frozen")

    def name_encoder(self, modality: Modality) -> str:
        """Name the encoder of a modality."""
        name: str = getattr(self, modality.value)
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """alpha L(CT, report) + beta L(radiograph, report) + gamma L(radiograph, CT)."""

    kind: LossKind = _key(LossKind.INFONCE, "infonce or siglip")
    alpha: float = _key(0.0, "weight of CT and report")
    beta: float = _key(1.0, "weight of radiograph and report")
    gamma: float = _key(1.0, "weight of radiograph and CT")
    scale: Scale = _key(
        Scale.LEARNED, "factor of the cosines: learned, fixed, or frozen (the CT encoder's own)"
    )
    scale_value: float | None = _key(None, "the factor, or its start where it is learned")

    def __post_init__(self) -> None:
        _ = self.weights

    @property
    def weights(self) -> Weights:
        """The weights, checked."""
        return Weights(alpha=self.alpha, beta=self.beta, gamma=self.gamma)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """AdamW; norms and biases are not decayed."""

    lr: float = _key(5e-5, "learning rate")
    weight_decay: float = _key(1e-4, "weight decay")
    betas: tuple[float, float] = _key((0.9, 0.99), "decay of the two moments")
    clip: float | None = _key(0.5, "longest gradient; without it as it is")
    schedule: Schedule = _key(Schedule.CONSTANT, "constant, or cosine down to zero")
    warmup_steps: int = _key(0, "steps over which the rate rises from zero")
    epochs: int = _key(51, "epochs")
    chunk: int | None = _key(
        None, "samples encoded at once, for batches that memory cannot hold; the gradient stays"
    )
    ema: float = _key(0.0, "decay of the averaged weights, such as 0.999; 0 takes the last ones")

    def __post_init__(self) -> None:
        _check_numbers(self, {
            "lr": (0, 10), "weight_decay": (0, 10), "clip": (1e-6, 1e6), "warmup_steps": (0, 1e9),
            "epochs": (1, 10**6), "chunk": (1, 10**6), "ema": (0, 0.999999),
        })  # fmt: skip
        good = all(0 <= beta < 1 for beta in self.betas)
        _check(good, "betas", list(self.betas), "two numbers from 0, below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How the work is done, and how far."""

    seed: int = _key(1024, "seed of weights, order, views and augmentation")
    device: str = _key("auto", "auto, cpu, cuda or cuda:N")
    bf16: bool = _key(True, "bfloat16 where the device has it (CUDA)")
    evaluate_epochs: int = _key(1, "epochs between two looks at the dev patients")
    patience: int | None = _key(
        None, "looks without a better one before it stops; none: to the end"
    )
    save_steps: int = _key(500, "steps between two checkpoints, beside one an epoch")
    tensorboard: bool = _key(False, "also write curves for TensorBoard, where it is installed")

    def __post_init__(self) -> None:
        _check_numbers(self, {
            "seed": (0, 2**63 - 1), "evaluate_epochs": (1, 10**6), "patience": (1, 10**6),
            "save_steps": (1, 10**9),
        })  # fmt: skip
        good = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None
        _check(good, "device", self.device, "auto, cpu, cuda or cuda:N")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """A whole recipe: one record a section.

    Raises:
        ConfigError: Sections that contradict each other.
    """

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optim: OptimSettings = OptimSettings()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        for a, b, weight in self.loss.weights.terms:
            for side in (a, b):
                if self.model.name_encoder(side) == NONE:
                    raise ConfigError(
                        f"the term {a}-{b} has weight {weight:g}, but model.{side} is none; name "
                        f"an encoder or cached, or set the weight to 0"
                    )
            if a not in self.model.train and b not in self.model.train:
                raise ConfigError(
                    f"the term {a}-{b} has weight {weight:g}, but neither is trained, so it would "
                    f"be a constant without a gradient; add {a} or {b} to model.train (with an "
                    "encoder, not cached), or set the weight to 0"
                )
        for modality in self.model.train:
            if modality not in self.loss.weights.modalities:
                raise ConfigError(
                    f"model.train has {modality}, but no term of the loss has; take it out, or "
                    "give one of alpha, beta, gamma a weight"
                )

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the loss needs."""
        return self.loss.weights.modalities

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the weights, as 16 hexadecimal digits."""
        told = dataclasses.asdict(self)
        for key in ("device", "save_steps", "tensorboard"):
            del told["run"][key]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """Write it as TOML, every key with its comment."""
        names = (f.name for f in dataclasses.fields(self))
        return "\n".join(section_to_toml(name, getattr(self, name)) for name in names)


def find_recipe(name: str) -> Path:
    """Find a recipe: one that is shipped, by name, or a file.

    Raises:
        ConfigError: There is none.
    """
    return find_shipped("recipes", name)


def read_settings(path: Path | None, overrides: Sequence[str] = ()) -> TrainSettings:
    """Read a recipe, and replace what is set beside it.

    Args:
        path: A TOML file; None takes the defaults.
        overrides: Such as ``optim.lr=1e-4`` or ``data.view=["PA"]``; a bare word is text.

    Raises:
        ConfigError: No such file, not TOML, an unknown key or an impossible value.
    """
    if path is not None:
        return read_toml(path, lambda tables: _make_settings(tables, overrides), "recipe")
    return _make_settings({}, overrides)


def _make_settings(tables: dict[str, Any], overrides: Sequence[str]) -> TrainSettings:
    """Build the records from the tables of a file, and what is set beside them."""
    for text in overrides:
        section, key, value = _parse_override(text)
        tables.setdefault(section, {})[key] = value
    sections = {f.name: typing.cast(type, f.type) for f in dataclasses.fields(TrainSettings)}
    check_known(tables, sections, "section")
    records = {name: make_record(sections[name], table) for name, table in tables.items()}
    return TrainSettings(**records)


def _parse_override(text: str) -> tuple[str, str, Any]:
    """Split ``section.key=value``; the value is read as TOML, or else as text."""
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"got {text!r}, wanted section.key=value, such as optim.lr=1e-4")
    try:
        return section, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, value.strip()
