"""Weights of CT-CLIP: read without running what is in the file, checked tensor by tensor."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from drrgen.errors import InputError
from drrgen.io.atomic import atomic_path, digest_file
from drrgen_training.ctclip.table import TEXT, VISUAL, CTShape, TextShape, list_tensors
from drrgen_training.ctclip.text import TextTower
from drrgen_training.ctclip.vit import CTTower

CT_FILE, TEXT_FILE = "ct.safetensors", "text.safetensors"
LICENCE = "weights of CT-CLIP are CC-BY-NC-SA 4.0: not for commercial use"
CLASSIFIER = "classifier."
_PREFIXES = ("module.", "trained_model.", "CTCLIP.")
_SHOWN = 8  # faults of one kind in a message
_WORDS = f"{TEXT}embeddings.word_embeddings.weight"

log = logging.getLogger(__name__)
State = dict[str, Tensor]
T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of a checkpoint is wanted.

    Attributes:
        name: What it is, for messages.
        prefixes: Begins of its names.
    """

    name: str
    prefixes: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Say whether a tensor belongs to it."""
        return name.startswith(self.prefixes)


CT_PART = Part(name="CT tower", prefixes=(VISUAL, "to_visual_latent", "temperature"))
TEXT_PART = Part(name="report tower", prefixes=(TEXT, "to_text_latent", "temperature"))


def read_state(path: Path) -> State:
    """Read the tensors of a file by name, without the prefixes that wrappers put before them.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote; a pickle that holds more than tensors
            is refused.

    Raises:
        InputError: There is no such file, or it holds no tensors by name.
    """
    if not path.is_file():
        raise InputError(f"there are no weights at {path}; give the path of the downloaded file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # each library has errors of its own
        raise InputError(
            f"{path} cannot be read as weights ({type(error).__name__}: {str(error)[:200]}); get a "
            "whole copy of the file; pickled programs are not run"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds no tensors by name; wanted a state dict, such as CT-CLIP's")
    return {strip_prefixes(name): tensor for name, tensor in state.items()}


def strip_prefixes(name: str) -> str:
    """Take off what wrappers put before a name, as LiPro's files have it.

    Example:
        >>> strip_prefixes("module.trained_model.temperature")
        'temperature'
    """
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def check_state(state: State, part: Part, path: Path, *, ct: CTShape, text: TextShape) -> State:
    """Take the tensors of a part that inference needs, each there once and in its shape.

    A LiPro file's classifier is left aside, and so is the other part.

    Raises:
        InputError: Tensors are missing, misshapen or unknown; the message names them.
    """
    table = {spec.name: spec for spec in list_tensors(ct, text)}
    wanted = {name: spec for name, spec in table.items() if spec.is_used and part.has(name)}
    missing = [
        f"missing: {name} {list(spec.shape)}" for name, spec in wanted.items() if name not in state
    ]
    misshapen = [
        f"misshapen: {name} is {list(state[name].shape)}, wanted {list(spec.shape)}"
        for name, spec in wanted.items()
        if name in state and tuple(state[name].shape) != spec.shape
    ]
    unknown = [
        f"unexpected: {name} {list(state[name].shape)}"
        for name in state
        if name not in table and not name.startswith(CLASSIFIER)
    ]
    faults = [line for kind in (missing, misshapen, unknown) for line in _shorten(kind)]
    if faults:
        lines = "\n  ".join(faults)
        raise InputError(
            f"{path} is not the {part.name} of CT-CLIP v2:\n  {lines}\nwanted CT-CLIP_v2.pt, or a "
            "LiPro or VocabFine file made from it"
        )
    return {name: state[name] for name in wanted}


def _shorten(faults: list[str]) -> list[str]:
    """Keep the first faults of a kind, and say how many more there are."""
    more = len(faults) - _SHOWN
    return faults[:_SHOWN] + ([f"and {more} more {faults[0].split(':')[0]}"] if more > 0 else [])


def load_ct(path: Path, shape: CTShape | None = None) -> tuple[CTTower, float]:
    """Load the CT tower.

    Args:
        path: CT-CLIP_v2.pt, a LiPro or VocabFine file, or ``ct.safetensors`` of ``convert``.
        shape: Sizes; None takes those of CT-CLIP.

    Returns:
        The tower, and the factor of the cosines that it was trained with.

    Raises:
        InputError: The file is not what it should be.
    """
    log.info("%s: %s", path, LICENCE)
    ct = shape or CTShape()
    state = check_state(read_state(path), CT_PART, path, ct=ct, text=TextShape())
    with torch.device("meta"):
        tower = CTTower(ct)
    return _fill(tower, state)


def load_text(path: Path, shape: TextShape | None = None) -> tuple[TextTower, float]:
    """Load the report tower; the size of the vocabulary is that of the file.

    Args:
        path: CT-CLIP_v2.pt, or ``text.safetensors`` of ``convert``.
        shape: Sizes; None takes those of CT-CLIP.

    Returns:
        The tower, and the factor of the cosines that it was trained with.

    Raises:
        InputError: The file is not what it should be.
    """
    log.info("%s: %s", path, LICENCE)
    state = read_state(path)
    text = fit_vocabulary(shape or TextShape(), state)
    chosen = check_state(state, TEXT_PART, path, ct=CTShape(), text=text)
    return _fill(TextTower(text), chosen)


def fit_vocabulary(shape: TextShape, state: State) -> TextShape:
    """Read the size of the vocabulary from the tensors."""
    return replace(shape, words=len(state[_WORDS])) if _WORDS in state else shape


def _fill(tower: T, state: State) -> tuple[T, float]:
    """Give a tower its tensors, as float32; return it with the factor of the cosines."""
    factor = float(state["temperature"].float().exp())
    own = {name: tensor.float() for name, tensor in state.items() if name != "temperature"}
    tower.load_state_dict(own, strict=True, assign=True)
    return tower.requires_grad_(requires_grad=False), factor


def convert(path: Path, to: Path) -> tuple[Path, Path]:
    """Write what inference needs as safetensors: the CT tower in one file, the report's in another.

    Args:
        path: CT-CLIP_v2.pt, or a VocabFine file.
        to: Folder.

    Returns:
        The two files.

    Raises:
        InputError: The file is not what it should be.
    """
    from safetensors.torch import save_file

    state = read_state(path)
    text = fit_vocabulary(TextShape(), state)
    told = {"source_sha256": digest_file(path), "licence": LICENCE, "format": "pt"}
    for part, name in ((CT_PART, CT_FILE), (TEXT_PART, TEXT_FILE)):
        chosen = check_state(state, part, path, ct=CTShape(), text=text)
        with atomic_path(to / name) as partial:
            save_file({k: v.contiguous() for k, v in chosen.items()}, partial, metadata=told)
    return to / CT_FILE, to / TEXT_FILE
