"""A recipe: how the tables of a data set are read, and how they belong to its CT.

A recipe is one complete TOML file. Those that are shipped lie in ``pipelines/recipes``.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from drrgen.choices import View
from drrgen.config import check_known, read_toml, write_text
from drrgen.errors import ConfigError
from drrgen.io.labels import LabelColumns
from drrgen.io.reports import ReportColumns

DEFAULT_RECIPE = "generic"
_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "recipes", _HERE.parent / "recipes")  # in a wheel, and in the tree


class Pairing(StrEnum):
    """By what reports and labels find their CT: see ``drrgen_pipelines.pairing``."""

    BY_NAME = "by_name"
    BY_CTRATE_NAME = "by_ctrate_name"
    BY_ACCESSION = "by_accession"
    BY_PATIENT = "by_patient"
    BY_TABLE = "by_table"


class SplitRule(StrEnum):
    """How a patient gets a split."""

    HASH = "hash"  # by the salted hash alone
    BY_CTRATE_NAME = "by_ctrate_name"  # train_ and valid_; valid is the test set
    COLUMN = "column"  # of the metadata; by the hash where it tells none
    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class Reconstruction(StrEnum):
    """Which reconstructions of a scan are taken."""

    ONE = "one"  # the first by number, or by name
    ALL = "all"


class Need(StrEnum):
    """What a study must have, or it is refused."""

    REPORT = "report"
    LABELS = "labels"


class HuPolicy(StrEnum):
    """Where the HU scale and the spacing of a file come from."""

    AS_READ = "as_read"  # from the file
    TABLE = "table"  # from the file or the metadata, each file judged by its histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for the whole data set.

    Attributes:
        dataset: Its name, part of every pseudonym.
        about: What it is, in a line.
        pairing: By what reports and labels find their CT.
        reconstruction: Which reconstructions of a scan are taken; ``--series all`` takes all.
        split: How a patient gets a split.
        dev_percent: How many percent of the official train patients make the dev split.
        require: What a study must have, or it is refused.
        hu: Where the HU scale comes from.
    """

    dataset: str
    about: str = ""
    pairing: Pairing = Pairing.BY_NAME
    reconstruction: Reconstruction = Reconstruction.ONE
    split: SplitRule = SplitRule.HASH
    dev_percent: int = 0
    require: tuple[Need, ...] = ()
    hu: HuPolicy = HuPolicy.AS_READ

    def __post_init__(self) -> None:
        if not self.dataset or not 0 <= self.dev_percent <= 50:
            raise ConfigError(
                f"got dataset {self.dataset!r} and dev_percent {self.dev_percent}, wanted a name "
                "and 0 to 50"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataColumns:
    """Where a table keeps what is known of a CT or a radiograph: the first column that is there.

    Attributes:
        key: Name of the CT or radiograph, or its series, study or accession number.
        patient: What names the patient.
        scan: What names the scan, of which there may be several reconstructions.
        reconstruction: Number of the reconstruction; the lowest is taken.
        split: Official split.
        report: Key of its report and labels (``by_table``).
        view: View of a radiograph.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        xy_spacing: Distance between pixels [mm].
        z_spacing: Distance between slices [mm].
    """

    key: tuple[str, ...] = ()
    patient: tuple[str, ...] = ()
    scan: tuple[str, ...] = ()
    reconstruction: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    slope: tuple[str, ...] = ()
    intercept: tuple[str, ...] = ()
    xy_spacing: tuple[str, ...] = ()
    z_spacing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RadiographRules:
    """How real radiographs are taken.

    Attributes:
        views: Words of the metadata that mean a view; PA, AP, LL, RL and LAT need none.
        keep: Views that are taken; without any, all.
    """

    views: Mapping[str, View] = field(default_factory=dict)
    keep: tuple[View, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe, section by section."""

    recipe: Rules
    reports: ReportColumns
    labels: LabelColumns
    metadata: MetadataColumns = MetadataColumns()
    radiographs: RadiographRules = RadiographRules()


def list_recipes() -> dict[str, Path]:
    """List the recipes that are shipped, by name."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))} if folder else {}


def read_recipe(word: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        word: Name of one that is shipped, or a TOML file.

    Raises:
        ConfigError: No such recipe, not TOML, an unknown key or an impossible value.
    """
    return read_toml(_find_recipe(str(word)), make_recipe, "recipe")


def make_recipe(data: Mapping[str, Any]) -> Recipe:
    """Build a recipe from the tables of a TOML file.

    Raises:
        ConfigError: An unknown key, a missing section, a wrong type or an impossible value.
    """
    sections = typing.get_type_hints(Recipe)
    check_known(data, sections, "section")
    missing = {"recipe", "reports", "labels"} - data.keys()
    if missing:
        raise ConfigError(f"no section [{min(missing)}]; a recipe has it")
    return Recipe(**{name: _make_section(sections[name], name, data[name]) for name in data})


def to_toml(recipe: Recipe) -> str:
    """Write a recipe as TOML, complete; keys without a value are left out.

    Args:
        recipe: The recipe.
    """
    lines = []
    for section in dataclasses.fields(recipe):
        record = getattr(recipe, section.name)
        values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
        tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
        lines.append(f"[{section.name}]")
        lines += [
            f"{k} = {_write(v)}" for k, v in values.items() if k not in tables and v is not None
        ]
        for key, table in tables.items():
            lines += ["", f"[{section.name}.{key}]"] if table else []
            lines += [f"{_write(name)} = {_write(value)}" for name, value in table.items()]
        lines.append("")
    return "\n".join(lines)


def _write(value: object) -> str:
    """Write one value."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_write, value))}]"
    return str(value) if isinstance(value, int) else write_text(str(value))


def _find_recipe(word: str) -> Path:
    """Find the file of a recipe."""
    shipped = list_recipes()
    if word in shipped:
        return shipped[word]
    if word.endswith(".toml"):
        return Path(word)
    near = difflib.get_close_matches(word, shipped, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped: {', '.join(shipped)}"
    raise ConfigError(f"no recipe {word}; {hint}; or name a .toml file")


def _make_section(kind: Any, name: str, table: object) -> Any:
    """Build one section."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name}: got {table!r}, wanted a [section] with keys")
    hints = typing.get_type_hints(kind)
    check_known(table, hints, f"key of [{name}]")
    values = {key: _convert(value, hints[key], f"{name}.{key}") for key, value in table.items()}
    lacking = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in values
    ]
    if lacking:
        raise ConfigError(f"[{name}] has no {lacking[0]}; a recipe has it")
    return kind(**values)


def _convert(value: object, hint: Any, key: str) -> Any:
    """Turn a value of TOML into the type of its key; one word may stand for a list of one."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _convert(value, arguments[0], key)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(item, arguments[0], key) for item in items)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}: got {value!r}, wanted a table")
        return {str(name): _convert(item, arguments[1], key) for name, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(str(value))
        except ValueError as error:
            raise ConfigError(f"{key}: got {value!r}, wanted {', '.join(hint)}") from error
    if not isinstance(value, hint) or isinstance(value, bool):
        raise ConfigError(f"{key}: got {value!r}, wanted {hint.__name__}")
    return value
