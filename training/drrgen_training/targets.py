"""Cached embeddings: Parquet shards that say which encoder made them, and refuse to be mixed.

    EMB/manifest/part-00000.parquet    sample_id, status, reason, detail, embedding
    EMB/manifest.json                  the parts; its fingerprint is the encoder's id

``sample_id`` is the manifest's for a CT, the digest of the text for a report, and the picture's key
for a radiograph. The id of an encoder is a digest of its kind, its weights, how its input is made,
and the version of the code. Vectors have length one.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from drrgen.errors import (
    DataError,
    DrrgenError,
    InputError,
    ManifestError,
    Reason,
    Status,
    status_of,
)
from drrgen.io.atomic import digest_file
from drrgen.io.listing import CTFiles
from drrgen.io.radiographs import read_radiograph
from drrgen.io.told_scale import ToldScale, read_told
from drrgen.io.volumes import read_ct
from drrgen.jobs.plan import digest_facts
from drrgen.jobs.runner import Means, Progress, run
from drrgen.jobs.task import Item
from drrgen.manifest import Row
from drrgen_training.ctclip.prepare import PREPARE_VERSION
from drrgen_training.losses import Modality
from drrgen_training.model import make_tower
from drrgen_training.pictures import PICTURE_VERSION, PackSettings, find_picture, make_square
from drrgen_training.reports import TEMPLATE_VERSION, Template
from drrgen_training.samples import Samples, name_picture
from drrgen_training.volumes import VOLUME_VERSION, CTPlaces, digest_ct

EMBED_VERSION = 1  # rises whenever an embedding of the same encoder and input would change
_META = b"drrgen_embedding"
_LENGTH_TOL = 1e-3  # of a vector; half precision keeps 5e-4
_VERSIONS = [EMBED_VERSION, PREPARE_VERSION, PICTURE_VERSION, TEMPLATE_VERSION, VOLUME_VERSION]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What embeddings say of their making.

    Attributes:
        encoder_id: Digest of all that decides a vector besides its input.
        modality: What they are of.
        encoder: Name of the encoder, as it was given.
        dim: Length of a vector.
        scale: Factor of the cosines that the encoder was trained with; None where it tells none.
        template: How reports became text; None for others.
    """

    encoder_id: str
    modality: Modality
    encoder: str
    dim: int
    scale: float | None
    template: Template | None

    def to_json(self) -> bytes:
        """Write it for the metadata of a shard."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Provenance":
        """Read what ``to_json`` wrote."""
        told = json.loads(data)
        template = told["template"] and Template(told["template"])
        return cls(**told | {"modality": Modality(told["modality"]), "template": template})


def identify(modality: Modality, name: str, template: Template) -> Provenance:
    """Load an encoder, and find its id.

    Args:
        modality: Of what.
        name: Of the encoder, see ``drrgen_training.encoders``; ``run:DIR`` for one of a training.
        template: How reports become text; it counts for them alone.

    Raises:
        ConfigError: No such encoder.
        InputError: Weights that do not fit.
    """
    tower = load_tower(modality, name, "cpu")
    used = template if modality is Modality.REPORT else None
    kind = name if name.startswith("python:") else name.split(":", maxsplit=1)[0]
    told = [modality, kind, digest_weights(tower), used, _VERSIONS]
    return Provenance(
        encoder_id=hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16],
        modality=modality,
        encoder=name,
        dim=tower.dim,
        scale=tower.scale,
        template=used,
    )


def digest_weights(module: nn.Module) -> str:
    """SHA-256 of all tensors of a module, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def load_tower(modality: Modality, name: str, device: str) -> Any:
    """Load an encoder once in a process, frozen and in evaluation."""
    torch.manual_seed(0)  # of encoders without weights of their own
    return make_tower(modality, name, dim=None).eval().requires_grad_(False).to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTask:
    """Embeds one item; see ``drrgen.jobs.task``.

    Attributes:
        out: Output folder.
        provenance: The encoder.
        device: Where it runs.
    """

    out: Path
    provenance: Provenance
    device: str = "cpu"

    @property
    def fingerprint(self) -> str:
        """The encoder's id: embeddings of two encoders are never in one folder."""
        return self.provenance.encoder_id

    def prepare(self) -> None:
        """Load the encoder."""
        load_tower(self.provenance.modality, self.provenance.encoder, self.device)

    def __call__(self, item: Item) -> list[Row]:
        """Embed; whatever goes wrong becomes a row."""
        try:
            vector = self._embed(item.payload)
        except DataError as error:
            log.warning("%s: %s", item.key, error)
            return self.failure(item, error.code, f"{error.detail}; {error.remedy}")
        except OSError as error:
            log.exception("%s: input or output failed", item.key)
            return self.failure(item, Reason.IO_ERROR, f"{type(error).__name__}; see the log")
        except Exception as error:  # one bad item costs one row
            log.exception("%s: crashed", item.key)
            shown = f": {error}" if isinstance(error, DrrgenError) else ""
            return self.failure(item, Reason.CRASHED, f"{type(error).__name__}{shown}")
        row = dict.fromkeys(("sample_id", "reason", "detail")) | {"sample_id": item.key}
        return [row | {"status": Status.OK.value, "embedding": vector}]

    def files(self, rows: Sequence[Row]) -> list[str]:  # noqa: ARG002  there are none
        """No files besides the table."""
        return []

    def failure(self, item: Item, reason: Reason, detail: str) -> list[Row]:
        """Make the row of an item that has no embedding."""
        return [{"sample_id": item.key, "status": status_of(reason).value, "reason": reason.value,
                 "detail": detail, "embedding": None}]  # fmt: skip

    def to_table(self, rows: Sequence[Row]) -> pa.Table:
        """Make the table, in the order of the keys."""
        text = pa.string()
        schema = pa.schema(
            [("sample_id", text), ("status", text), ("reason", text), ("detail", text),
             ("embedding", pa.list_(pa.float32(), self.provenance.dim))],
            metadata={_META: self.provenance.to_json()},
        )  # fmt: skip
        return pa.Table.from_pylist(sorted(rows, key=lambda row: row["sample_id"]), schema=schema)

    def digest(self, item: Item) -> str:  # noqa: ARG002
        """Items are named by their content; nothing is to be read for it."""
        return ""

    @torch.no_grad()
    def _embed(self, payload: Mapping[str, Any]) -> list[float]:
        """Make the input, and embed it."""
        tower = load_tower(self.provenance.modality, self.provenance.encoder, self.device)
        made: Any
        match self.provenance.modality:
            case Modality.REPORT:
                made = [payload["text"]]
            case Modality.CXR:
                settings = PackSettings(size=tower.encoder.spec.size)
                grey = make_square(read_radiograph(payload["path"]).grey, settings)
                made = (grey.float() / 255)[None].to(self.device)
            case Modality.CT:
                files, told = CTFiles.from_dict(payload["files"]), payload["told"]
                volume = read_told(files, ToldScale.from_dict(told)) if told else read_ct(files)
                made = tower.encoder.prepare(volume)[None].to(self.device)
        vector: Tensor = functional.normalize(tower(made).float(), dim=-1)[0].cpu()
        if not torch.isfinite(vector).all():
            raise InputError("its embedding is not finite; look at its input")
        return [float(value) for value in vector]


def embed(
    samples: Samples,
    provenance: Provenance,
    out: Path,
    *,
    places: CTPlaces | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    means: Means | None = None,
) -> Iterator[Progress]:
    """Embed all CT, reports or radiographs of a data set; goes on where it was interrupted.

    Args:
        samples: Whose.
        provenance: The encoder, of ``identify``.
        out: Folder of the embeddings.
        places: Where the CT lie.
        device: Where the encoder runs.
        overwrite: Start anew.
        means: Processes and time limit.

    Yields:
        How far it has come.

    Raises:
        InputError: There is nothing of this modality.
        ManifestError: ``out`` holds embeddings of another encoder.
        OSError: The output cannot be written.
    """
    items = list_items(samples, provenance.modality, places or CTPlaces(root=None))
    if not items:
        raise InputError(
            f"{samples.root} has no {provenance.modality} to embed; for reports build it with "
            "drrgen build --reports"
        )
    task = EmbedTask(out=out, provenance=provenance, device=device)
    yield from run(task, items, out, overwrite=overwrite, means=means)


def list_items(samples: Samples, modality: Modality, places: CTPlaces) -> list[Item]:
    """List what is to be embedded, each once."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}  # what tells a change, and the payload
    match modality:
        case Modality.REPORT:
            for row, n in _zip_texts(samples):
                found[row["text"]] = "", {"text": samples.texts[n]}
        case Modality.CXR:
            for row in samples.rows:
                path = {"path": str(find_picture(samples, row))}
                found[name_picture(row)] = row["cxr_sha256"] or "", path
        case Modality.CT:
            for row in samples.volumes.rows:
                if row["ct_ref"] is not None:
                    told = places.told.get(PurePosixPath(row["ct_ref"]).name)
                    scale = told and told.to_dict()
                    payload = {"files": places.find(row).to_dict(), "told": scale}
                    found[row["sample_id"]] = digest_facts([digest_ct(row), scale]), payload
    return [
        Item(key=key, payload=payload, n_bytes=0, mtime_ns=0, facts=facts)
        for key, (facts, payload) in found.items()
    ]


def _zip_texts(samples: Samples) -> list[tuple[dict[str, Any], int]]:
    """List the rows that have a report, with its number."""
    return [(row, int(n)) for row, n in zip(samples.rows, samples.report, strict=True) if n >= 0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """Embeddings in memory.

    Attributes:
        provenance: Their encoder.
        vectors: One a row.
        places: Row of each name.
    """

    provenance: Provenance
    vectors: Float32[np.ndarray, "n e"]
    places: Mapping[str, int]

    def find(self, names: Sequence[str | None]) -> Int64[np.ndarray, " m"]:
        """Find rows by name; -1 where there is none."""
        return np.array(
            [-1 if n is None else self.places.get(n, -1) for n in names], dtype=np.int64
        )

    def take(self, rows: Int64[np.ndarray, " b"]) -> Float[Tensor, "b e"]:
        """Take some vectors; zeros for rows of -1."""
        taken = self.vectors[rows]
        taken[rows < 0] = 0
        return torch.from_numpy(taken)


def read_targets(folder: Path) -> Targets:
    """Read all embeddings of a folder.

    Raises:
        ManifestError: There are none, they are of several encoders, or they are not as they were
            written.
    """
    try:
        summary = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        parts = [
            (folder / "manifest" / PurePosixPath(part["name"]).name, part.get("sha256"))
            for part in summary["parts"]
        ]
        changed = [path.name for path, told in parts if told and digest_file(path) != told]
        tables = [pq.read_table(path) for path, _ in parts]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{folder} holds no finished embeddings; run drrgen embed first"
        ) from error
    found = {(table.schema.metadata or {}).get(_META) for table in tables}
    if len(found) != 1 or None in found:
        raise ManifestError(
            f"{folder} holds embeddings of {len(found)} encoders, wanted one; embed anew with "
            "drrgen embed --overwrite"
        )
    provenance = _read_provenance(found.pop() or b"", folder)
    if provenance.encoder_id != (told := summary.get("fingerprint")):
        raise ManifestError(
            f"{folder}: manifest.json is of the encoder {told}, its parts are of "
            f"{provenance.encoder_id}; embed anew with drrgen embed --overwrite"
        )
    if changed:
        raise ManifestError(
            f"{folder}: {', '.join(changed)} is not as drrgen embed wrote it; get a whole copy, or "
            "embed anew with drrgen embed --overwrite"
        )
    vectors, names = _join_parts(tables, provenance, folder)
    return Targets(
        provenance=provenance,
        vectors=vectors,
        places={name: i for i, name in enumerate(names)},
    )


def _join_parts(
    tables: Sequence[pa.Table], provenance: Provenance, folder: Path
) -> tuple[Float32[np.ndarray, "n e"], list[str]]:
    """Join the parts: vectors, and their names."""
    try:
        table = pa.concat_tables(tables)
        table = table.filter(pc.equal(table["status"], Status.OK.value)).combine_chunks()
        flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(-1, provenance.dim).astype(np.float32)
        names = table["sample_id"].to_pylist()
    except (ValueError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"the parts of {folder} are not as drrgen embed wrote them ({type(error).__name__}); "
            "embed anew with drrgen embed --overwrite"
        ) from error
    _check_vectors(vectors, names, folder)
    return vectors, names


def _read_provenance(data: bytes, folder: Path) -> Provenance:
    """Read what the parts say of their encoder."""
    try:
        return Provenance.from_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"the parts of {folder} do not tell their encoder as drrgen embed does "
            f"({type(error).__name__}); embed anew with drrgen embed --overwrite"
        ) from error


def _check_vectors(vectors: Float32[np.ndarray, "n e"], names: Sequence[str], folder: Path) -> None:
    """Refuse vectors that no encoder of ours made: each has a name, and length one."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = int((~(np.abs(length - 1) < _LENGTH_TOL)).sum())
    if bad or len(names) != len(vectors):
        raise ManifestError(
            f"{folder} has {bad} of {len(vectors)} vectors that are not of length one, for "
            f"{len(names)} names; embed anew with drrgen embed --overwrite"
        )
