"""A trained radiograph encoder in forms that others read: safetensors, ONNX, a model card."""

import importlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from drrgen.errors import EngineError, InputError
from drrgen.io.atomic import write_bytes
from drrgen_training.encoders import ImageSpec
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, Tower, find_image_spec, load_run, read_model

WEIGHTS, CONFIG, ONNX, CARD = "model.safetensors", "config.json", "model.onnx", "README.md"
ONNX_TOL = 1e-3  # of a vector of length one, float32 in another order

log = logging.getLogger(__name__)

_CARD = """# A radiograph encoder, aligned with CT and reports by drrgen

**Not a medical device; nothing it says is for diagnosis.** It was trained on radiographs that were
rendered from CT; how well it does on real ones has to be measured.

| | |
| --- | --- |
| encoder | `{cxr}` |
| input | grey, {size} x {size} pixels, 0 black (air) to 1 white; mean and deviation are inside |
| output | a vector of {dim} numbers, of length one; score by dot product |
| factor of the cosines | {scale} |
| loss | {kind}: alpha {alpha:g}, beta {beta:g}, gamma {gamma:g} |
| CT and reports | {teachers} |
| step, epoch | {step}, {epoch} |
| mean reciprocal rank on the dev patients | {score:.4f} |
| data set | render fingerprint `{dataset}`, {rows} radiographs |
| settings | fingerprint `{settings}`, see config.json |

## Files

- `model.safetensors`: weights; `config.json`: what builds the model again with `drrgen_training`.
- `model.onnx`: `grey` [batch, {size}, {size}] float32 in, `embedding` [batch, {dim}] out, where it
  was asked for.

## Use

```python
from pathlib import Path
from drrgen_training.losses import Modality
from drrgen_training.model import load_run
tower = load_run(Path("model.safetensors"), Modality.CXR).eval()
```

## Licence

That of the weights it started from and of the data it was trained on; drrgen adds none. Encoders
aligned with CT-CLIP inherit CC-BY-NC-SA 4.0.
"""


def export_run(run: Path, to: Path, *, with_onnx: bool = True) -> list[Path]:
    """Write the best radiograph encoder of a training.

    Args:
        run: Folder of ``drrgen train``.
        to: Folder to write.
        with_onnx: Also write ONNX, and compare it with torch on random pictures.

    Returns:
        What was written.

    Raises:
        InputError: There is no trained radiograph encoder, or a package is missing.
        EngineError: ONNX and torch do not agree.
    """
    path = run if run.suffix == ".safetensors" else run / BEST
    tower = load_run(path, Modality.CXR).eval()
    _, meta = read_model(path)
    spec = find_image_spec(tower)
    write_bytes(to / WEIGHTS, path.read_bytes())
    write_bytes(to / CONFIG, (json.dumps(meta, indent=2, sort_keys=True) + "\n").encode())
    write_bytes(to / CARD, make_card(meta, spec, tower).encode())
    written = [to / WEIGHTS, to / CONFIG, to / CARD]
    if with_onnx:
        write_bytes(to / ONNX, make_onnx(tower, spec.size))
        written.append(to / ONNX)
    return written


def make_card(meta: dict[str, Any], spec: ImageSpec, tower: Tower) -> str:
    """Write the model card from what the weights say of themselves."""
    model, loss, identity = meta["model"], meta["loss"], meta["identity"]
    cached = ", ".join(f"{name} `{found}`" for name, found in sorted(identity["targets"].items()))
    live = f"CT {model['ct']}, report {model['report']}"
    return _CARD.format(
        cxr=model["cxr"], size=spec.size, dim=tower.dim,
        scale="none" if tower.scale is None else f"{tower.scale:.3f}", kind=loss["kind"],
        alpha=loss["alpha"], beta=loss["beta"], gamma=loss["gamma"],
        teachers=f"cached embeddings of the encoders {cached}" if cached else live,
        step=meta["step"], epoch=meta["epoch"], score=meta["score"], dataset=identity["dataset"],
        rows=identity["rows"], settings=identity["settings"],
    )  # fmt: skip


class _Named(nn.Module):
    """The tower under the names that the ONNX file shows."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, grey: Float[Tensor, "b v u"]) -> Float[Tensor, "b e"]:
        """Embed."""
        embedded: Tensor = self.tower(grey)
        return embedded


def make_onnx(tower: Tower, size: int) -> bytes:
    """Write a tower as ONNX, for any number of pictures, and hold it against torch.

    Args:
        tower: Takes grey of 0 to 1.
        size: Rows and columns that it takes [pixels].

    Raises:
        InputError: onnx, onnxscript or onnxruntime is not installed.
        EngineError: The two do not agree.
    """
    runtime = _import_onnx()
    grey = torch.rand(2, size, size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix="drrgen-") as folder, _plain_attention(tower):
        path = Path(folder) / ONNX
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of its own exporter
            torch.onnx.export(
                _Named(tower), (grey,), path, input_names=["grey"], output_names=["embedding"],
                dynamic_shapes={"grey": {0: torch.export.Dim("batch", min=1, max=4096)}},
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
        data = path.read_bytes()
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        pictures = torch.rand(n, size, size, generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            wanted = tower(pictures).numpy()
        (found,) = session.run(None, {"grey": pictures.numpy()})
        worst = float(np.abs(found - wanted).max())
        if not worst <= ONNX_TOL:
            raise EngineError(
                f"the ONNX file and torch differ by {worst:.2g} in a vector of length one, wanted "
                f"at most {ONNX_TOL:g}; export without it (--no-onnx), and tell us the encoder"
            )
    return data


@contextmanager
def _plain_attention(tower: Tower) -> Iterator[None]:
    """Let models of transformers attend by plain operations for a while.

    torch 2.13 cannot export fused attention of windows, as Swin's, for any number of pictures.
    """
    models: list[Any] = [m for m in tower.modules() if hasattr(m, "set_attn_implementation")]
    before = [model.config._attn_implementation for model in models]  # noqa: SLF001  no other way
    for model in models:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for model, kind in zip(models, before, strict=True):
            model.set_attn_implementation(kind)


def _import_onnx() -> Any:
    """Import what ONNX needs; say how to get it where it is not there."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InputError(
            f"ONNX needs {error.name}, which is not installed; pip install 'drrgen[train]', or "
            "export with --no-onnx"
        ) from error
