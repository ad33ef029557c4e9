"""Embeddings as files, so that any model can be judged: a folder of two Parquet tables.

    DIR/rows.parquet       name, patient_id, study_id, report_id, split, labels, cxr, ct, report,
                           picture, text, view; a row a radiograph
    DIR/prompts.parquet    text, embedding; a row a sentence (only for zero-shot)

``name``, ``patient_id`` and ``split`` must be there, and one of ``cxr``, ``ct``, ``report`` (lists
of numbers, null where a row has none). ``study_id`` is the name where it is left out or null, and
``report_id`` the study where it is left out, or null beside a report's vector; ``labels`` is a list
of name and value, or else every whole-number column is a label: 1 present, 0 absent, anything else
unknown. Vectors are brought to length one.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from drrgen.choices import Split, View
from drrgen.errors import InputError, ManifestError
from drrgen.io.atomic import atomic_path
from drrgen.io.volumes import make_printable
from drrgen_training.evaluation.embedded import UNKNOWN, Embedded
from drrgen_training.losses import Modality
from drrgen_training.samples import number_names

ROWS, PROMPTS = "rows.parquet", "prompts.parquet"
_META = b"drrgen_embedded"
_LABEL = pa.struct([("name", pa.string()), ("value", pa.int8())])
_OWN = {"name", "patient_id", "study_id", "report_id", "split", "labels", "picture", "text", "view"}


def write_embedded(embedded: Embedded, folder: Path) -> None:
    """Write embeddings; each file appears whole, ``rows.parquet`` last.

    Args:
        embedded: What one model made.
        folder: Gets the two tables.

    Raises:
        OSError: The folder cannot be written.
    """
    told = json.dumps({"model": embedded.model, "scale": embedded.scale}).encode()
    n = len(embedded)
    columns: dict[str, Any] = {
        "name": pa.array(embedded.names, pa.string()),
        "patient_id": pa.array(embedded.people or map(str, embedded.patient.tolist()), pa.string()),
        "study_id": pa.array(map(str, embedded.study.tolist()), pa.string()),
        "report_id": pa.array(
            [str(r) if r >= 0 else None for r in embedded.report.tolist()], pa.string()
        ),
        "split": pa.array(embedded.split.tolist(), pa.string()),
        "labels": pa.array(
            [[{"name": name, "value": int(v[i])} for name, v in embedded.labels.items()]
             for i in range(n)], pa.list_(_LABEL)),
        "picture": pa.array(embedded.pictures or [None] * n, pa.string()),
        "text": pa.array(embedded.texts or [None] * n, pa.string()),
        "view": pa.array([view or None for view in embedded.views] or [None] * n, pa.string()),
    }  # fmt: skip
    for name, vectors in embedded.vectors.items():
        columns[name] = _to_lists(vectors, embedded.has(name))
    table = pa.table(columns).replace_schema_metadata({_META: told})
    prompts = {
        "text": pa.array(list(embedded.prompts), pa.string()),
        "embedding": pa.array([v.tolist() for v in embedded.prompts.values()],
                              pa.list_(pa.float32())),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROWS).unlink(missing_ok=True)  # of an earlier call: never beside new sentences
    for name, made in ((PROMPTS, pa.table(prompts)), (ROWS, table)):
        with atomic_path(folder / name) as partial:
            pq.write_table(made, partial, compression="zstd")


def _to_lists(vectors: Float32[np.ndarray, "n e"], there: Any) -> pa.Array:
    """Make a column of vectors, null where there is none."""
    values = pa.array(vectors.reshape(-1), pa.float32())
    lists = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1], mask=pa.array(~there))
    return lists.cast(pa.list_(pa.float32()))


def read_embedded(folder: Path, model: str | None = None) -> Embedded:
    """Read embeddings, of drrgen or of anybody else.

    Args:
        folder: Holds the tables, see the head of this module.
        model: Name of the model; that of the table, or of the folder.

    Raises:
        ManifestError: There is no table, or it lacks a column.
        InputError: Vectors of unequal length or none, a name that is there twice, a row without a
            name, patient or split, or a column of another type.
    """
    table = _read_table(folder / ROWS)
    lacking = {"name", "patient_id", "split"} - set(table.column_names)
    if lacking:
        raise ManifestError(
            f"{folder / ROWS} lacks {', '.join(sorted(lacking))}; it has "
            f"{', '.join(table.column_names)}; see drrgen evaluate --help"
        )
    told = _read_told(table, folder)
    names = tuple(map(str, _read_keys(table, "name", folder)))
    if len(set(names)) < len(names):
        raise InputError(f"{folder / ROWS} has {len(names) - len(set(names))} names twice; give "
                         "each row a name of its own")  # fmt: skip
    patient = _read_keys(table, "patient_id", folder)
    study = [name if s is None else s for name, s in zip(
        names, _column(table, "study_id", [None] * len(names)), strict=True)]  # fmt: skip
    _check_studies(study, patient, folder)
    vectors = {
        m.value: _read_vectors(table[m.value], folder / ROWS, m.value) for m in Modality
        if m.value in table.column_names and table[m.value].null_count < len(table)
    }  # fmt: skip
    if not vectors:
        raise InputError(f"{folder / ROWS} has no embedding in any of cxr, ct, report")
    return Embedded(
        model=model or told.get("model") or make_printable(folder.resolve().name),
        names=names,
        patient=number_names(patient),
        study=number_names(study),
        report=_number_reports(table, study, vectors),
        split=np.array(_read_keys(table, "split", folder), dtype=str),
        vectors=vectors,
        labels=_read_labels(table, folder),
        prompts=_read_prompts(folder / PROMPTS),
        scale=told.get("scale"),
        pictures=tuple(str(p or "") for p in _column(table, "picture", [None] * len(names))),
        texts=tuple(str(t or "") for t in _column(table, "text", [None] * len(names))),
        people=tuple(map(str, patient)),
        views=_read_views(table),
    )


def _read_table(path: Path) -> pa.Table:
    """Read a Parquet file."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{path} is no table of embeddings ({type(error).__name__}); give a folder that drrgen "
            "evaluate wrote, or one of your own with rows.parquet"
        ) from error


def _read_views(table: pa.Table) -> tuple[str, ...]:
    """Read the view of each row; a row without one may be empty."""
    told = ["" if each is None else str(each) for each in _column(table, "view", [])]
    known = {word: View(word).value for word in set(told) if word.upper() in (*View, "LAT")}
    unknown = sorted(set(told) - known.keys() - {""})
    if unknown:
        raise InputError(
            f"the column view says {', '.join(unknown[:3])}, wanted {', '.join(View)} or nothing; "
            "say it so, or leave the column out"
        )
    return tuple(known.get(word, "") for word in told)


def _read_told(table: pa.Table, folder: Path) -> dict[str, Any]:
    """Read what a table says of its model: nothing, where it is not drrgen's."""
    try:
        told = json.loads((table.schema.metadata or {}).get(_META, b"{}"))
        model, scale = told.get("model"), told.get("scale")
        is_good = isinstance(model, str | None) and (
            scale is None or (math.isfinite(scale) and scale > 0)
        )
    except (ValueError, AttributeError, TypeError):
        is_good = False
    if not is_good:
        raise ManifestError(
            f"the metadata of {folder / ROWS} do not tell a model and its scale as drrgen evaluate "
            "writes them; write the table again"
        )
    return {"model": model, "scale": scale}


def _column(table: pa.Table, name: str, default: list[Any]) -> list[Any]:
    """Read a column of plain values, or take what stands for it.

    Raises:
        InputError: It holds lists or records.
    """
    if name not in table.column_names:
        return default
    if pa.types.is_nested(table[name].type):
        raise InputError(
            f"the column {name} is {table[name].type}, wanted a text or a whole number in each row"
        )
    return table[name].to_pylist()


def _read_keys(table: pa.Table, name: str, folder: Path) -> list[Any]:
    """Read a column that each row must fill."""
    if table[name].null_count:
        raise InputError(
            f"the column {name} of {folder / ROWS} is null in {table[name].null_count} of "
            f"{len(table)} rows; fill it in, or leave these rows out"
        )
    return _column(table, name, [])


def _check_studies(study: Sequence[Any], patient: Sequence[Any], folder: Path) -> None:
    """Refuse a scan of several patients: only its first row would be judged."""
    owners = {(s, p) for s, p in zip(study, patient, strict=True)}
    shared = [s for s, n in Counter(s for s, _ in owners).items() if n > 1]
    if shared:
        raise InputError(
            f"{len(shared)} values of study_id in {folder / ROWS} are of several patients, such as "
            f"{shared[0]!r}; name each scan so that no other patient's has the name"
        )


def _number_reports(
    table: pa.Table, study: Sequence[Any], vectors: Mapping[str, Float32[np.ndarray, "n _"]]
) -> Int64[np.ndarray, " n"]:
    """Number the reports; -1 for a row that names none and has no vector of one."""
    if "report_id" not in table.column_names:
        return number_names(study)
    has = np.zeros(len(study), bool)
    if Modality.REPORT in vectors:
        has = np.isfinite(vectors[Modality.REPORT]).all(1)
    keys = zip(_column(table, "report_id", []), study, has.tolist(), strict=True)
    return number_names(
        ("study", own) if told is None and there else told for told, own, there in keys
    )


def _read_vectors(column: pa.ChunkedArray, path: Path, name: str) -> Float32[np.ndarray, "n e"]:
    """Read vectors, bring them to length one; NaN where there is none."""
    value = getattr(column.type, "value_type", pa.string())
    if not (pa.types.is_floating(value) or pa.types.is_integer(value)):
        raise InputError(
            f"the column {name} of {path} is {column.type}, wanted a list of numbers in each row"
        )
    told = column.to_pylist()
    there = np.array([value is not None for value in told], dtype=bool)
    known = [value for value in told if value is not None]
    lengths = {len(value) for value in known}
    if len(lengths) != 1:
        raise InputError(
            f"the {name} embeddings in {path.parent} have {sorted(lengths)} numbers, wanted one "
            "length for all"
        )
    out = np.full((len(told), lengths.pop()), np.nan, np.float32)
    exact = np.array(known, np.float64)
    with np.errstate(over="ignore"):
        length = np.linalg.norm(exact, axis=1, keepdims=True)
    bad = int((~(np.isfinite(length) & (length > 0))).sum())
    if bad:
        raise InputError(
            f"the {name} embeddings in {path.parent} have {bad} rows that are zero or not finite; "
            "write null for a row that has none"
        )
    out[there] = exact / length
    return out


def _read_labels(table: pa.Table, folder: Path) -> dict[str, Int64[np.ndarray, " n"]]:
    """Read labels from the list column, or from one column each."""
    if "labels" in table.column_names:
        columns = _read_listed(table["labels"], folder)
    else:
        columns = {
            field.name: table[field.name].to_pylist() for field in table.schema
            if field.name not in _OWN and pa.types.is_integer(field.type)
        }  # fmt: skip
    return {
        name: np.array([v if v in (0, 1) else UNKNOWN for v in values], dtype=np.int64)
        for name, values in columns.items()
    }


def _read_listed(column: pa.ChunkedArray, folder: Path) -> dict[str, list[Any]]:
    """Read the list column of labels: of each name the values, None where a row lacks it."""
    record = getattr(column.type, "value_type", column.type)
    if pa.types.is_null(record):
        return {}
    kinds = {each.name: each.type for each in record} if pa.types.is_struct(record) else {}
    value = kinds.get("value", pa.null())
    is_number = pa.types.is_integer(value) or pa.types.is_floating(value)
    if "name" not in kinds or not (is_number or pa.types.is_boolean(value)):
        raise InputError(
            f"the column labels of {folder / ROWS} is {column.type}, wanted a list of name and "
            "value (a number) in each row"
        )
    pairs = [[(e["name"], e["value"]) for e in row or () if e] for row in column.to_pylist()]
    bad = sum(None in (names := [n for n, _ in row]) or len(set(names)) < len(row) for row in pairs)
    if bad:
        raise InputError(
            f"{bad} rows of {folder / ROWS} have a label without a name, or one twice; give each "
            "label of a row once"
        )
    told = [dict(row) for row in pairs]
    return {
        name: [row.get(name) for row in told] for name in sorted({n for row in told for n in row})
    }


def _read_prompts(path: Path) -> dict[str, Float32[np.ndarray, " e"]]:
    """Read sentences and their vectors, of length one; none where there is no such file."""
    if not path.is_file():
        return {}
    table = _read_table(path)
    lacking = {"text", "embedding"} - set(table.column_names)
    if lacking:
        raise ManifestError(
            f"{path} lacks {', '.join(sorted(lacking))}; see drrgen evaluate --help"
        )
    texts = _column(table, "text", [])
    if len(set(texts)) < len(texts) or None in texts or table["embedding"].null_count:
        raise InputError(
            f"{path} has a sentence twice, or a row without a sentence or an embedding; write each "
            "sentence once, with its vector"
        )
    vectors = _read_vectors(table["embedding"], path, "embedding") if texts else ()
    return dict(zip(map(str, texts), vectors, strict=True))


def align(models: Sequence[Embedded]) -> list[Embedded]:
    """Bring models to the rows that all of them have, in one order, with one numbering.

    Args:
        models: At least one.

    Raises:
        InputError: They share fewer than two rows of a split, or disagree on who is who.
    """
    first = models[0]
    shared = set(first.names).intersection(*(m.names for m in models[1:]))
    if len(shared) < 2:
        raise InputError(
            f"the models {', '.join(m.model for m in models)} share {len(shared)} rows; embed the "
            "same radiographs with each (rows are matched by name)"
        )
    places = [{name: i for i, name in enumerate(m.names)} for m in models]
    order = [name for name in first.names if name in shared]
    taken = [
        m.take(np.array([where[name] for name in order], dtype=np.int64))
        for m, where in zip(models, places, strict=True)
    ]
    views = next((m.views for m in taken if m.views), ())
    base = replace(taken[0], views=views)
    for other in taken[1:]:
        _check_same_people(base, other)
    return [base, *(
        replace(m, patient=base.patient, study=base.study, report=base.report, split=base.split,
                labels=base.labels, views=views) for m in taken[1:]
    )]  # fmt: skip


def _check_same_people(a: Embedded, b: Embedded) -> None:
    """Refuse models that were told other patients, splits or labels of the same rows."""
    differing = []
    if (number_names(a.patient.tolist()) != number_names(b.patient.tolist())).any():
        differing.append("patients")
    if (a.split != b.split).any():
        differing.append("splits")
    if b.views and a.views != b.views:
        differing.append("views")
    both = a.labels.keys() & b.labels.keys()
    differing += [f"the label {x}" for x in sorted(both) if (a.labels[x] != b.labels[x]).any()]
    if differing:
        raise InputError(
            f"{a.model} and {b.model} disagree about the same rows in {', '.join(differing[:3])}; "
            "make both tables from one manifest"
        )


def join_train(train: Embedded, test: Embedded, split: str = Split.TEST) -> Embedded:
    """Put the train rows of one data set before the judged rows of another, for probes.

    Args:
        train: Its ``train`` and ``dev`` rows are taken.
        test: Its rows of ``split`` are taken, and are ``test`` rows from then on.
        split: Which rows of ``test``; of another word than a split, all of them.

    Returns:
        Rows of both, with the labels that both have and the modalities of ``test``.

    Raises:
        InputError: The two were made by other models, share no label, or a name or a patient is in
            both. Patients are known by their pseudonyms, which are alike where the salt was.
    """
    kept = train.take(np.isin(train.split, (Split.TRAIN, Split.DEV)))
    tested = test.take(test.split == split) if split in set(Split) else test
    _check_strangers(kept, tested)
    labels = [name for name in test.labels if name in train.labels]
    if not labels:
        raise InputError(
            f"no label is in both data sets, there is {', '.join(train.labels) or 'none'} to learn "
            f"and {', '.join(test.labels) or 'none'} to judge; give --mapping"
        )
    shift = int(kept.patient.max(initial=0)) + 1
    return Embedded(
        model=test.model,
        names=kept.names + tested.names,
        patient=np.concatenate([kept.patient, tested.patient + shift]),
        study=np.concatenate([kept.study, tested.study + int(kept.study.max(initial=0)) + 1]),
        report=np.concatenate([
            kept.report,
            np.where(tested.report < 0, -1, tested.report + int(kept.report.max(initial=0)) + 1),
        ]),
        split=np.concatenate([kept.split, np.full(len(tested), Split.TEST.value)]),
        vectors={
            m: np.concatenate([
                kept.vectors.get(m, np.full((len(kept), v.shape[1]), np.nan, np.float32)), v
            ]) for m, v in tested.vectors.items()
        },
        labels={x: np.concatenate([kept.labels[x], tested.labels[x]]) for x in labels},
        prompts=test.prompts or train.prompts,
        scale=test.scale,
        pictures=(kept.pictures or ("",) * len(kept)) + (tested.pictures or ("",) * len(tested)),
        texts=(kept.texts or ("",) * len(kept)) + (tested.texts or ("",) * len(tested)),
        views=(kept.views or ("",) * len(kept)) + (tested.views or ("",) * len(tested)),
        people=kept.people + tested.people if kept.people and tested.people else (),
    )  # fmt: skip


def _check_strangers(train: Embedded, test: Embedded) -> None:
    """Refuse two data sets that share a row or a patient, or that two models embedded."""
    rows = set(train.names) & set(test.names)
    widths = {
        m: sorted({train.vectors[m].shape[1], test.vectors[m].shape[1]})
        for m in test.vectors if m in train.vectors
    }  # fmt: skip
    differing = [f"{m} vectors have {each} numbers" for m, each in widths.items() if len(each) > 1]
    if rows or differing:
        said = ", ".join([f"{len(rows)} rows are in both data sets", *differing])
        raise InputError(
            f"{said}; wanted two data sets without a shared row, embedded by one model"
        )
    both = sorted(set(train.people) & set(test.people) - {""})
    if both:
        raise InputError(
            f"{len(both)} patients are in both data sets, such as {both[0]}: they would be learnt "
            "from and judged; leave them out of one, or name different people differently"
        )
