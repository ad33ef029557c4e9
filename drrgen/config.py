"""All settings of a rendering: frozen records, TOML files, one fingerprint.

Order of precedence: the defaults here, then a file, then the command line. The same words name
options, keys of the file and columns of the manifest.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from drrgen.choices import (
    AcquisitionName,
    Display,
    Engine,
    Framing,
    ImageFormat,
    OnTilt,
    Pair,
    View,
)
from drrgen.errors import ConfigError

RENDER_VERSION = 2  # rises whenever any pixel would change: see CHANGELOG, Pixels
CLUSTER_WORDS = r"local|slurm|kubernetes|cuda|(tcp|tls)://[^\s/]+:\d{1,5}"

T = TypeVar("T")
Xyz = tuple[float, float, float]


def _key(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"text": text})


def _check(good: bool, key: str, got: object, wanted: str) -> None:
    """Raise ConfigError for a bad value."""
    if not good:
        shown = [str(word) for word in got] if isinstance(got, tuple) else got
        raise ConfigError(f"{key}: got {shown}, wanted {wanted}")


setting, check_value = _key, _check  # for the records of other modules


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderConfig:
    """Every setting that touches a pixel or a row; its fingerprint goes into both.

    Raises:
        ConfigError: A value is out of range; the message names the key.
    """

    dataset: str = _key("local", "name of the data set, part of every sample_id")
    series: str = _key("best", "which series of a study: best, all or a series UID")
    on_tilt: OnTilt = _key(
        OnTilt.REGRID, "a DICOM series of a tilted gantry: regrid (straighten it) or refuse"
    )
    view: tuple[View, ...] = _key((View.PA, View.LL), "PA, AP, LL, RL (LAT = LL)")
    size: int = _key(1024, "long side of the picture [pixels]")
    pitch_mm: float | None = _key(
        None, "detector pitch [mm]; without it the exposed field fills the size"
    )
    framing: Framing = _key(
        Framing.COLLIMATED, "collimated: ends where the CT ends; fixed: 430 x 430 mm"
    )
    acquisition: AcquisitionName | None = _key(
        None, "preset of distances and beam; without it chosen by view"
    )
    display: Display = _key(Display.CHEST, "chest: like a radiograph; linear: in proportion")
    sid_mm: float | None = _key(None, "source to detector [mm], instead of the preset's")
    sod_mm: float | None = _key(None, "source to isocenter [mm], instead of the preset's")
    rotation_deg: Xyz = _key(
        (0.0, 0.0, 0.0), "turn of source and detector about the patient's x, then y, then z"
    )
    isocenter: Xyz | None = _key(
        None, "point of the central ray, LPS [mm]; without it the centre of the body"
    )
    kvp: float | None = _key(None, "tube voltage [kV], instead of the preset's")
    kev: float | None = _key(None, "one photon energy [keV], instead of the tube's spectrum")
    dose_ugy: float | None = _key(
        None, "air kerma at the detector behind the body [uGy], instead of the preset's"
    )
    noise: bool = _key(True, "quantum and electronic noise")
    scatter: bool = _key(True, "scattered radiation, less what the preset's grid stops")
    blur: bool = _key(True, "blur of focal spot and detector")
    heel: bool = _key(False, "the beam weakens towards the anode, which lies cranial")
    inverse_square: bool = _key(False, "the beam weakens away from the central ray")
    brightness: float = _key(0.0, "shift of the grey scale, in its widths; more is whiter")
    contrast: float = _key(1.0, "steepness of the grey scale")
    pairs: tuple[Pair, ...] = _key((), "bone, soft: also show them alone, from the same rays")
    mask: bool = _key(False, "also project the label maps that --mask names")
    keep_table: bool = _key(False, "keep table, cushions and clothes in the picture")
    seed: int = _key(0, "seed of noise and of augmentation draws")
    views_per_ct: int = _key(1, "pictures a view: a plain one, the others drawn from [augment]")
    format: tuple[ImageFormat, ...] = _key(
        (ImageFormat.PNG16,), "png16, png8, dicom, npy, tiff; the first one is what cxr_path names"
    )

    def __post_init__(self) -> None:
        _check(bool(self.dataset), "dataset", self.dataset, "a name")
        _check(bool(self.view), "view", self.view, "at least one of PA, AP, LL, RL")
        _check(len(set(self.view)) == len(self.view), "view", self.view, "each view once")
        _check(16 <= self.size <= 8192, "size", self.size, "16 to 8192 pixels")
        _check(bool(self.format), "format", self.format, "at least one format")
        _check(len(set(self.format)) == len(self.format), "format", self.format, "each once")
        _check(
            not {ImageFormat.PNG8, ImageFormat.PNG16} <= set(self.format),
            "format", self.format, "png8 or png16, not both: they share a file name",
        )  # fmt: skip
        _check(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2**63 - 1")
        _check(1 <= self.views_per_ct <= 1000, "views_per_ct", self.views_per_ct, "1 to 1000")
        _check(abs(self.brightness) <= 1, "brightness", self.brightness, "-1 to 1")
        _check(
            self.kvp is None or self.kev is None, "kvp", self.kvp, "no kvp beside kev: one of them"
        )
        for key in ("pitch_mm", "sid_mm", "sod_mm", "kvp", "kev", "dose_ugy", "contrast"):
            value = getattr(self, key)
            good = value is None or (math.isfinite(value) and value > 0)
            _check(good, key, value, "a positive number")
        for key in ("rotation_deg", "isocenter"):
            value = getattr(self, key)
            good = value is None or (len(value) == 3 and all(map(math.isfinite, value)))
            _check(good, key, value, "three finite numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How far the draws beyond the first one wander: each evenly, up to so much either way."""

    rotation_deg: Xyz = _key(
        (5.0, 5.0, 10.0), "turn about the patient's x, then y, then z axis [degrees]"
    )
    shift_mm: float = _key(20.0, "isocenter along each of the patient's axes [mm]")
    sid_share: float = _key(0.10, "source to detector, as a share; the source moves")
    kvp_share: float = _key(0.10, "tube voltage, as a share")
    dose_factor: float = _key(2.0, "dose at the detector: up to so many times more or less")
    brightness: float = _key(0.1, "grey scale, see render.brightness")
    contrast_share: float = _key(0.2, "steepness of the grey scale, as a share")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            values = value if isinstance(value, tuple) else (value,)
            good = all(math.isfinite(x) and x >= 0 for x in values)
            _check(good, f.name, value, "no negative number")
        for key in ("sid_share", "kvp_share", "contrast_share"):
            _check(getattr(self, key) < 1, key, getattr(self, key), "a share below 1")
        _check(self.dose_factor >= 1, "dose_factor", self.dose_factor, "1 or more")


def find_fingerprint(render: RenderConfig, augment: AugmentConfig) -> str:
    """SHA-256 of all settings that touch pixels and RENDER_VERSION, as 16 hexadecimal digits.

    Args:
        render: Settings of every picture.
        augment: Settings of the draws; they count where there are any.
    """
    settings = {"render_version": RENDER_VERSION, **dataclasses.asdict(render)}
    if render.views_per_ct > 1:
        settings["augment"] = dataclasses.asdict(augment)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How the work is done, which changes no pixel by more than one grey level."""

    engine: Engine = _key(Engine.AUTO, "auto, numba (CPU), triton (CUDA), reference or diffdrr")
    device: str = _key("auto", "auto, cpu, cuda or cuda:N")
    workers: int | None = _key(
        None,
        "worker processes; without it by cores and memory, none for a handful of CT; 0 for none",
    )
    timeout_s: float | None = _key(
        None, "time limit of a CT [s]; without it 1800 in a worker process, and none in this one"
    )
    cluster: str = _key(
        "local", "where the workers are: local, slurm, kubernetes, cuda or tcp://HOST:PORT"
    )
    site: str | None = _key(None, "TOML file that describes the cluster: queue, memory, image")
    shard_size: int | None = _key(
        None,
        "studies in a new file of the manifest; without it 64, more beyond 64,000 studies",
    )

    def __post_init__(self) -> None:
        _check(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            "device", self.device, "auto, cpu, cuda or cuda:N",
        )  # fmt: skip
        _check(
            re.fullmatch(CLUSTER_WORDS, self.cluster) is not None, "cluster", self.cluster,
            "local, slurm, kubernetes, cuda, tcp://HOST:PORT or tls://HOST:PORT",
        )  # fmt: skip
        _check(self.workers is None or self.workers >= 0, "workers", self.workers, "0 or more")
        good = self.timeout_s is None or (math.isfinite(self.timeout_s) and self.timeout_s > 0)
        _check(good, "timeout_s", self.timeout_s, "a positive number of seconds")
        good = self.shard_size is None or 1 <= self.shard_size <= 100_000
        _check(good, "shard_size", self.shard_size, "1 to 100000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration file: one record a section."""

    render: RenderConfig = RenderConfig()
    augment: AugmentConfig = AugmentConfig()
    run: RunConfig = RunConfig()


def read_config(path: Any) -> Config:
    """Read a TOML file; what it does not name keeps its default.

    Args:
        path: Path, or a path of a store.

    Raises:
        ConfigError: No such file, not TOML, an unknown key or an impossible value.
    """
    return read_toml(path, make_config, "configuration")


def read_toml(path: Any, make: Callable[[dict[str, Any]], T], word: str) -> T:
    """Read a TOML file into a record; every error names the file.

    Args:
        path: Path, or a path of a store.
        make: Makes the record of the file's tables.
        word: What the file is, for the message.

    Raises:
        ConfigError: No such file, not TOML, an unknown key or an impossible value.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the {word} {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return make(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def make_config(data: Mapping[str, Any]) -> Config:
    """Build a configuration from the tables of a TOML file.

    Raises:
        ConfigError: An unknown key, a wrong type or an impossible value.
    """
    return make_sections(data, Config)


def make_sections(data: Mapping[str, Any], kind: type[T]) -> T:
    """Build a record of records from the tables of a TOML file.

    Args:
        data: The tables.
        kind: The outer record.

    Raises:
        ConfigError: An unknown key, a wrong type or an impossible value.
    """
    fields = dataclasses.fields(typing.cast("Any", kind))
    sections = {f.name: typing.cast(type, f.type) for f in fields}
    check_known(data, sections, "section")
    return kind(**{name: make_record(sections[name], table) for name, table in data.items()})


def with_overrides(record: T, overrides: Mapping[str, Any]) -> T:
    """Replace the keys that are given (not None), converted and checked as from a file."""
    given = {key: value for key, value in overrides.items() if value is not None}
    hints = typing.get_type_hints(type(record))
    check_known(given, hints, "key")
    changes = {key: _convert(value, hints[key], key) for key, value in given.items()}
    return typing.cast("T", dataclasses.replace(typing.cast("Any", record), **changes))


def to_toml(config: object, *, sections: tuple[str, ...] = ("render", "augment", "run")) -> str:
    """Write a configuration as TOML, every key with its comment; keys without a value are
    commented out.
    """
    return "\n".join(section_to_toml(name, getattr(config, name)) for name in sections)


def section_to_toml(name: str, record: Any) -> str:
    """Write one section as TOML, every key with the comment in its field's metadata ``text``."""
    lines = [f"[{name}]"]
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        entry = f"{f.name} = {_toml(value)}" if value is not None else f"# {f.name} ="
        lines.append(f"{entry}  # {f.metadata['text']}")
    return "\n".join([*lines, ""])


def make_record(kind: type, table: object) -> Any:
    """Build one section.

    Raises:
        ConfigError: An unknown key, a wrong type or an impossible value.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"got {table!r}, wanted a [section] with keys")
    hints = typing.get_type_hints(kind)
    check_known(table, hints, "key")
    return kind(**{key: _convert(value, hints[key], key) for key, value in table.items()})


def check_known(given: Iterable[str], known: Iterable[str], word: str) -> None:
    """Refuse names that are not known, with the nearest that is.

    Args:
        given: What a file or a caller names.
        known: What there is.
        word: What a name is, for the message: a key, a section.

    Raises:
        ConfigError: A name is not known.
    """
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown {word} {name}; {hint}")


def _convert(value: object, hint: Any, key: str) -> Any:
    """Turn a TOML or command line value into the type of the key."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _convert(value, arguments[0], key)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key}: got {value!r}, wanted a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{key}: got {list(value)}, wanted {len(arguments)} of them")
        return tuple(_convert(item, arguments[0], key) for item in value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(str(value))
        except ValueError as error:
            raise ConfigError(f"{key}: got {value!r}, wanted {', '.join(hint)}") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or isinstance(value, bool) is not (hint is bool):
        raise ConfigError(f"{key}: got {value!r}, wanted {hint.__name__}")
    return value


def _toml(value: object) -> str:
    """Write one value as TOML."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    return write_text(str(value))


def write_text(text: str) -> str:
    """Write text as TOML, in quotes.

    Args:
        text: Anything.
    """
    # JSON allows a bare DEL inside a string, TOML does not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
