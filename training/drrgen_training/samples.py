"""What a manifest offers for training: radiographs, and who they belong to.

A manifest is read as drrgen wrote it: ``manifest.json`` names the parts, and nothing else is asked.
"""

import hashlib
import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from drrgen.choices import Split, View
from drrgen.errors import InputError, ManifestError, Status
from drrgen.manifest import read_table
from drrgen_training.reports import Template, make_text, name_text
from drrgen_training.settings import KeyKind

_COLUMNS = (
    "sample_id", "draw", "patient_id", "study_id", "split", "status", "ct_ref", "ct_format",
    "ct_bytes", "ct_sha256", "hu_source", "cxr_path", "cxr_sha256", "view", "report_findings",
    "report_impression", "labels",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Radiographs, a row each, in the order of the manifest.

    Attributes:
        root: Folder of the data set.
        fingerprint: Digest of the settings that made the pictures.
        rows: Of each the manifest's columns that training needs, and ``text``.
        patient: Number of the patient.
        study: Number of the study.
        volume: Number of the sample: of one reconstruction of a CT.
        report: Number of the report's text; -1 for none.
        texts: Texts of the reports, by that number.
    """

    root: Path
    fingerprint: str
    rows: tuple[dict[str, Any], ...] = field(repr=False)
    patient: Int64[np.ndarray, " n"]
    study: Int64[np.ndarray, " n"]
    volume: Int64[np.ndarray, " n"]
    report: Int64[np.ndarray, " n"]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Bool[np.ndarray, " n"] | Int64[np.ndarray, " m"]) -> "Samples":
        """Take some rows; numbers stay as they are."""
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Samples(
            root=self.root,
            fingerprint=self.fingerprint,
            rows=tuple(self.rows[i] for i in places),
            patient=self.patient[places],
            study=self.study[places],
            volume=self.volume[places],
            report=self.report[places],
            texts=self.texts,
        )

    def number(self, key: KeyKind) -> Int64[np.ndarray, " n"]:
        """Number of what is there once in a batch."""
        numbers = {
            KeyKind.PATIENT: self.patient, KeyKind.STUDY: self.study, KeyKind.INSTANCE: self.volume
        }  # fmt: skip
        return numbers[key]

    @property
    def volumes(self) -> "Samples":
        """One row of each sample, the first."""
        return self.take(np.unique(self.volume, return_index=True)[1])


def name_picture(row: dict[str, Any]) -> str:
    """Name a radiograph by its key."""
    return f"{row['sample_id']}_{row['view']}_{row['draw']}"


def read_samples(
    dataset: Path, *, template: Template = Template.SECTIONS, view: Sequence[View] = ()
) -> Samples:
    """Read the radiographs of a data set.

    Args:
        dataset: Output folder of ``drrgen render`` or ``build``.
        template: How reports become text.
        view: Which views; all of them by default.

    Raises:
        ManifestError: There is no finished manifest, or it is not as it was written.
        InputError: No radiograph is among it.
    """
    summary = _read_summary(dataset)
    rows: list[dict[str, Any]] = []
    n_rows = 0
    for part in summary["parts"]:
        table = read_table(dataset / "manifest" / PurePosixPath(part["name"]).name, list(_COLUMNS))
        n_rows += len(table)
        rows += [row for row in table.to_pylist() if _is_wanted(row, view)]
    if not rows:
        words = ", ".join(view) or "any view"
        raise InputError(
            f"{dataset} has no radiograph of {words} among {n_rows} rows; see drrgen check, or "
            "change data.view"
        )
    names: dict[str, int] = {}
    texts: list[str] = []
    report = np.full(len(rows), -1)
    for i, row in enumerate(rows):
        text = make_text(row.pop("report_findings"), row.pop("report_impression"), template)
        row["text"] = text and name_text(text)
        if text:
            report[i] = names.setdefault(row["text"], len(names))
            texts += [text] if len(names) > len(texts) else []
    return Samples(
        root=dataset,
        fingerprint=str(summary["fingerprint"]),
        rows=tuple(rows),
        patient=number_names(row["patient_id"] or row["sample_id"] for row in rows),
        study=number_names(row["study_id"] or row["sample_id"] for row in rows),
        volume=number_names(row["sample_id"] for row in rows),
        report=report,
        texts=tuple(texts),
    )


def replace_pictures(samples: Samples, other: Samples) -> Samples:
    """Let the radiographs of another data set stand in for those of the same CT, view and draw.

    Args:
        samples: Whose patients, reports, labels and splits stay.
        other: Other radiographs of the same CT, such as those of another acquisition.

    Returns:
        The samples that have a stand-in.

    Raises:
        InputError: None has.
    """
    key = ("ct_ref", "view", "draw")
    found = {tuple(row[name] for name in key): row for row in other.rows if row["ct_ref"]}
    pairs = [(i, found.get(tuple(row[name] for name in key))) for i, row in enumerate(samples.rows)]
    kept = [(i, row) for i, row in pairs if row is not None]
    if not kept:
        raise InputError(
            f"{other.root} has no radiograph of the CT, view and draw of any in {samples.root}; "
            "render the same CT with the same views"
        )
    taken = samples.take(np.array([i for i, _ in kept], dtype=np.int64))
    rows = tuple(
        mine | {name: row[name] for name in ("cxr_path", "cxr_sha256")}
        for mine, (_, row) in zip(taken.rows, kept, strict=True)
    )
    return replace(
        taken, root=other.root, rows=rows,
        fingerprint=f"{samples.fingerprint} {other.fingerprint}",
    )  # fmt: skip


def split_samples(samples: Samples, *, dev_share: float) -> tuple[Samples, Samples]:
    """Split off patients to look at while training; test patients are never among either.

    Args:
        samples: All of them.
        dev_share: Share of the train patients held out, where the manifest has no dev split. Which
            ones follows from their pseudonyms, so that it is the same in every run.

    Returns:
        Samples to train on, and those to look at.

    Raises:
        InputError: Either is empty.
    """
    split = np.array([row["split"] for row in samples.rows])
    is_dev, is_train = split == Split.DEV, split == Split.TRAIN
    if not is_dev.any():
        patients, first = np.unique(samples.patient, return_index=True)
        drawn = np.array([_draw_share(samples.rows[i]) for i in first])
        is_dev = is_train & np.isin(samples.patient, patients[drawn < dev_share])
        is_train &= ~is_dev
    for name, chosen in ((Split.TRAIN, is_train), (Split.DEV, is_dev)):
        if not chosen.any():
            found = {str(word): int(n) for word, n in zip(*np.unique(split, return_counts=True),
                                                          strict=True)}  # fmt: skip
            raise InputError(
                f"the {name} split of {samples.root} is empty: rows by split are {found}; give "
                "more patients, or a larger data.dev_share"
            )
    return samples.take(is_train), samples.take(is_dev)


def plan_epoch(
    samples: Samples, *, key: KeyKind, batch: int, seed: int, epoch: int, drop_rest: bool = True
) -> list[Int64[np.ndarray, " b"]]:
    """Draw the batches of an epoch: each key once, and of each one reconstruction and one view.

    Args:
        samples: To draw from.
        key: What is there once.
        batch: Samples in a batch.
        seed: Seed of the run.
        epoch: Which epoch.
        drop_rest: Leave out what does not fill a batch, unless it is all there is.

    Returns:
        Of each batch the rows.
    """
    random = np.random.default_rng([seed, epoch])
    # A random order, then the first of each volume, and in another random order the first of each
    # key: every volume of a key and every view of a volume has the same chance.
    order = random.permutation(len(samples))
    _, first = np.unique(samples.volume[order], return_index=True)
    rows = random.permutation(order[first])
    _, first = np.unique(samples.number(key)[rows], return_index=True)
    chosen = random.permutation(rows[first])
    batches = [chosen[i : i + batch] for i in range(0, len(chosen), batch)]
    if len(batches) > 1 and len(batches[-1]) < batch and drop_rest:
        batches.pop()
    return batches


def _read_summary(dataset: Path) -> dict[str, Any]:
    """Read ``manifest.json``."""
    try:
        found: dict[str, Any] = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))
        found["fingerprint"], [part["name"] for part in found["parts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{dataset} holds no finished manifest; run drrgen render or drrgen build first"
        ) from error
    return found


def _is_wanted(row: dict[str, Any], view: Sequence[View]) -> bool:
    """Say whether a row is a radiograph of these views."""
    return row["status"] == Status.OK and bool(row["cxr_path"]) and (
        not view or row["view"] in view
    )  # fmt: skip


def number_names(names: Iterable[Hashable]) -> Int64[np.ndarray, " n"]:
    """Number names, in the order of their first appearance; -1 for None."""
    known: dict[Hashable, int] = {}
    return np.array(
        [-1 if name is None else known.setdefault(name, len(known)) for name in names],
        dtype=np.int64,
    )


def _draw_share(row: dict[str, Any]) -> float:
    """Draw a number from 0 to 1 for a row's patient, always the same one."""
    name = f"dev {row['patient_id'] or row['sample_id']}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
