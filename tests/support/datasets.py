"""A data set on disk from rows that a test makes up, with parts and markers as drrgen writes them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from toys import ToyTask

from drrgen.io.atomic import digest_file
from drrgen.io.radiographs import write_radiograph
from drrgen.jobs.shards import Outcome, write_part, write_summary
from drrgen.manifest import Row, make_row

GOOD: Row = {
    "status": "ok", "view": "PA", "draw": 0, "split": "train", "cxr_kind": "rendered",
    "width": 24, "height": 32, "dataset": "toy",
}  # fmt: skip


def make_good_row(sample_id: str, **values: object) -> Row:
    """Make the row of a radiograph."""
    return make_row(
        **(GOOD | {"sample_id": sample_id, "cxr_path": f"images/{sample_id}.png"} | values)
    )


def make_refused_row(sample_id: str, reason: str = "slice_gap", **values: object) -> Row:
    """Make the row of a CT without a picture."""
    told = {"status": "refused", "reason": reason, "detail": "2 of 90 slices are missing"}
    return make_row(**({"sample_id": sample_id, "split": "train"} | told | values))


def write_picture(out: Path, row: Row, *, rows: int = 32, columns: int = 24) -> None:
    """Write a picture that differs from row to row."""
    seed = torch.Generator().manual_seed(sum(row["sample_id"].encode()))
    write_radiograph(out / row["cxr_path"], torch.rand((rows, columns), generator=seed))


def write_dataset(out: Path, rows: Sequence[Row], *, part_size: int = 1000) -> Path:
    """Write rows as a finished manifest; pictures that are there get their digests."""
    starts = range(0, len(rows), part_size)
    for number, start in enumerate(starts):
        outcomes: dict[str, Outcome] = {}
        for i, row in enumerate(rows[start : start + part_size]):
            name = row["cxr_path"]
            there = name is not None and ".." not in name and (out / name).is_file()
            files = {name: digest_file(out / name)} if there else {}
            outcomes[f"{start + i}"] = Outcome(rows=[row], identity=(0, 0, ""), files=files)
        write_part(out, number, outcomes, ToyTask(out))
    write_summary(out, "toy", range(len(starts)))
    return out
