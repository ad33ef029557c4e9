"""What the tables say of each study: its report, its labels, its row of the metadata."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

from drrgen.choices import Split
from drrgen.errors import InputError
from drrgen.io.labels import LabelTable, read_labels
from drrgen.io.reports import FoundReport, ReportTable, read_reports
from drrgen.io.tables import (
    KeyedTable,
    TableRow,
    Values,
    make_keyed,
    read_rows,
    settle_columns,
    take_key,
)
from drrgen_pipelines.pairing import PAIRINGS, Names, Register, Seeker, find_key_rule, take_path
from drrgen_pipelines.recipe import MetadataColumns, Recipe, SplitRule
from drrgen_pipelines.sources import Sources

_SPLITS = {
    Split.TRAIN: ("train", "training", "trn"),
    Split.DEV: ("dev", "val", "valid", "validate", "validation", "tune"),
    Split.TEST: ("test", "testing", "tst"),
}
_BY_WORD = {word: split for split, words in _SPLITS.items() for word in words}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one study.

    Attributes:
        reports: Its reports; more than one where the recipe takes each.
        labels: Its labels; None where the tables have none for it.
        metadata: Its row of the metadata, by field; empty where there is none.
    """

    reports: list[FoundReport] = field(default_factory=list)
    labels: dict[str, int] | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """All tables, read.

    Attributes:
        recipe: How they belong to the CT; None for CT alone.
        reports: Reports; None where no table was given.
        labels: Labels, likewise.
        metadata: Metadata, likewise.
        splits: Official split of each patient that has one.
    """

    recipe: Recipe | None = None
    reports: ReportTable | None = None
    labels: LabelTable | None = None
    metadata: KeyedTable | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)

    def find_metadata(self, names: Names, register: Register) -> dict[str, str]:
        """Find the row of the metadata that belongs to a CT; empty where there is none."""
        if self.metadata is None:
            return {}
        keys = register.match(names, self.metadata, "the metadata") or [
            number for number in names.numbers if number in self.metadata
        ]
        rows = {position for key in keys for position in self.metadata.find(key)}
        if len(rows) > 1:
            places = ", ".join(map(self.metadata.tell_place, sorted(rows)))
            raise InputError(f"{places} all tell of one CT; keep one of them")
        values = self.metadata.get(rows.pop()) if rows else ()
        return dict(zip(self.metadata.fields, values, strict=False))

    def find_facts(self, names: Names, metadata: dict[str, str], register: Register) -> Facts:
        """Find what belongs to a study.

        Args:
            names: Its names.
            metadata: Its row of the metadata.
            register: Which names are shared.

        Raises:
            InputError: Different reports belong to it, and the recipe takes only one.
        """
        if self.recipe is None:
            return Facts()
        pair = PAIRINGS[self.recipe.recipe.pairing]
        seeker = Seeker(names=names, metadata=metadata, register=register)
        reports: dict[str | None, FoundReport] = {}
        if self.reports is not None:
            for key in pair(seeker, self.reports.table, "the table of reports"):
                reports |= {found.report.sha256: found for found in self.reports.find(key)}
        told = [found for found in reports.values() if found.report]
        if len(told) > 1 and self.recipe.reports.several != "each":
            places = " and ".join(found.place for found in told)
            raise InputError(f"{places} are different reports of one study; keep one of them")
        labels = None
        if self.labels is not None:
            keys = pair(seeker, self.labels.table, "the table of labels")
            found_labels = [self.labels.find(key) for key in keys]
            if any(each != found_labels[0] for each in found_labels):
                raise InputError(f"{' and '.join(keys)} name one study and have different labels")
            labels = found_labels[0] if found_labels else None
        return Facts(reports=told or list(reports.values()), labels=labels, metadata=metadata)


def read_evidence(sources: Sources) -> Evidence:
    """Read all tables.

    Args:
        sources: Where they lie, and the recipe.

    Raises:
        InputError: A table cannot be read, or contradicts itself.
    """
    recipe = sources.recipe
    if recipe is None:
        return Evidence()
    rule = find_key_rule(recipe.recipe.pairing)
    reports = read_reports(sources.reports, recipe.reports, rule) if sources.reports else None
    labels = read_labels(sources.labels, recipe.labels, rule) if sources.labels else None
    metadata, splits = None, {}
    if sources.metadata:
        metadata = _read_metadata(sources, recipe.metadata)
        if recipe.recipe.split is SplitRule.COLUMN:
            splits = _read_splits(metadata)
    return Evidence(recipe=recipe, reports=reports, labels=labels, metadata=metadata, splits=splits)


def parse_split(word: str, place: str) -> Split | None:
    """Read a split as people write it; None for nothing.

    Args:
        word: train, val, test and the like.
        place: File and row, for messages.

    Raises:
        InputError: Another word.
    """
    if word and word.lower() not in _BY_WORD:
        raise InputError(f"{place}: got the split {word[:40]!r}, wanted train, dev or test")
    return _BY_WORD.get(word.lower())


def _read_metadata(sources: Sources, columns: MetadataColumns) -> KeyedTable:
    """Read the tables of metadata."""
    names = [f.name for f in fields(columns) if f.name != "key"]

    def read() -> Iterator[tuple[TableRow, str, Values]]:
        for path in sources.metadata:
            wanted = {f.name: getattr(columns, f.name) for f in fields(columns)}
            chosen, _ = settle_columns(path, wanted)
            for row in read_rows(path, list(chosen.values())):
                yield row, take_key(row, take_path), row.values[1:]

    return make_keyed(read(), names, word="metadata")


def _read_splits(metadata: KeyedTable) -> dict[str, Split]:
    """Find the official split of each patient; one who is in two is an error."""
    patient_at, split_at = (metadata.fields.index(name) for name in ("patient", "split"))
    found: dict[str, tuple[Split, int]] = {}
    for key in metadata:
        for position in metadata.find(key):
            values = metadata.get(position)
            patient = values[patient_at]
            split = parse_split(values[split_at], metadata.tell_place(position))
            if split is None or not patient:
                continue
            old = found.setdefault(patient, (split, position))
            if old[0] is not split:
                places = " and ".join(map(metadata.tell_place, (old[1], position)))
                raise InputError(
                    f"{places} put one patient into {old[0]} and {split}; a patient is in one split"
                )
    return {patient: split for patient, (split, _) in found.items()}
