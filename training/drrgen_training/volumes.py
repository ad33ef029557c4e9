"""The CT of a manifest: where they lie, how they are read, and packed for a small encoder."""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8
from torch import Tensor

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import ConfigError, InputError, Reason, VolumeError
from drrgen.io.listing import CTFiles
from drrgen.io.told_scale import ToldScale, parse_told_scale, read_told
from drrgen.io.volumes import read_ct
from drrgen.jobs.plan import find_private
from drrgen.volume import CTVolume
from drrgen_training.encoders import CTEncoder, make_ct_encoder
from drrgen_training.samples import Samples
from drrgen_training.shards import Content

VOLUME_VERSION = 1  # rises whenever a packed byte would change
KIND = "volumes"
_TOLD = ("RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing")


@dataclass(frozen=True, slots=True, kw_only=True)
class CTPlaces:
    """Where the CT of a data set lie.

    Attributes:
        root: Folder that ``ct_ref`` is relative to.
        located: Files of clinical CT, by sample.
        told: What a table tells of a CT's scale, by its file name.
    """

    root: Path | None
    located: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told: Mapping[str, ToldScale] = field(default_factory=dict)

    def find(self, row: Mapping[str, Any]) -> CTFiles:
        """Find the files of a row's CT.

        Raises:
            InputError: The place is not told, or the row has no CT.
        """
        if row["ct_ref"] is None or row["ct_format"] is None:
            raise InputError(f"{row['sample_id']} has no CT; choose rows whose ct_ref is not null")
        if row["sample_id"] in self.located:
            paths = tuple(map(Path, self.located[row["sample_id"]]))
        elif self.root is None:
            raise InputError(
                "where the CT lie is not known; give the folder that drrgen render read with "
                "--ct-dir"
            )
        else:
            paths = (self.root / row["ct_ref"],)
        return CTFiles(
            ct_format=CTFormat(row["ct_format"]),
            paths=paths,
            name=row["ct_ref"],
            n_bytes=row["ct_bytes"] or 0,
            mtime_ns=0,
        )

    def read(self, row: Mapping[str, Any]) -> CTVolume:
        """Read a row's CT.

        Raises:
            VolumeError: It cannot be read rightly, or lacks the table that its HU came from.
            InputError: The place is not told.
            OSError: It cannot be read at all.
        """
        files = self.find(row)
        told = self.told.get(Path(row["ct_ref"]).name)
        if told is not None:
            return read_told(files, told)
        if row["hu_source"] == HuSource.CSV:
            raise VolumeError(
                Reason.METADATA_MISSING, str(files.paths[0]),
                "its HU scale was told by a table when it was rendered, and no table tells it now",
                remedy="give the metadata CSV with --metadata",
            )  # fmt: skip
        return read_ct(files)


def find_places(dataset: Path, root: Path | None, metadata: Path | None = None) -> CTPlaces:
    """Find where the CT of a data set lie; those of clinical DICOM by the locator beside it.

    Args:
        dataset: Output folder of ``drrgen render``.
        root: Folder that it read.
        metadata: Table of RescaleSlope, RescaleIntercept, XYSpacing and ZSpacing by VolumeName.

    Raises:
        InputError: The table cannot be read.
    """
    locator = find_private(dataset) / "locator.parquet"
    located = {}
    if locator.exists():
        rows = pq.read_table(io.BytesIO(locator.read_bytes())).to_pylist()
        located = {row["sample_id"]: tuple(row["paths"]) for row in rows}
    told = _read_told(metadata) if metadata else {}
    return CTPlaces(root=root, located=located, told=told)


def _read_told(path: Path) -> dict[str, ToldScale]:
    """Read the scales that a table tells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the table {path}: {error}") from error
    if rows and not {"VolumeName", *_TOLD} <= rows[0].keys():
        raise InputError(
            f"{path} has the columns {', '.join(rows[0])}; wanted VolumeName, {', '.join(_TOLD)}"
        )
    return {row["VolumeName"]: parse_told_scale(*(row[name] for name in _TOLD)) for row in rows}


def describe_volumes(samples: Samples, places: CTPlaces, name: str) -> Content:
    """Describe the CT of samples as an encoder takes them, to be packed as bytes.

    Args:
        samples: Whose CT, a row each.
        places: Where they lie.
        name: Name of the encoder; its input must lie between 0 and 1.

    Raises:
        ConfigError: No such encoder, or one that is not for training.
    """
    encoder = cast("CTEncoder", make_ct_encoder(name))
    if encoder.is_final:
        raise ConfigError(
            f"{name} is not trained and its input is large: embed the CT with it, once, by drrgen "
            "embed --of ct; packing is for encoders that train, such as tiny3d"
        )

    def read(i: int) -> UInt8[np.ndarray, "z y x"]:
        made = encoder.prepare(places.read(samples.rows[i]))[0]
        return (made * 255).round().clamp(0, 255).byte().numpy()

    return Content(
        kind=KIND,
        names=[row["sample_id"] for row in samples.rows],
        digests=[digest_ct(row) for row in samples.rows],
        shape=encoder.spec.size,
        read=read,
        settings={"encoder": name, "version": VOLUME_VERSION},
    )


def shift_volumes(
    volumes: UInt8[Tensor, "b z y x"], share: float, generator: torch.Generator
) -> UInt8[Tensor, "b z y x"]:
    """Shift each CT along its axes by whole voxels; what comes in is air.

    Args:
        volumes: A batch.
        share: Up to this share of each side, either way.
        generator: Source of chance.
    """
    sides = torch.tensor(volumes.shape[1:])
    most = (sides * share).long()
    drawn = torch.rand(len(volumes), 3, generator=generator) * (2 * most + 1)
    out = torch.zeros_like(volumes)
    for to, source, shift in zip(out, volumes, (drawn.long() - most).tolist(), strict=True):
        taken = tuple(slice(max(0, -n), min(0, -n) or None) for n in shift)
        there = tuple(slice(max(0, n), min(0, n) or None) for n in shift)
        to[there] = source[taken]
    return out


def digest_ct(row: Mapping[str, Any]) -> str:
    """Name the content of a row's CT."""
    told = f"{row['ct_sha256']} {row['ct_ref']}"
    return hashlib.sha256(told.encode()).hexdigest()[:20]
