"""What is trained: a tower for each modality that is not cached, and the factor of the cosines."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from drrgen.config import make_record
from drrgen.errors import ConfigError, InputError
from drrgen.io.atomic import atomic_path
from drrgen_training.encoders import (
    ImageSpec,
    make_ct_encoder,
    make_image_encoder,
    make_report_encoder,
)
from drrgen_training.losses import LogitScale, LossKind, Modality, Scale
from drrgen_training.settings import CACHED, NONE, ModelSettings, TrainSettings

BEST, LAST = "best.safetensors", "last.safetensors"
_MODEL = "model"  # key of the file's metadata


class Tower(nn.Module):
    """An encoder, and a linear head without a bias; its output has length one.

    Args:
        encoder: See ``drrgen_training.encoders``.
        dim: Width of the embedding; None leaves the encoder's features as they are.
    """

    def __init__(self, encoder: nn.Module, dim: int | None) -> None:
        super().__init__()
        self.encoder = encoder
        width = int(cast("Any", encoder).width)
        self.head = nn.Identity() if dim is None else nn.Linear(width, dim, bias=False)
        self.dim = dim or width
        self.scale: float | None = cast("Any", encoder).scale

    def forward(self, made: Any) -> Float[Tensor, "b e"]:
        """Embed a batch."""
        return functional.normalize(self.head(self.encoder(made)), dim=-1)


def find_image_spec(tower: Tower) -> ImageSpec:
    """Find what a tower of radiographs sees."""
    return cast("ImageSpec", tower.encoder.spec)


def make_tower(
    modality: Modality, name: str, *, dim: int | None, weights: Path | None = None
) -> Tower:
    """Make a tower.

    Args:
        modality: Of what.
        name: Of its encoder, or ``run:DIR`` for the tower of a training, with its head.
        dim: Width of the embedding; None goes without a head.
        weights: Weights that a radiograph encoder starts from.

    Raises:
        ConfigError: No such encoder.
        InputError: Weights that do not fit.
    """
    if name.startswith("run:"):
        return load_run(Path(name.removeprefix("run:")), modality)
    match modality:
        case Modality.CXR:
            encoder: nn.Module = make_image_encoder(name, weights)
        case Modality.CT:
            encoder = make_ct_encoder(name)
        case Modality.REPORT:
            encoder = make_report_encoder(name)
    return Tower(encoder, dim)


class TriModal(nn.Module):
    """The towers that run in training, frozen or not, and the factor of the cosines.

    Args:
        settings: A recipe.
        frozen_scale: Factor that cached CT targets were trained with, if they tell one.

    Raises:
        ConfigError: No such encoder, or a frozen scale that nobody tells.
        InputError: Weights that do not fit, or a frozen encoder of another width.
    """

    def __init__(self, settings: TrainSettings, frozen_scale: float | None = None) -> None:
        super().__init__()
        model = settings.model
        self.trained = frozenset(model.train)
        self.towers = nn.ModuleDict()
        for modality in sorted(settings.modalities):
            name = model.name_encoder(modality)
            if name not in (CACHED, NONE):
                self.towers[modality] = self._make_tower(modality, name, model)
        if Modality.CT in self.towers:
            frozen_scale = cast("Tower", self.towers[Modality.CT]).scale
        loss = settings.loss
        is_told = loss.scale is Scale.FROZEN and loss.scale_value is None
        value = frozen_scale if is_told else loss.scale_value
        self.scale = LogitScale(loss.scale, loss.kind, value)

    def _make_tower(self, modality: Modality, name: str, model: ModelSettings) -> Tower:
        """Make a tower; a frozen one must have the width already."""
        is_trained = modality in self.trained
        weights = model.cxr_weights if modality is Modality.CXR else None
        tower = make_tower(
            modality, name, dim=model.dim if is_trained and not name.startswith("run:") else None,
            weights=Path(weights) if weights else None,
        )  # fmt: skip
        if tower.dim != model.dim:
            raise ConfigError(
                f"the {modality} encoder {name} makes vectors of {tower.dim}, model.dim is "
                f"{model.dim}; set model.dim to {tower.dim}, or add {modality} to model.train for "
                "a head"
            )
        return tower if is_trained else tower.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "TriModal":
        """Go into training, or out of it; frozen towers stay out."""
        super().train(mode)
        for name, tower in self.towers.items():
            tower.train(mode and name in self.trained)
        return self

    def find_trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name the parameters that are trained."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def own_state(self) -> dict[str, Tensor]:
        """The tensors that training changes: of trained towers, and the scale."""
        begins = ("scale.", *(f"towers.{name}." for name in self.trained))
        return {name: t for name, t in self.state_dict().items() if name.startswith(begins)}

    def load_own(self, state: dict[str, Tensor]) -> None:
        """Take over what ``own_state`` gave."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        lost = [name for name in missing if name in self.own_state()]
        if lost or unexpected:
            raise InputError(
                f"weights of another model: {len(lost)} are missing {lost[:3]}, {len(unexpected)} "
                f"are unexpected {unexpected[:3]}; take the recipe that they were trained with"
            )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trained parameters: matrices are decayed, norms, biases and scales are not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def save_model(
    path: Path, state: dict[str, Tensor], settings: TrainSettings, told: dict[str, Any]
) -> None:
    """Write weights as safetensors, with what is needed to build the model again.

    Args:
        path: File.
        state: What ``own_state`` gave.
        settings: The recipe.
        told: What else is known of them; plain types that JSON knows.
    """
    from safetensors.torch import save_file

    meta = {"model": asdict(settings.model), "loss": asdict(settings.loss),
            "views": list(settings.data.view), **told}  # fmt: skip
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(path) as partial:
        save_file(plain, partial, metadata={_MODEL: json.dumps(meta, sort_keys=True)})


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_model`` wrote: weights, and what is told of them.

    Raises:
        InputError: There is no such file, or it is not one of a training.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})[_MODEL])
            LossKind(meta["loss"]["kind"]), meta["model"]["train"], meta["model"]["report"]
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{path} holds no model of drrgen train ({type(error).__name__}); give the folder of a "
            "run that has come as far as its first look at the dev patients"
        ) from error


def load_run(run: Path, modality: Modality) -> Tower:
    """Load the best tower of a training.

    Args:
        run: Folder of the training, or a ``.safetensors`` file of it.
        modality: Which tower.

    Raises:
        ConfigError: It is of an encoder that is not there, or of settings that cannot be.
        InputError: There is none, it was not trained there, or its weights do not fit.
    """
    path = run if run.suffix == ".safetensors" else run / BEST
    state, meta = read_model(path)
    model: ModelSettings = make_record(ModelSettings, _drop_nulls(meta["model"]))
    prefix = f"towers.{modality}."
    own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    if not own:
        raise InputError(
            f"{path} has no {modality} tower; it trained {', '.join(model.train)} only"
        )
    tower = make_tower(modality, model.name_encoder(modality), dim=model.dim)
    _load_tensors(tower, own, path)
    tower.scale = read_scale(state, LossKind(meta["loss"]["kind"]))
    return tower


def _load_tensors(tower: Tower, own: dict[str, Tensor], path: Path) -> None:
    """Take over weights that fit, and are numbers."""
    wanted = tower.state_dict()
    odd = sorted(
        name for name in wanted.keys() | own.keys()
        if name not in own or name not in wanted or own[name].shape != wanted[name].shape
    )  # fmt: skip
    if odd:
        raise InputError(
            f"{path} holds weights of another shape than it says: {len(odd)} tensors do not fit, "
            f"such as {odd[0]}; get a whole copy of the run"
        )
    bad = sorted(name for name, tensor in own.items() if not torch.isfinite(tensor).all())
    if bad:
        raise InputError(
            f"{path} holds weights that are not finite in {len(bad)} tensors, such as {bad[0]}; "
            "the training diverged, or the file is damaged: train again with a lower rate, or get "
            "a whole copy"
        )
    tower.load_state_dict(own)


def read_scale(state: dict[str, Tensor], kind: LossKind) -> float | None:
    """Read the factor of the cosines; SigLIP's means nothing to another loss.

    Raises:
        InputError: It is not finite.
    """
    log = state.get("scale.log_scale")
    if log is None or kind is LossKind.SIGLIP:
        return None
    if not torch.isfinite(torch.exp(log)).all():
        raise InputError("the factor of the cosines is not finite; get a whole copy of the run")
    return float(torch.exp(log))


def _drop_nulls(table: dict[str, Any]) -> dict[str, Any]:
    """Leave out what has no value, as a TOML file does."""
    return {key: value for key, value in table.items() if value is not None}
