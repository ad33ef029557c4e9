"""An evaluation as files: numbers to read by machine, tables, predictions, and a page to look at.

    OUT/metrics.json         all numbers; the last file to appear, so where it is, all are
    OUT/per_label.csv        a row a model, task and finding
    OUT/predictions.parquet  a row a model, task, finding and radiograph
    OUT/index.html           the page

``metrics.json`` is one object of ``schema_version`` (1), ``facts`` (an object), ``warnings`` (a
list of texts), ``scores`` and ``published`` (lists of objects with the attributes of
``results.Score``) and ``differences`` (of ``results.Difference``). A number that is not there is
null. ``facts.shared`` names, by model, of what it has the very vectors of the first model; what
only hangs on these has scores of the first model alone. Equal evaluations make equal files.
"""

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drrgen.errors import InputError, ManifestError
from drrgen.io.atomic import atomic_path, write_bytes
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.page import make_page
from drrgen_training.evaluation.results import (
    SCHEMA_VERSION,
    Difference,
    Evaluation,
    LabelPrediction,
    Score,
)

METRICS, PER_LABEL, PREDICTIONS, PAGE = (
    "metrics.json", "per_label.csv", "predictions.parquet", "index.html",
)  # fmt: skip
MEASURES = ("AUROC", "AUPRC", "F1", "accuracy", "precision", "sensitivity", "specificity")
PREDICTION_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("patient", pa.int64()),
        ("model", pa.string()),
        ("task", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("truth", pa.int8()),
    ],
    metadata={b"drrgen_schema_version": str(SCHEMA_VERSION).encode()},
)

_KEYS = {"schema_version", "facts", "warnings", "scores", "differences", "published"}
_Record = TypeVar("_Record", Score, Difference)


def write_evaluation(evaluation: Evaluation, test: Embedded, out: Path) -> None:
    """Write all files of an evaluation; each appears whole, ``metrics.json`` last.

    An older ``metrics.json`` goes first: it is never beside files of another evaluation.

    Args:
        evaluation: What was found.
        test: Rows that it was found on: examples show their radiographs and reports.
        out: Folder; older files of these names are replaced.

    Raises:
        InputError: A fact that JSON cannot hold, a prediction whose columns differ in length, or
            an example of a row that ``test`` lacks.
        OSError: The folder cannot be written.
    """
    metrics, labels, page = (
        to_json(evaluation), to_csv(evaluation.scores), make_page(evaluation, test)
    )  # fmt: skip
    (out / METRICS).unlink(missing_ok=True)
    write_bytes(out / PER_LABEL, labels.encode())
    write_predictions(evaluation.predictions, out / PREDICTIONS)
    write_bytes(out / PAGE, page.encode())
    write_bytes(out / METRICS, metrics.encode())


def read_metrics(path: Path) -> Evaluation:
    """Read ``metrics.json``: scores, differences, published numbers, facts and warnings.

    Curves, predictions and examples are not in it.

    Args:
        path: The file, or the folder that it is in.

    Raises:
        ManifestError: Not a file of this kind, or of another version.
        OSError: It cannot be read.
    """
    file = path / METRICS if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(f"{file} is no JSON ({error}); run drrgen evaluate again") from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{file} has the schema version {version}, wanted {SCHEMA_VERSION}; read it with the "
            "drrgen that wrote it, or run drrgen evaluate again"
        )
    try:
        return Evaluation(
            scores=tuple(_from_plain(Score, each) for each in found["scores"]),
            differences=tuple(_from_plain(Difference, each) for each in found["differences"]),
            published=tuple(_from_plain(Score, each) for each in found["published"]),
            facts=found["facts"],
            warnings=tuple(found["warnings"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{file} lacks what version {SCHEMA_VERSION} has, or has more ({error}); wanted "
            f"{', '.join(sorted(_KEYS))}; run drrgen evaluate again"
        ) from error


def to_json(evaluation: Evaluation) -> str:
    """Make the text of ``metrics.json``.

    Raises:
        InputError: A fact that JSON cannot hold.
    """
    found = {
        "schema_version": SCHEMA_VERSION,
        "facts": evaluation.facts,
        "warnings": evaluation.warnings,
        "scores": [dataclasses.asdict(each) for each in evaluation.scores],
        "differences": [dataclasses.asdict(each) for each in evaluation.differences],
        "published": [dataclasses.asdict(each) for each in evaluation.published],
    }
    return json.dumps(to_plain(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_plain(value: object) -> Any:
    """Turn a value into what JSON holds; numbers that are not finite become None.

    Raises:
        InputError: It is of no kind that JSON holds.

    Example:
        >>> to_plain({"auroc": np.float32(0.5), "low": float("nan"), "ks": (1, 5)})
        {'auroc': 0.5, 'low': None, 'ks': [1, 5]}
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Path():
            return str(value)
        case Mapping():
            return {str(key): to_plain(each) for key, each in value.items()}
        case list() | tuple():
            return [to_plain(each) for each in value]
    raise InputError(
        f"a fact of the evaluation is a {type(value).__name__}, which JSON cannot hold; give text, "
        "numbers, lists or mappings"
    )


def to_csv(scores: Iterable[Score]) -> str:
    """Make the text of ``per_label.csv`` from the scores that are about one finding.

    Columns are model, task, label, n, positives, note, then of each measure its value and interval:
    those of ``MEASURES`` always, others where a score has them. What is not there is empty.

    Args:
        scores: Any; those without a label are left out.
    """
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        if score.label is not None:
            groups.setdefault((score.model, score.task, score.label), []).append(score)
    measures = tuple(dict.fromkeys((*MEASURES, *(s.measure for g in groups.values() for s in g))))
    text = io.StringIO(newline="")
    head = ["model", "task", "label", "n", "positives", "note"]
    columns = [name for measure in measures for name in _name_columns(measure)]
    table = csv.DictWriter(text, head + columns, restval="", lineterminator="\n")
    table.writeheader()
    for (model, task, label), group in groups.items():
        line = {"model": model, "task": task, "label": label} | _describe_rows(group)
        for score in group:
            numbers = (score.value, score.low, score.high)
            line |= zip(_name_columns(score.measure), map(_write_number, numbers), strict=True)
        table.writerow(line)
    return text.getvalue()


def write_predictions(predictions: Iterable[LabelPrediction], path: Path) -> None:
    """Write ``predictions.parquet``, a row a model, task, finding and radiograph.

    Args:
        predictions: Written one after the other.
        path: The file.

    Raises:
        InputError: The columns of a prediction differ in length.
        OSError: It cannot be written.
    """
    with (
        atomic_path(path) as partial,
        pq.ParquetWriter(partial, PREDICTION_SCHEMA, compression="zstd") as file,
    ):
        for table in _list_tables(predictions):
            file.write_table(table)


def _from_plain(kind: type[_Record], plain: Mapping[str, Any]) -> _Record:
    """Make a record from an object of ``metrics.json``."""
    missing = {each.name for each in dataclasses.fields(kind)} - plain.keys()
    if missing:
        raise KeyError(*sorted(missing))
    numbers = {each.name for each in dataclasses.fields(kind) if each.type is float}
    told: dict[str, Any] = {
        name: float("nan") if value is None and name in numbers else value
        for name, value in plain.items()
    }
    return kind(**told)


def _name_columns(measure: str) -> tuple[str, str, str]:
    """Name the columns of a measure: value and interval."""
    name = re.sub(r"\W+", "_", measure.lower()).strip("_")
    return name, f"{name}_low", f"{name}_high"


def _describe_rows(group: Iterable[Score]) -> dict[str, object]:
    """Tell the rows that some scores were measured on, and what is to be noted of them."""
    scores = list(group)
    known = [s.positives for s in scores if s.positives is not None]
    notes = dict.fromkeys(s.note for s in scores if s.note)
    return {
        "n": max(s.n for s in scores),
        "positives": max(known) if known else "",
        "note": "; ".join(notes),
    }


def _write_number(value: float) -> str:
    """Write a number so that it reads back the same; nothing where there is none."""
    return repr(float(value)) if math.isfinite(value) else ""


def _list_tables(predictions: Iterable[LabelPrediction]) -> Iterator[pa.Table]:
    """Make the table of each prediction."""
    for each in predictions:
        n = len(each.names)
        lengths = {"patient": len(each.patient), "scores": len(each.scores),
                   "truth": len(each.truth)}  # fmt: skip
        if set(lengths.values()) != {n}:
            raise InputError(
                f"the prediction of {each.label!r} by {each.model!r} has {n} names, but {lengths}; "
                "give a number for each name"
            )
        columns = [
            each.names, np.asarray(each.patient), [each.model] * n, [each.task] * n,
            [each.label] * n, np.asarray(each.scores, np.float64), np.asarray(each.truth, np.int8),
        ]  # fmt: skip
        arrays = [
            pa.array(column, kind)
            for column, kind in zip(columns, PREDICTION_SCHEMA.types, strict=True)
        ]
        yield pa.table(arrays, schema=PREDICTION_SCHEMA)
