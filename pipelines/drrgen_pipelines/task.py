"""What is done to one study: read it, take its views, write the pictures, tell it in rows."""

import dataclasses
import json
import logging
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from drrgen.anatomy.body import Body, remove_surroundings
from drrgen.anatomy.coverage import find_remarks, measure_coverage
from drrgen.choices import AcquisitionName
from drrgen.config import (
    RENDER_VERSION,
    AugmentConfig,
    RenderConfig,
    RunConfig,
    find_fingerprint,
)
from drrgen.errors import (
    DataError,
    DrrgenError,
    RadiographError,
    Reason,
    Status,
    status_of,
)
from drrgen.geometry.framing import Box
from drrgen.io.dicom_radiographs import make_dicom_facts
from drrgen.io.hounsfield import is_label_map
from drrgen.io.radiographs import write_radiograph
from drrgen.io.structures import read_structures, write_thickness
from drrgen.io.told_scale import read_told
from drrgen.io.volumes import read_ct, stage_ct
from drrgen.jobs.plan import digest_facts
from drrgen.jobs.task import Item
from drrgen.jobs.threads import one_thread
from drrgen.manifest import Row, make_row, to_table
from drrgen.phantoms import make_box
from drrgen.renderer.render import choose_engine
from drrgen.structures import Structure, lies_inside
from drrgen.volume import CTVolume, Hu
from drrgen_pipelines.admission import admit
from drrgen_pipelines.draws import Draw, find_mark, list_draws
from drrgen_pipelines.picture import Picture, project_structures, show_pair, take_picture
from drrgen_pipelines.projection import find_setup, project, shoot
from drrgen_pipelines.study import Study
from drrgen_pipelines.takeover import REAL, take_over

log = logging.getLogger(__name__)

NO_MASK, MASK_UNREADABLE, MASK_MISMATCH = "no_mask", "mask_unreadable", "mask_mismatch"

_BESIDE = ("mask_path", "bone_path", "soft_path")
BLANK_RANGE = 0.05  # of line integrals: 2.5 mm of water tell no anatomy
METAL_HU = 2500
_PERCENTILE_SAMPLES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderTask:
    """Render studies into an output folder; runs in any process (see ``drrgen.jobs``).

    Attributes:
        out: Output folder.
        render: Settings that touch pixels.
        augment: How far draws wander.
        run: Engine and device.
    """

    out: Path
    render: RenderConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def fingerprint(self) -> str:
        """Digest of all settings that touch pixels."""
        return find_fingerprint(self.render, self.augment)

    def prepare(self) -> None:
        """Load the compiled kernels, before the clock runs."""
        cube = make_box((40.0, 40.0, 40.0), 10.0, hu=0)
        body = Box(low_mm=(-20.0, -20.0, -20.0), high_mm=(20.0, 20.0, 20.0))
        tiny = dataclasses.replace(self.render, size=16, isocenter=None, views_per_ct=1)
        for draw in self.list_draws(cube, tiny):
            shoot(project(cube, body, draw, engine=self.run.engine, device=self.run.device), draw)

    def __call__(self, item: Item) -> list[Row]:
        """Render one study into its rows; see ``render_study``."""
        with one_thread():
            return render_study(Study.from_dict(item.payload), self)

    def list_draws(self, volume: CTVolume, render: RenderConfig | None = None) -> list[Draw]:
        """List the pictures to take of a CT."""
        config = render or self.render
        presets = {view: find_setup(view, config).acquisition for view in config.view}
        return list_draws(config, self.augment, presets, find_mark(volume))

    def files(self, rows: Sequence[Row]) -> list[str]:
        """Name the pictures of some rows, in every format."""
        good = [row for row in rows if row["status"] == Status.OK]
        drawn = [row for row in good if row["cxr_kind"] != REAL]
        pictures = [row["cxr_path"] for row in good if row["cxr_kind"] == REAL]
        pictures += [_name_picture(row) + f.suffix for row in drawn for f in self.render.format]
        beside = [row[column] for row in good for column in _BESIDE if row[column] is not None]
        return pictures + beside

    def failure(self, item: Item, reason: Reason, detail: str) -> list[Row]:
        """Make the row of a study that took its worker down, or took too long."""
        return [_make_failed_row(Study.from_dict(item.payload), self, reason, detail)]

    def to_table(self, rows: Sequence[Row]) -> pa.Table:
        """Turn rows into a part of the manifest."""
        return to_table(rows, fingerprint=self.fingerprint)

    def digest(self, item: Item) -> str:
        """Digest the content of a study, to tell whether a touched file has really changed."""
        study = Study.from_dict(item.payload)
        if study.mask is not None or study.files is None:
            return ""  # the CT's digest says nothing of its label map
        try:
            source = read_ct(study.files).source
        except (DataError, OSError):
            return ""
        return source.sha256 if source else ""


def make_item(study: Study) -> Item:
    """Wrap a study for the runner."""
    return Item(
        key=study.sample_id,
        payload=study.to_dict(),
        n_bytes=study.n_bytes,
        mtime_ns=study.mtime_ns,
        facts=digest_facts(study.facts),
    )


def render_study(study: Study, task: RenderTask) -> list[Row]:
    """Render all views of a study. Whatever goes wrong becomes a row, never an exception.

    Args:
        study: The CT, or the real radiograph.
        task: Settings and output folder.

    Returns:
        A row a view; one row without a view when there is no picture; no row at all for a label
        map, which is no CT, and for a radiograph of a view that is not kept.
    """
    if study.refusal is not None:
        return [_make_failed_row(study, task, study.refusal.reason, study.refusal.detail)]
    try:
        return _take_over(study, task) if study.files is None else _render(study, task)
    except DataError as error:
        log.warning("%s: %s: %s; %s", study.sample_id, error.code, error.detail, error.remedy)
        detail = f"{error.detail}; {error.remedy}"
        return [_make_failed_row(study, task, error.code, detail)]
    except MemoryError:
        log.error("%s: out of memory", study.sample_id)  # noqa: TRY400  where tells nothing
        detail = "the machine has too little memory for this study; use fewer workers"
        return [_make_failed_row(study, task, Reason.OUT_OF_MEMORY, detail)]
    except OSError as error:
        log.error("%s: input or output failed\n%s", study.sample_id, _trace(error))  # noqa: TRY400
        word = os.strerror(error.errno) if error.errno else type(error).__name__
        detail = f"{word}; see to the disk or the network, and run the same command again"
        return [_make_failed_row(study, task, Reason.IO_ERROR, detail)]
    except Exception as error:  # noqa: BLE001  one bad study costs one row
        log.error("%s: crashed\n%s", study.sample_id, _trace(error))  # noqa: TRY400  see _trace
        shown = f": {error}" if isinstance(error, DrrgenError) else ""
        detail = f"{type(error).__name__}{shown}; the log has the traceback"
        return [_make_failed_row(study, task, Reason.CRASHED, detail)]


def _render(study: Study, task: RenderTask) -> list[Row]:
    """Render the views of a CT; no row for a label map."""
    if study.files is None:
        return []
    with stage_ct(study.files) as files:
        volume = read_told(files, study.told) if study.told else read_ct(files)
    if is_label_map(volume.hu):
        return []
    body = admit(volume, task.render.on_tilt)
    return _render_views(study, volume, body, task)


def _take_over(study: Study, task: RenderTask) -> list[Row]:
    """Take over a real radiograph; no row for a view that is not kept."""
    facts = take_over(study, task.render)
    if facts is None:
        return []
    row = _describe(study, task) | facts.columns | {"status": Status.OK.value}
    row["warnings"] = [*study.warnings, *facts.warnings]
    path = f"{_name_picture(row)}{facts.image_format.suffix}"
    settings = {f"drrgen:{name}": str(row[name]) for name in _IN_REAL_PICTURE}
    digest = write_radiograph(
        task.out / path, facts.grey, format=facts.image_format, pitch_mm=row["pitch_mm"],
        settings=settings,
    )  # fmt: skip
    return [row | {"cxr_path": path, "cxr_sha256": digest}]


def _trace(error: BaseException) -> str:
    """Tell where an error arose and of what kind it is; its own text may name a patient's file."""
    places = "".join(traceback.format_tb(error.__traceback__))
    return f"{places}{type(error).__name__}"


def _render_views(study: Study, volume: CTVolume, body: Body, task: RenderTask) -> list[Row]:
    """Take and write one picture after the other; a study that fails leaves none."""
    facts = _describe(study, task) | _describe_volume(volume)
    draws, cleared = task.list_draws(volume), volume
    if not task.render.keep_table:
        whole_is_shown = task.render.acquisition is AcquisitionName.MEAN_PROJECTION
        cleared = remove_surroundings(volume, body, in_place=not whole_is_shown)
        facts["table_removed_ml"] = body.beside_ml
    facts |= _describe_coverage(cleared, body)
    structures, warnings = _find_structures(study, volume) if task.render.mask else ([], [])
    facts["warnings"] = [*(facts["warnings"] or ()), *warnings, *study.warnings]
    rows = []
    try:
        for draw in draws:
            picture = take_picture(volume, cleared, body, draw, task.run)
            _check_not_blank(picture, study)
            rows.append(_write_picture(picture, structures, facts, task))
    except BaseException:
        for path in task.out.glob(f"{_name_folder(study.sample_id)}/{study.sample_id}_*"):
            path.unlink()
        raise
    return rows


def _find_structures(study: Study, volume: CTVolume) -> tuple[list[Structure], list[str]]:
    """Read the label map of a study; a picture without one is still a picture."""
    if study.mask is None:
        return [], [NO_MASK]
    try:
        structures = read_structures(study.mask)
    except DataError as error:
        log.warning("%s: its label map: %s; %s", study.sample_id, error.detail, error.remedy)
        return [], [MASK_UNREADABLE]
    if not lies_inside(structures, volume):
        log.warning("%s: its label map lies outside the CT", study.sample_id)
        return [], [MASK_MISMATCH]
    return structures, []


def _check_not_blank(picture: Picture, study: Study) -> None:
    """Refuse a picture that shows nothing."""
    left, top, width, height = picture.facts["exposed_xywh"]
    inner = picture.line_integral[top : top + height, left : left + width]
    span = float(inner.max() - inner.min())
    if not span > BLANK_RANGE:
        raise RadiographError(
            Reason.RENDER_BLANK,
            study.sample_id,
            f"the line integrals of view {picture.draw.view} span {span:.3g}, wanted more than "
            f"{BLANK_RANGE:g}",
            remedy="check isocenter, distances and the HU of the CT",
        )


def _write_picture(
    picture: Picture, structures: Sequence[Structure], facts: Row, task: RenderTask
) -> Row:
    """Write a picture in every format asked for, and what goes with it; tell it in a row."""
    row = facts | picture.facts | {"status": Status.OK.value}
    row["warnings"] = [*facts["warnings"], *picture.warnings]
    settings = _describe_settings(row, picture.draw.config)
    for image_format in task.render.format:
        path = _name_picture(row) + image_format.suffix
        raw = image_format.holds_line_integrals
        digest = write_radiograph(
            task.out / path,
            picture.line_integral if raw else picture.grey,
            format=image_format,
            pitch_mm=picture.pitch_mm,
            settings=settings,
            facts=make_dicom_facts(row),
        )
        if row["cxr_path"] is None:
            row |= {"cxr_path": path, "cxr_sha256": digest}
        if raw and row["line_integral_path"] is None:
            row["line_integral_path"] = path
    for pair in task.render.pairs:
        path = row[f"{pair.value}_path"] = f"{_name_picture(row)}_{pair.value}.png"
        write_radiograph(
            task.out / path, show_pair(picture, pair), pitch_mm=picture.pitch_mm, settings=settings
        )
    if structures and picture.projection is not None:
        path = row["mask_path"] = f"{_name_picture(row)}_mask.npz"
        thickness = project_structures(structures, picture.projection, task.run)
        write_thickness(task.out / path, structures, thickness)
    return row


def _name_picture(row: Row) -> str:
    """Name a picture under the output folder, without the ending."""
    sample = row["sample_id"]
    return f"{_name_folder(sample)}/{sample}_{row['view']}_{row['draw']}"


def _name_folder(sample_id: str) -> str:
    """Name the folder of a sample's pictures under the output folder."""
    return f"images/{sample_id[:2]}"


def _describe(study: Study, task: RenderTask) -> Row:
    """Fill what holds for every row of a study: identity and provenance."""
    engine, device = choose_engine(task.run.engine, task.run.device)
    return make_row(
        **study.identity,
        render_fingerprint=task.fingerprint,
        engine=engine.value,
        device=device.type,
        drrgen_version=version("drrgen"),
        render_version=RENDER_VERSION,
    )


def _make_failed_row(study: Study, task: RenderTask, reason: Reason, detail: str) -> Row:
    """Make the one row of a study without a picture."""
    return _describe(study, task) | {
        "status": status_of(reason).value,
        "reason": reason.value,
        "detail": detail,
        "warnings": list(study.warnings),
    }


def _describe_volume(volume: CTVolume) -> Row:
    """Fill the columns of the CT."""
    p01, p50, p99 = _find_percentiles(volume.hu, (1, 50, 99))
    row: Row = {
        "shape_zyx": list(volume.hu.shape),
        "spacing_zyx_mm": list(volume.spacing_zyx_mm),
        "orientation": volume.orientation,
        "hu_p01": p01,
        "hu_p50": p50,
        "hu_p99": p99,
        "metal_voxels": _count_metal(volume.hu),
        "warnings": list(find_remarks(volume)),
    }
    if volume.source is not None:
        row |= {
            "ct_sha256": volume.source.sha256,
            "hu_source": volume.source.hu_source.value,
            "slice_thickness_mm": volume.source.slice_thickness_mm,
            "kernel": volume.source.kernel,
            "tilt_deg": volume.source.tilt_deg,
            "warnings": [*volume.source.warnings, *row["warnings"]],
        }
    return row


def _find_percentiles(hu: Hu, shares: Sequence[int]) -> list[float]:
    """Find values that so many percent of the voxels do not exceed, from evenly spread voxels."""
    stride = max(1, hu.size // _PERCENTILE_SAMPLES)
    sample = hu.reshape(-1)[::stride].astype(np.int64)
    low = int(sample.min())
    ranks = np.cumsum(np.bincount(sample - low))
    return [float(low + np.searchsorted(ranks, share / 100 * sample.size)) for share in shares]


def _count_metal(hu: Hu) -> int:
    """Count the voxels that only metal has."""
    return sum(
        int(np.count_nonzero(plane > METAL_HU)) for plane in hu if plane.max(initial=0) > METAL_HU
    )


def _describe_coverage(volume: CTVolume, body: Body) -> Row:
    """Fill the columns that say what of the chest the CT shows."""
    coverage = measure_coverage(volume, body)
    return {
        "coverage_top": coverage.top,
        "coverage_bottom": coverage.bottom,
        "fov_truncated_fraction": coverage.fov_truncated_fraction,
    }


_IN_PICTURE = (
    "sample_id", "draw", "view", "acquisition", "sid_mm", "sod_mm", "pitch_mm", "isocenter_mm",
    "rotation_deg", "exposed_xywh", "kvp", "dose_ugy", "seed", "render_fingerprint",
    "render_version", "engine", "drrgen_version",
)  # fmt: skip


_IN_REAL_PICTURE = ("sample_id", "draw", "view", "cxr_kind", "pitch_mm", "drrgen_version")


def _describe_settings(row: Row, config: RenderConfig) -> dict[str, str]:
    """Choose what goes into the picture's own text: all that is needed to make it again."""
    facts = {f"drrgen:{name}": str(row[name]) for name in _IN_PICTURE}
    return facts | {"drrgen:settings": json.dumps(dataclasses.asdict(config), sort_keys=True)}
