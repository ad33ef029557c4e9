"""What a build will cost: pictures, room on the disk, time. Rough, and said so.

The figures are of one core of a server of 2024 (see benchmarks/RESULTS.md), for gzip-compressed
NIfTI; a machine that has already built some of the data set is judged by that instead.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drrgen.choices import ImageFormat
from drrgen.config import Config, RenderConfig
from drrgen.errors import InputError
from drrgen.io.stores import Place
from drrgen.jobs.cluster import count_workers
from drrgen.jobs.runner import Forecast
from drrgen.jobs.shards import find_numbers, read_stats

_BYTES_PER_PIXEL = {
    ImageFormat.PNG16: 1.5,  # of 2: noise is not compressed
    ImageFormat.PNG8: 0.7,
    ImageFormat.DICOM: 2.0,
    ImageFormat.NPY: 4.0,
    ImageFormat.TIFF: 4.0,
}
_FILLED = 0.85  # of a square: the short side is shorter
_PAIR_BYTES_PER_PIXEL = 1.0
_ROW_BYTES = 1500.0  # of the manifest and its marker, a row
_SECONDS_PER_GB = 6.0  # to read, unpack and digest a CT
_SECONDS_PER_STUDY = 0.6  # body, table, row
_SECONDS_PER_MEGAPIXEL = 0.6  # rays, physics, display, PNG


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is left to do costs.

    Attributes:
        studies: CT or radiographs to do.
        kept: Studies that are done already.
        pictures: Radiographs to write.
        bytes_to_write: Room that they take [bytes].
        bytes_free: Room that there is [bytes]; None in a store.
        seconds: Time on this machine [s].
        workers: Processes that it is reckoned with.
        is_measured: Whether the time is taken from what was built here before.
    """

    studies: int
    kept: int
    pictures: int
    bytes_to_write: float
    bytes_free: int | None
    seconds: float
    workers: int
    is_measured: bool

    @property
    def summary(self) -> str:
        """The estimate in a line."""
        free = "" if self.bytes_free is None else f" of {_say_bytes(self.bytes_free)} free"
        basis = "as before here" if self.is_measured else "roughly"
        return (
            f"{self.pictures} radiographs, {_say_bytes(self.bytes_to_write)} to write{free}; "
            f"{basis} {_say_time(self.seconds)} with {self.workers} workers"
        )

    def check_room(self) -> None:
        """Refuse what cannot fit.

        Raises:
            InputError: There is less room than it takes.
        """
        if self.bytes_free is not None and self.bytes_to_write > self.bytes_free:
            raise InputError(
                f"{_say_bytes(self.bytes_to_write)} to write and {_say_bytes(self.bytes_free)} "
                "free; make room, or choose another --out, a smaller --size, fewer views or png8"
            )


def estimate(ahead: Forecast, config: Config, out: Place) -> Estimate:
    """Reckon what a build will cost.

    Args:
        ahead: How much there is to do.
        config: All settings.
        out: Output folder.
    """
    render = config.render
    pictures = ahead.todo * len(render.view) * render.views_per_ct
    written = pictures * (_count_bytes(render) + _ROW_BYTES)
    workers = count_workers(max(1, ahead.todo), config.run.workers)
    measured = _measure(out)
    if measured is None:
        megapixels = pictures * render.size**2 * _FILLED / 1e6
        work = (
            ahead.todo_bytes / 1e9 * _SECONDS_PER_GB
            + ahead.todo * _SECONDS_PER_STUDY
            + megapixels * _SECONDS_PER_MEGAPIXEL
        )
    else:
        work = ahead.todo * measured
    return Estimate(
        studies=ahead.todo,
        kept=ahead.kept,
        pictures=pictures,
        bytes_to_write=written,
        bytes_free=_find_free(out) if isinstance(out, Path) else None,
        seconds=work / workers,
        workers=workers,
        is_measured=measured is not None,
    )


def _count_bytes(render: RenderConfig) -> float:
    """Reckon the bytes of one picture in all its formats, with what goes beside it."""
    pixels = render.size**2 * _FILLED
    each = sum(_BYTES_PER_PIXEL[image_format] for image_format in render.format)
    beside = len(render.pairs) * _PAIR_BYTES_PER_PIXEL
    return pixels * (each + beside)


def _measure(out: Place) -> float | None:
    """Take the time of a study from what was built already [s]; None when nothing was."""
    seconds = [
        item["seconds"]
        for number in find_numbers(out)[:20]
        for item in _list_records(out, number)
        if item["status"] == "ok"
    ]
    return sum(seconds) / len(seconds) if seconds else None


def _list_records(out: Place, number: int) -> Iterator[dict[str, Any]]:
    """List what a marker keeps of each study."""
    yield from (read_stats(out, number) or {"items": {}})["items"].values()


def _find_free(out: Path) -> int:
    """Find the room on the disk that an output is on, or will be."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _say_bytes(count: float) -> str:
    """Say a size in words."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1e3:.0f} kB"


def _say_time(seconds: float) -> str:
    """Say a time in words."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{max(1, round(seconds))} seconds"
