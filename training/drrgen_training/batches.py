"""From rows to batches: what is read, and a thread that reads the next one while one is trained."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from drrgen.errors import ConfigError, InputError, ManifestError
from drrgen_training.encoders import ImageSpec
from drrgen_training.losses import Identity, Modality
from drrgen_training.model import TriModal
from drrgen_training.pictures import Pictures, augment, open_pictures, shrink
from drrgen_training.reports import drop_sentences
from drrgen_training.samples import Samples, name_picture
from drrgen_training.settings import CACHED, TrainSettings
from drrgen_training.shards import ShardReader
from drrgen_training.targets import Targets, read_targets
from drrgen_training.volumes import KIND as VOLUMES
from drrgen_training.volumes import digest_ct, shift_volumes

FILE_MARGIN = 1.15  # pictures that are not packed are read so much larger than the encoder's size
_SENTENCES = 64  # whose fate is drawn
_AHEAD = 2  # batches that are made ahead
_LOOK = 64  # pictures in a batch that is only looked at
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """One batch, on the processor.

    Attributes:
        names: Of its radiographs, for messages.
        identity: Who is who.
        pictures: Bytes, of the size that the encoder wants.
        volumes: Bytes, likewise.
        texts: Of reports; empty for none.
        targets: Cached embeddings, by modality.
    """

    names: tuple[str, ...]
    identity: Identity
    pictures: UInt8[Tensor, "b v u"] | None = None
    volumes: UInt8[Tensor, "b z y x"] | None = None
    texts: tuple[str, ...] = ()
    targets: dict[str, Float[Tensor, "b e"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a training reads besides the manifest.

    Attributes:
        pack: Folder of ``drrgen pack``; without it pictures are read from their files.
        targets: Cached embeddings, by modality.
    """

    pack: Path | None = None
    targets: Mapping[str, Targets] = field(default_factory=dict)


def open_sources(settings: TrainSettings, folders: Sequence[Path], pack: Path | None) -> Sources:
    """Read the cached embeddings that a recipe needs.

    Args:
        settings: The recipe.
        folders: Folders of ``drrgen embed``.
        pack: Folder of ``drrgen pack``.

    Raises:
        ConfigError: A cached modality has no embeddings, or two of them, or of another width.
        ManifestError: They are not whole, or made of texts by another template.
    """
    found: dict[str, Targets] = {}
    for folder in folders:
        targets = read_targets(folder)
        told = targets.provenance
        if told.modality in found:
            raise ConfigError(
                f"two folders of targets hold embeddings of {told.modality} ({folder} is the "
                "second); give one of each modality with --targets"
            )
        if told.dim != settings.model.dim:
            raise ConfigError(
                f"the {told.modality} targets in {folder} have {told.dim} numbers, model.dim is "
                f"{settings.model.dim}; set model.dim={told.dim}"
            )
        if told.template not in (None, settings.data.template):
            raise ManifestError(
                f"the reports in {folder} were made by the template {told.template}, wanted "
                f"{settings.data.template}; embed them again, or set data.template"
            )
        found[told.modality] = targets
    _check_one_space(found)
    for modality in sorted(settings.modalities):
        if settings.model.name_encoder(modality) == CACHED and modality not in found:
            raise ConfigError(
                f"model.{modality} is cached, but no folder of --targets holds embeddings of "
                f"{modality}; make some with drrgen embed, or name an encoder in model.{modality}"
            )
    return Sources(pack=pack, targets=found)


def _check_one_space(found: Mapping[str, Targets]) -> None:
    """Refuse CT and reports of two trainings: their vectors have nothing to do with each other."""
    told = [t.provenance for t in found.values() if t.provenance.scale is not None]
    kinds = {t.encoder.split(":", maxsplit=1)[0] for t in told}
    scales = {round(t.scale or 0, 4) for t in told}
    if len(kinds) > 1 or len(scales) > 1:
        names = " and ".join(sorted(f"{t.modality} of {t.encoder}" for t in told))
        raise ManifestError(
            f"the targets are of encoders that were not trained together: {names}; embed CT and "
            "reports with one checkpoint"
        )


class BatchMaker:
    """Makes batches of some samples.

    Args:
        samples: To draw from.
        settings: The recipe.
        model: Says what each encoder wants to see.
        sources: Pictures and targets.

    Raises:
        InputError: A modality that the loss needs is nowhere among the samples.
        ManifestError: Packed volumes are missing.
    """

    def __init__(
        self, samples: Samples, settings: TrainSettings, model: TriModal, sources: Sources
    ) -> None:
        self.samples, self.settings = samples, settings.data
        self._key = samples.number(settings.data.key)
        towers: Mapping[str, Any] = dict(model.towers.items())
        self._image: ImageSpec | None = None
        self._pictures: Pictures | None = None
        if Modality.CXR in towers:
            self._image = towers[Modality.CXR].encoder.spec
            self._pictures = open_pictures(samples, sources.pack, find_file_size(self._image))
        self._volumes = None
        if Modality.CT in towers:
            self._volumes = self._open_volumes(settings.model.ct, sources.pack)
        self._has_texts = Modality.REPORT in towers
        self._trains_texts = Modality.REPORT in settings.model.train
        self._targets = {
            name: (targets, targets.find(self._name(name)))
            for name, targets in sources.targets.items()
            if name in settings.modalities and name not in towers
        }
        self._check_there(settings)

    def make(
        self, rows: Int64[np.ndarray, " b"], generator: torch.Generator | None = None
    ) -> Batch:
        """Make a batch; with a generator its pictures are varied."""
        pictures = None
        if self._pictures is not None and self._image is not None:
            seen = self._pictures.read(rows)
            size, data = self._image.size, self.settings
            pictures = shrink(seen, size) if generator is None else augment(
                seen, size, crop=data.crop, brightness=data.brightness, contrast=data.contrast,
                generator=generator,
            )  # fmt: skip
        return Batch(
            names=tuple(name_picture(self.samples.rows[i]) for i in rows),
            identity=self.make_identity(rows),
            pictures=pictures,
            volumes=self._read_volumes(rows, generator),
            texts=self._read_texts(rows, generator),
            targets={name: t.take(where[rows]) for name, (t, where) in self._targets.items()},
        )

    def _read_volumes(
        self, rows: Int64[np.ndarray, " b"], generator: torch.Generator | None
    ) -> UInt8[Tensor, "b z y x"] | None:
        """Read packed CT, where they are needed."""
        if self._volumes is None:
            return None
        read = torch.from_numpy(self._volumes.read(rows))
        share = self.settings.shift
        return read if generator is None or not share else shift_volumes(read, share, generator)

    def _read_texts(
        self, rows: Int64[np.ndarray, " b"], generator: torch.Generator | None
    ) -> tuple[str, ...]:
        """Look up the texts of reports, where they are needed."""
        if not self._has_texts:
            return ()
        numbers = self.samples.report[rows].tolist()
        texts = tuple(self.samples.texts[n] if n >= 0 else "" for n in numbers)
        share = self.settings.drop_sentences
        if generator is None or not share or not self._trains_texts:
            return texts
        kept = torch.rand(len(texts), _SENTENCES, generator=generator) >= share
        return tuple(map(drop_sentences, texts, kept.tolist()))

    def make_identity(self, rows: Int64[np.ndarray, " b"]) -> Identity:
        """Say who is who among some rows."""
        return Identity(
            key=torch.from_numpy(self._key[rows]),
            report=torch.from_numpy(self.samples.report[rows]),
            has={name: torch.from_numpy(flags[rows]) for name, flags in self._has.items()},
        )

    def _name(self, modality: str) -> list[str | None]:
        """Name what the embedding of each sample is called."""
        match modality:
            case Modality.REPORT:
                return [row["text"] for row in self.samples.rows]
            case Modality.CT:
                return [row["sample_id"] for row in self.samples.rows]
        return [name_picture(row) for row in self.samples.rows]

    def _open_volumes(self, encoder: str, pack: Path | None) -> ShardReader:
        """Open the packed CT, for a CT encoder that runs in training."""
        if pack is None:
            raise InputError(
                "a CT encoder that runs in training reads packed CT, and there is no pack; make "
                "one with drrgen pack --ct-dir, or embed the CT and set model.ct=cached"
            )
        rows = self.samples.rows
        names = [row["sample_id"] for row in rows]
        reader = ShardReader(pack, VOLUMES, names, [digest_ct(row) for row in rows])
        if reader.settings["encoder"] != encoder:
            raise ManifestError(
                f"the CT in {pack} are packed for {reader.settings['encoder']}, model.ct is "
                f"{encoder}; pack them into another folder with drrgen pack --ct {encoder}"
            )
        return reader

    def _check_there(self, settings: TrainSettings) -> None:
        """Find which samples have each modality; all must be somewhere."""
        self._has = {Modality.REPORT.value: self.samples.report >= 0}
        for name, (_, where) in self._targets.items():
            self._has[name] = where >= 0
        for name in (Modality.REPORT, Modality.CT):
            if name in settings.modalities and name in self._has and not self._has[name].any():
                raise InputError(
                    f"no sample of {self.samples.root} has a {name}"
                    + (" among the targets" if name in self._targets else "")
                    + "; for reports build the data set with drrgen build --reports, for CT embed "
                    "this data set, or set the weights of their terms to 0"
                )


def encode(model: TriModal, batch: Batch, part: slice, device: torch.device) -> dict[str, Tensor]:
    """Embed a part of a batch with every tower, and take its cached embeddings."""
    made: dict[str, Tensor] = {
        name: target[part].to(device) for name, target in batch.targets.items()
    }
    for name, tower in model.towers.items():
        match name:
            case Modality.CXR if batch.pictures is not None:
                made[name] = tower(batch.pictures[part].to(device).float() / 255)
            case Modality.CT if batch.volumes is not None:
                made[name] = tower(batch.volumes[part].to(device)[:, None].float() / 255)
            case Modality.REPORT:
                made[name] = tower(batch.texts[part])
    return made


def find_file_size(spec: ImageSpec) -> int:
    """Size at which pictures are read from files for an encoder: somewhat larger than its own."""
    return round(spec.size * FILE_MARGIN)


def read_shrunk(pictures: Pictures, n: int, size: int) -> Iterator[UInt8[Tensor, "b v v"]]:
    """Read the first N pictures at a size, a batch at a time and made ahead, without chance."""
    parts = [np.arange(i, min(i + _LOOK, n)) for i in range(0, n, _LOOK)]
    return make_ahead(lambda rows: shrink(pictures.read(rows), size), parts)


def make_ahead(make: Callable[[U], T], wanted: Iterable[U]) -> Iterator[T]:
    """Make things in their order, the next ones in a thread while one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[T]] = []
        for each in wanted:
            waiting.append(pool.submit(make, each))
            if len(waiting) > _AHEAD:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
