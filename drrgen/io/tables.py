"""Tables as people keep them: CSV, TSV, JSON lines, Parquet; every value is text.

A file is read row by row and never as a whole, its size is bounded, and an error names file, row
and column. Rows are counted as a spreadsheet counts them: the first one under the names is row 2.
"""

import codecs
import csv
import difflib
import gzip
import io
import json
import logging
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from drrgen.errors import InputError
from drrgen.io.openi import OPENI_COLUMNS, read_openi

MAX_BYTES = 2**32  # of a table, unpacked: 300,000 long reports have a tenth of it
MAX_LINE = 2**24  # characters; a matrix of labels has lines of 10,000
MAX_COLUMNS = 20_000
ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")

_LATIN = "latin-1"
_DELIMITERS = ",;\t"
_CHUNK_BYTES = 2**20
_BATCH_ROWS = 4096

log = logging.getLogger(__name__)

Values = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One row.

    Attributes:
        path: Its file.
        number: Its number, as a spreadsheet counts; of a folder of reports, of the file.
        values: The columns asked for, without blanks at their ends; "" where there is none.
    """

    path: Path
    number: int
    values: Values

    @property
    def place(self) -> str:
        """File and row, for messages."""
        return f"{self.path.name} row {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyedTable:
    """Rows by their key, held in columns: a row costs little more than its text.

    Its length is that of its rows; going through it gives every key once.

    Attributes:
        fields: What the values are.
        paths: The files, in the order in which they were read.
    """

    fields: tuple[str, ...]
    paths: tuple[Path, ...]
    _first: dict[str, int]
    _more: dict[str, tuple[int, ...]]
    _chunks: tuple[pa.Table, ...]  # each of so many rows, but the last
    _places: "array[int]"

    def __len__(self) -> int:
        return sum(chunk.num_rows for chunk in self._chunks)

    def __contains__(self, key: object) -> bool:
        return key in self._first

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def find(self, key: str) -> tuple[int, ...]:
        """Find where the rows of a key stand; none where there is no such key."""
        first = self._first.get(key)
        return () if first is None else (first, *self._more.get(key, ()))

    def get(self, position: int) -> Values:
        """Get the values of a row."""
        chunk, row = divmod(position, _BATCH_ROWS)
        return tuple(column[row].as_py() for column in self._chunks[chunk].columns)

    def tell_place(self, position: int) -> str:
        """Name file and row, for messages."""
        file, row = self._places[2 * position], self._places[2 * position + 1]
        return f"{self.paths[file].name} row {row}"


def make_keyed(
    rows: Iterable[tuple[TableRow, str, Values]],
    fields: Sequence[str],
    *,
    word: str,
    several: bool = False,
) -> KeyedTable:
    """Collect rows by their key; a row that is there already, word for word, is kept once.

    Args:
        rows: Where each stands, its key and its values.
        fields: What the values are.
        word: What a row is, for messages: a report, labels.
        several: Take several rows of one key.

    Raises:
        InputError: Two rows of one key differ; the message names both.
    """
    first: dict[str, int] = {}
    more: dict[str, tuple[int, ...]] = {}
    paths: dict[Path, int] = {}
    places, hashes = array("q"), array("q")
    chunks: list[pa.Table] = []
    batch: list[Values] = []
    for row, key, values in rows:
        seen = (first[key], *more.get(key, ())) if key in first else ()
        hashed = hash(values)
        if any(hashes[position] == hashed for position in seen):
            continue
        if seen and not several:
            old, number = list(paths)[places[2 * seen[0]]], places[2 * seen[0] + 1]
            raise InputError(
                f"{old.name} row {number} and {row.place} are different {word} of {key!r}; keep "
                "one of them"
            )
        if seen:
            more[key] = (*seen[1:], len(hashes))
        else:
            first[key] = len(hashes)
        hashes.append(hashed)
        places.extend((paths.setdefault(row.path, len(paths)), row.number))
        batch.append(values)
        if len(batch) == _BATCH_ROWS:
            chunks.append(_to_columns(batch, fields))
            batch = []
    chunks.append(_to_columns(batch, fields))
    return KeyedTable(
        fields=tuple(fields), paths=tuple(paths), _first=first, _more=more,
        _chunks=tuple(chunks), _places=places,
    )  # fmt: skip


def _to_columns(batch: Sequence[Values], fields: Sequence[str]) -> pa.Table:
    """Turn rows into columns of text."""
    columns = list(zip(*batch, strict=True)) or [()] * len(fields)
    return pa.table(
        {name: pa.array(c, pa.large_string()) for name, c in zip(fields, columns, strict=True)}
    )


def list_columns(path: Path) -> tuple[str, ...]:
    """Read the names of a table's columns.

    Args:
        path: CSV, TSV, JSON lines (each also as .gz), Parquet, or a folder of Open-i's XML.

    Raises:
        InputError: No such table, or one that cannot be read.
    """
    return tuple(_open(path)[0])


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    """Read some columns of a table, row by row; rows without any value are left out.

    Args:
        path: The table.
        columns: Names of the columns; "" gives empty values.

    Raises:
        InputError: No such table or column, or a row that cannot be read.
    """
    names, rows = _open(path)
    where = {name: i for i, name in enumerate(names)}
    for name in columns:
        if name and name not in where:
            raise _miss_column(path, name, names)
    wanted = [where[name] if name else -1 for name in columns]
    for number, cells in rows:
        if any(cells):
            values = tuple(cells[i] if i >= 0 else "" for i in wanted)
            yield TableRow(path=path, number=number, values=values)


def _miss_column(path: Path, name: str, names: Sequence[str]) -> InputError:
    """Make the error of a column that is not there."""
    near = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(names[:20]) or "none"
    hint = f"did you mean {near[0]}?" if near else f"it has {shown}"
    return InputError(f"{path} has no column {name}; {hint}")


def _open(path: Path) -> tuple[Sequence[str], Iterator[tuple[int, Sequence[str]]]]:
    """Open a table: the names of its columns, and its rows."""
    name = path.name.lower().removesuffix(".gz")
    if path.is_dir():
        return OPENI_COLUMNS, read_openi(path)
    if not path.is_file():
        raise InputError(f"no table is at {path}; wanted a file ending in {', '.join(ENDINGS)}")
    if not name.endswith(ENDINGS):
        raise InputError(f"{path} has an unknown ending; wanted one of {', '.join(ENDINGS)}")
    if name.endswith(".parquet"):
        names, rows = _open_parquet(path)
    elif name.endswith((".jsonl", ".ndjson")):
        names, rows = _open_json(path)
    else:
        names, rows = _open_csv(path)
    _check_names(path, names)
    return names, rows


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse names that are absurdly many, or not one by one."""
    if len(names) > MAX_COLUMNS:
        raise InputError(f"{path} has {len(names)} columns, wanted {MAX_COLUMNS} at most")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"{path} names the column {twice[0]!r} twice; rename one of them")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an error that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"{path} cannot be read ({why}); get a whole copy of it") from error


def _open_bytes(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """Open a file, unpacked if it is a .gz."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path)
    return path.open("rb")


def _find_encoding(path: Path) -> str:
    """Tell UTF-8 from Latin-1, by the whole of a file."""
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    with _reading(path), _open_bytes(path) as file:
        while data := file.read(_CHUNK_BYTES):
            if not done and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise InputError(f"{path} is UTF-16; save it as UTF-8")
            done += len(data)
            if done > MAX_BYTES:
                _refuse_size(path)
            try:
                decoder.decode(data)
            except UnicodeDecodeError:
                log.warning("%s is no UTF-8: taken for Latin-1", path)
                return _LATIN
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            log.warning("%s is no UTF-8: taken for Latin-1", path)
            return _LATIN
    return "utf-8-sig"


def _refuse_size(path: Path) -> NoReturn:
    """Raise the error of a table that is too large."""
    raise InputError(f"{path} has more than {MAX_BYTES} bytes, unpacked; split the table")


def _read_lines(path: Path) -> Iterator[str]:
    """Read the lines of a text file, with their ends; none may be endless."""
    encoding, done = _find_encoding(path), 0
    with _reading(path), _open_bytes(path) as packed:
        file = io.TextIOWrapper(packed, encoding=encoding, newline="")
        while line := file.readline(MAX_LINE):
            done += len(line)
            if done > MAX_BYTES:  # it grew since it was looked at
                _refuse_size(path)
            if len(line) == MAX_LINE and not line.endswith("\n"):
                raise InputError(
                    f"{path} has a line of more than {MAX_LINE} characters; is it CSV?"
                )
            yield line


def _open_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, Sequence[str]]]]:
    """Open a CSV or TSV."""
    lines = _read_lines(path)
    head = next(lines, "")
    mark = max(_DELIMITERS, key=head.count)

    def chain() -> Iterator[str]:
        yield head
        yield from lines

    records = _read_records(path, chain(), mark)
    _, names = next(records, (1, []))
    if not any(names):
        raise InputError(f"{path} is empty; wanted the names of its columns in the first row")
    return names, _check_lengths(path, records, len(names))


def _read_records(path: Path, lines: Iterable[str], mark: str) -> Iterator[tuple[int, list[str]]]:
    """Split lines into cells, numbered as a spreadsheet does."""
    number = 1
    reader = csv.reader(lines, delimiter=mark, strict=True)
    try:
        for cells in reader:
            yield number, [clean_text(cell) for cell in cells]
            number += 1
    except csv.Error as error:
        raise InputError(
            f"{path} row {number}, near line {reader.line_num}: {error}; quote cells that hold "
            "quotes or line ends"
        ) from error


def _check_lengths(
    path: Path, records: Iterable[tuple[int, list[str]]], count: int
) -> Iterator[tuple[int, Sequence[str]]]:
    """Refuse rows that have more or fewer cells than there are columns."""
    for number, cells in records:
        if not any(cells):
            continue
        if len(cells) != count:
            raise InputError(
                f"{path} row {number} has {len(cells)} cells, wanted {count} as in the first row; "
                "quote cells that hold the delimiter"
            )
        yield number, cells


def _open_json(path: Path) -> tuple[list[str], Iterator[tuple[int, Sequence[str]]]]:
    """Open a file with a JSON object in every line; its columns are all keys there are."""
    names: dict[str, None] = {}
    for _, record in _read_objects(path):
        names |= dict.fromkeys(record)
    if not names:
        raise InputError(f"{path} is empty; wanted a JSON object in every line")
    rows = (
        (number, [_to_text(record.get(name)) for name in names])
        for number, record in _read_objects(path)
    )
    return list(names), rows


def _read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the JSON objects of a file; their number is that of the line."""
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} line {number} is no JSON; write one object a line") from error
        if not isinstance(record, dict):
            raise InputError(f"{path} line {number} is no JSON object; write one object a line")
        yield number, record


def _open_parquet(path: Path) -> tuple[list[str], Iterator[tuple[int, Sequence[str]]]]:
    """Open a Parquet file."""
    with _reading(path):
        file = pq.ParquetFile(path)
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) > MAX_BYTES:
            _refuse_size(path)
        return list(file.schema_arrow.names), _read_parquet(path, file)


def _read_parquet(path: Path, file: pq.ParquetFile) -> Iterator[tuple[int, Sequence[str]]]:
    """Read the rows of a Parquet file."""
    number, done = 2, 0
    with _reading(path):
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            done += batch.nbytes
            if done > MAX_BYTES:
                _refuse_size(path)
            columns = [[_to_text(x) for x in column.to_pylist()] for column in batch.columns]
            for cells in zip(*columns, strict=True):
                yield number, cells
                number += 1


def _to_text(value: object) -> str:
    """Write a value as text; nothing for null and NaN."""
    if value is None or value != value:  # noqa: PLR0124  NaN
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (dict, list)):
        return clean_text(json.dumps(value))
    return clean_text(str(value))


def clean_text(text: str) -> str:
    """Take blanks off both ends, and what no table can hold: NUL and halves of characters."""
    return text.strip().replace("\0", "").encode("utf-8", "replace").decode()


def settle_columns(
    path: Path, wanted: Mapping[str, Sequence[str]], key: str = "key"
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Choose the columns of a table: for each field the first of its names that is there.

    Args:
        path: The table.
        wanted: Names by field; those of the key must be there.
        key: The field that is the key.

    Returns:
        The chosen names by field, "" where there is none; and all columns of the table.

    Raises:
        InputError: No such table, or no column for the key.
    """
    names = list_columns(path)
    chosen = {}
    for field, options in wanted.items():
        found = next((name for name in options if name in names), "")
        if field == key and not found:
            raise _miss_column(path, options[0] if options else key, names)
        chosen[field] = found
    return chosen, names


KeyRule = Callable[[str, str], str]  # key and place to the key by which rows are found


def take_key(row: TableRow, rule: KeyRule) -> str:
    """Take the key of a row, its first value.

    Raises:
        InputError: It is empty, or none by the rule.
    """
    if not row.values[0]:
        raise InputError(f"{row.place} names nothing: its key is empty; fill it in, or delete it")
    return rule(row.values[0], row.place)
