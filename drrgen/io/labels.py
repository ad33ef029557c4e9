"""Labels of findings: 1 present, 0 absent, -1 uncertain; what is not told is not there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drrgen.errors import InputError
from drrgen.io.tables import (
    KeyedTable,
    KeyRule,
    TableRow,
    Values,
    make_keyed,
    read_rows,
    settle_columns,
    take_key,
)

_VALUES = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "positive": 1, "0": 0, "0.0": 0, "false": 0,
           "no": 0, "negative": 0, "-1": -1, "-1.0": -1, "uncertain": -1}  # fmt: skip
_UNKNOWN = frozenset({"", "nan", "none", "null", "na", "n/a"})
_STRENGTH = (0, -1, 1)  # the later word wins: present, then uncertain, then absent
_LETTERS = {1: "1", 0: "0", -1: "u", None: " "}
_READ = {letter: value for value, letter in _LETTERS.items() if value is not None}
PART_MARK = "*"  # between the parts of a column's name: abnormality*location


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """Where a table keeps its labels.

    Attributes:
        key: What the labels belong to: the first column of these that is there.
        columns: Columns that are labels; without any, all but the key and those left out.
        leave_out: Columns that are none.
        renames: Column to label, where they are not called alike.
        merge: Label to the parts of columns it is made of. A column counts where one of the parts
            of its name, between ``*``, is exactly one of these words; the strongest value is
            taken. With ``merge``, other columns are no labels.
        several: What to do with rows of one key that differ: ``refuse``, or ``strongest``.
    """

    key: tuple[str, ...]
    columns: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    several: str = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelTable:
    """Labels by their key: a letter each, in the order of ``names``."""

    names: tuple[str, ...]
    table: KeyedTable

    def find(self, key: str) -> dict[str, int]:
        """Find the labels of a key; of several rows, the strongest value of each."""
        rows = [self.table.get(position)[0] for position in self.table.find(key)]
        columns = (set(letters) - {" "} for letters in zip(*rows, strict=True))
        return {
            name: max((_READ[letter] for letter in letters), key=_STRENGTH.index)
            for name, letters in zip(self.names, columns, strict=False)
            if letters
        }


def read_labels(paths: Sequence[Path], columns: LabelColumns, rule: KeyRule) -> LabelTable:
    """Read labels from tables.

    Args:
        paths: Tables; their labels are joined, in the order in which they are met.
        columns: Where they keep what.
        rule: How a key is written, see ``KeyRule``.

    Raises:
        InputError: A table cannot be read, has none of the labels, or holds other values.
    """
    plans = [_plan(path, columns) for path in paths]
    names = tuple(dict.fromkeys(name for _, plan in plans for name in plan))
    rows = (
        found
        for path, (key, plan) in zip(paths, plans, strict=True)
        for found in _read(path, key, plan, names, rule)
    )
    several = columns.several == "strongest"
    return LabelTable(names=names, table=make_keyed(rows, ["v"], word="labels", several=several))


def _plan(path: Path, columns: LabelColumns) -> tuple[str, dict[str, list[str]]]:
    """Find the key of a table, and the columns that each label is made of."""
    chosen, names = settle_columns(path, {"key": columns.key})
    if columns.merge:
        parts = {name: set(name.split(PART_MARK)) for name in names}
        plan = {
            label: [name for name in names if parts[name] & set(words)]
            for label, words in columns.merge.items()
        }
    else:
        aside = {*columns.key, *columns.leave_out}
        taken = columns.columns or [name for name in names if name and name not in aside]
        plan = {columns.renames.get(name, name): [name] for name in taken}
    missing = [label for label, found in plan.items() if not found or found[0] not in names]
    if missing or not plan:
        raise InputError(
            f"{path} has no column for the labels {', '.join(missing) or 'of the recipe'}; it has "
            f"{', '.join(names[:20])}; see --recipe"
        )
    return chosen["key"], plan


def _read(
    path: Path, key: str, plan: Mapping[str, list[str]], names: Sequence[str], rule: KeyRule
) -> Iterator[tuple[TableRow, str, Values]]:
    """Read the labels of one table, each row as a word of letters."""
    wanted = list(dict.fromkeys(name for columns in plan.values() for name in columns))
    where = {name: i for i, name in enumerate(wanted, start=1)}
    places = [[where[column] for column in plan.get(name, ())] for name in names]
    for row in read_rows(path, [key, *wanted]):
        values = [_parse(text, row, ([key, *wanted])[i]) for i, text in enumerate(row.values) if i]
        letters = (
            _LETTERS[_find_strongest([values[i - 1] for i in columns])] for columns in places
        )
        yield row, take_key(row, rule), ("".join(letters),)


def _find_strongest(values: Sequence[int | None]) -> int | None:
    """Find what several columns say together."""
    known = [value for value in values if value is not None]
    return max(known, key=_STRENGTH.index, default=None)


def _parse(text: str, row: TableRow, column: str) -> int | None:
    """Read the value of a label."""
    word = text.lower()
    if word in _UNKNOWN:
        return None
    if word not in _VALUES:
        raise InputError(
            f"{row.place}, column {column}: got {text[:40]!r}, wanted 1, 0, -1 (uncertain) or "
            "nothing; name the columns that are labels in the recipe"
        )
    return _VALUES[word]
