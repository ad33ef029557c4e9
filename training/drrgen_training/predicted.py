"""What a trained encoder told of radiographs, as files.

    OUT/predictions.csv      a row a file: path, status, reason, detail, view, warnings, a column a
                             finding, then report_N, cosine_N and text_N; or predictions.parquet
    OUT/embeddings.parquet   name, embedding; a row a file that could be read
    OUT/index.html           a page to look at, all in one file

A path that begins as a formula does (``= + - @``, a tab) is written behind ``./``, in both tables:
it names the same file, and a spreadsheet runs none. Labels and reports stay as they are.

A finding's column is its probability by sentences, uncalibrated; ``report_N`` is the ``sample_id``
of the first row of the manifest that has the report. Of DICOM headers only the view goes out.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drrgen.errors import InputError, Status
from drrgen.io.atomic import atomic_path, write_bytes
from drrgen_training.pages import cut_text, render_page
from drrgen_training.predict import Prediction
from drrgen_training.predictor import Predictor

PREDICTIONS, EMBEDDINGS, PAGE = "predictions", "embeddings.parquet", "index.html"
_FIXED = ("path", "status", "reason", "detail", "view", "warnings")
_META = b"drrgen_predict"
_TOP = 5  # findings of a radiograph on the page
_TEXT = 280  # letters of a report on the page
_DIGITS = 6  # of numbers in a CSV
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_TEMPLATE = Path(__file__).with_name("predict.html")


class TableFormat(StrEnum):
    """How the predictions are written."""

    CSV = "csv"
    PARQUET = "parquet"


def check_columns(predictor: Predictor) -> None:
    """Refuse findings that are called like another column.

    Raises:
        InputError: One is.
    """
    taken = {*_FIXED, *_name_reports(predictor.n_reports)} & set(predictor.labels)
    if taken:
        raise InputError(f"a label is called {min(taken)}, as another column; rename it")


def write_predictions(
    predictor: Predictor, told: Sequence[Prediction], out: Path, *,
    format: TableFormat = TableFormat.CSV,  # noqa: A002  the word of the option
    page_limit: int = 200,
) -> list[Path]:  # fmt: skip
    """Write all files; each appears whole, the page last. Older ones are replaced.

    An older page goes first: it is never beside tables of another call.

    Args:
        predictor: What told them.
        told: A record a file.
        out: Folder.
        format: Of the predictions.
        page_limit: Most radiographs on the page.

    Returns:
        What was written.

    Raises:
        OSError: The folder cannot be written.
    """
    written = [out / f"{PREDICTIONS}.{format}", out / EMBEDDINGS, out / PAGE]
    table, page = make_table(predictor, told), make_page(predictor, told, page_limit)
    written[2].unlink(missing_ok=True)
    _write_embeddings(predictor, told, written[1])
    with atomic_path(written[0]) as partial:
        if format is TableFormat.PARQUET:
            pq.write_table(table, partial, compression="zstd")
        else:
            _write_csv(table, partial)
    for other in TableFormat:
        if other is not format:  # of an earlier call, and no longer true
            (out / f"{PREDICTIONS}.{other}").unlink(missing_ok=True)
    write_bytes(written[2], page.encode())
    return written


def make_table(predictor: Predictor, told: Sequence[Prediction]) -> pa.Table:
    """Make the table of predictions, a row a file.

    Args:
        predictor: What told them.
        told: A record a file.
    """
    text = pa.string()
    columns = {
        "path": pa.array([_name_file(each) for each in told], text),
        "status": pa.array([each.status.value for each in told], text),
        "reason": pa.array([each.reason and each.reason.value for each in told], text),
        "detail": pa.array([each.detail for each in told], text),
        "view": pa.array([each.view and each.view.value for each in told], text),
        "warnings": pa.array(["; ".join(each.warnings) or None for each in told], text),
    }
    for label in predictor.labels:
        columns[label] = pa.array([each.scores.get(label) for each in told], pa.float64())
    for n in range(predictor.n_reports):
        near = [each.reports[n] if each.reports else None for each in told]
        name, cosine, words = _name_reports(n + 1)[-3:]
        columns[name] = pa.array([each and each.name for each in near], text)
        columns[cosine] = pa.array([each and each.cosine for each in near], pa.float64())
        columns[words] = pa.array([each and each.text for each in near], text)
    return pa.table(columns).replace_schema_metadata(_make_meta(predictor))


def make_page(predictor: Predictor, told: Sequence[Prediction], limit: int) -> str:
    """Make the page: radiographs with their findings and reports, then what could not be read.

    Args:
        predictor: What told them.
        told: A record a file.
        limit: Most radiographs, and most of what could not be read.
    """
    good = [each for each in told if each.status is Status.OK]
    bad = [each for each in told if each.status is not Status.OK]
    # Pictures were kept of the first files; where some of these are bad, fewer are shown.
    shown = [each for each in told[:limit] if each.status is Status.OK]
    return render_page(
        _TEMPLATE, cards=[_make_card(each) for each in shown], bad=bad[:limit], n_bad=len(bad),
        n_good=len(good), n=len(told), notes=predictor.notes, digest=predictor.digest,
        labels=predictor.labels, prompts=predictor.settings.prompts, top=_TOP,
        like=predictor.settings.like and predictor.settings.like.name,
    )  # fmt: skip


def _make_card(each: Prediction) -> dict[str, Any]:
    """Make what the page shows of a radiograph."""
    top = sorted(each.scores.items(), key=lambda pair: -pair[1])
    return {
        "name": each.name, "picture": each.thumbnail, "view": each.view,
        "warnings": each.warnings, "top": top[:_TOP], "rest": top[_TOP:],
        "reports": [(near, cut_text(near.text, _TEXT)) for near in each.reports],
    }  # fmt: skip


def _name_file(each: Prediction) -> str:
    """Name a file so that no spreadsheet takes its name for a formula."""
    return f"./{each.name}" if each.name.startswith(_FORMULA) else each.name


def _name_reports(n: int) -> list[str]:
    """Name the columns of the nearest reports."""
    return [f"{kind}_{i}" for i in range(1, n + 1) for kind in ("report", "cosine", "text")]


def _make_meta(predictor: Predictor) -> Mapping[bytes, bytes]:
    """Say what made a table."""
    from importlib.metadata import version

    square, asked = predictor.square, predictor.settings
    told = {
        "drrgen": version("drrgen"), "weights": predictor.digest, "scale": predictor.tower.scale,
        "size": square.size, "fit": square.fit.value, "prompts": asked.prompts,
    }  # fmt: skip
    return {_META: json.dumps(told, sort_keys=True).encode()}


def _write_csv(table: pa.Table, path: Path) -> None:
    """Write a table as CSV; what is not there is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=1024):
            columns: Iterable[list[Any]] = [column.to_pylist() for column in batch.columns]
            writer.writerows(_round(row) for row in zip(*columns, strict=True))


def _round(row: Iterable[Any]) -> list[Any]:
    """Round the numbers of a row."""
    return [round(value, _DIGITS) if isinstance(value, float) else value for value in row]


def _write_embeddings(predictor: Predictor, told: Sequence[Prediction], path: Path) -> None:
    """Write the vectors of what could be read."""
    kept = [each for each in told if each.embedding is not None]
    vectors = [each.embedding for each in kept if each.embedding is not None]
    flat = np.concatenate(vectors) if vectors else np.zeros(0, np.float32)
    width = predictor.tower.dim
    columns = {
        "name": pa.array([_name_file(each) for each in kept], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), width),
    }
    table = pa.table(columns).replace_schema_metadata(_make_meta(predictor))
    with atomic_path(path) as partial:
        pq.write_table(table, partial, compression="zstd")
