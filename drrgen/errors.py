"""Every error that drrgen raises on purpose, and every reason a study can be turned away for.

    DrrgenError
    ├── InputError(ValueError)        the caller's mistake: fix the call
    │   ├── GeometryError             impossible distance, pitch or pose
    │   ├── PhysicsError              impossible energy, dose or table
    │   └── ConfigError               unknown key, wrong type, missing section
    ├── DataError                     this file or study cannot be used: carries path and code
    │   ├── VolumeError               not a CT that can be trusted
    │   ├── RadiographError           not a radiograph that can be trusted
    │   └── ReportError               not a report that can be trusted
    ├── ManifestError                 schema or version mismatch, broken shard, other settings
    └── EngineError(RuntimeError)     no CUDA, out of memory, engine not installed

A message says what it is about, what was found, what was wanted, and what to do.
"""

from enum import StrEnum
from pathlib import Path


class Status(StrEnum):
    """What became of a study: column ``status`` of the manifest."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a study has no picture: column ``reason`` of the manifest. Never renamed."""

    # The input cannot be trusted: refused, and not tried again.
    NO_IMAGE = "no_image"
    NOT_CT = "not_ct"
    LOCALIZER_ONLY = "localizer_only"
    TOO_FEW_SLICES = "too_few_slices"
    MIXED_ORIENTATION = "mixed_orientation"
    SLICE_GAP = "slice_gap"
    DUPLICATE_POSITIONS = "duplicate_positions"
    MULTI_PHASE = "multi_phase"
    NO_POSITION = "no_position"
    NO_ORIENTATION = "no_orientation"
    TILT_REFUSED = "tilt_refused"
    NO_RESCALE = "no_rescale"
    HU_SUSPECT = "hu_suspect"
    HU_DOUBLE_RESCALED = "hu_double_rescaled"
    PIXEL_MISMATCH = "pixel_mismatch"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNREADABLE_SLICE = "unreadable_slice"
    TRUNCATED_FILE = "truncated_file"
    NAN_VOXELS = "nan_voxels"
    ENHANCED_UNSUPPORTED = "enhanced_unsupported"
    EMPTY_BODY = "empty_body"
    COVERAGE_SHORT = "coverage_short"
    SPACING_CONFLICT = "spacing_conflict"
    METADATA_MISSING = "metadata_missing"
    NOT_RADIOGRAPH = "not_radiograph"
    # The work went wrong: failed, and tried again by the next run.
    RENDER_BLANK = "render_blank"
    IO_ERROR = "io_error"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


FAILURES = frozenset(
    {Reason.RENDER_BLANK, Reason.IO_ERROR, Reason.OUT_OF_MEMORY, Reason.TIMEOUT, Reason.CRASHED}
)


def status_of(reason: Reason) -> Status:
    """Say whether a reason refuses a study for good or only failed it this time."""
    return Status.FAILED if reason in FAILURES else Status.REFUSED


class DrrgenError(Exception):
    """Base of all errors that drrgen raises on purpose."""


class InputError(DrrgenError, ValueError):
    """The caller's mistake: fix the call."""


class GeometryError(InputError):
    """An impossible distance, pitch or pose."""


class PhysicsError(InputError):
    """An impossible energy, dose or attenuation table."""


class ConfigError(InputError):
    """An unknown key, a wrong type or an impossible value in the settings."""


class DataError(DrrgenError):
    """A file or study that cannot be used.

    Args:
        code: Stable word that becomes the row's ``reason``.
        path: What could not be used. It stays out of ``detail``, because a path may name a
            patient and ``detail`` is written into the manifest.
        detail: What was found and what was wanted.
        remedy: What the user can do about it.
    """

    def __init__(self, code: Reason, path: Path | str, detail: str, *, remedy: str) -> None:
        super().__init__(code, path, detail, remedy)
        self.code = code
        self.path = Path(path)
        self.detail = detail
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.code}: {self.detail}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.path, self.detail, self.remedy)


def _rebuild(
    kind: type[DataError], code: Reason, path: Path, detail: str, remedy: str
) -> DataError:
    """Unpickle a DataError (its constructor takes a keyword, which pickle cannot pass)."""
    return kind(code, path, detail, remedy=remedy)


class VolumeError(DataError):
    """A CT that cannot be read rightly."""


class RadiographError(DataError):
    """A radiograph that cannot be read or written rightly."""


class ReportError(DataError):
    """A report that cannot be read rightly."""


class ManifestError(DrrgenError):
    """A manifest of another schema or other settings, or a broken shard."""


class EngineError(DrrgenError, RuntimeError):
    """An engine or device that this machine does not have, or that ran out of memory."""
