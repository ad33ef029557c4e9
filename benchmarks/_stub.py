"""A task that renders nothing, so that what is left is what planning and bookkeeping cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from drrgen.errors import Reason
from drrgen.jobs.task import Item
from drrgen.manifest import Row, make_row, to_table


def list_items(count: int) -> Iterator[Item]:
    """Make items as large as those of a CT-RATE volume, one at a time."""
    for i in range(count):
        key = f"{i:020x}"
        path = f"/data/dataset/train/train_{i}/train_{i}_a/train_{i}_a_1.nii.gz"
        identity = dict.fromkeys(("sample_id", "patient_id", "study_id", "series_id"), key)
        yield Item(
            key=key,
            payload={"files": {"paths": [path], "name": path[14:]}, "identity": identity},
            n_bytes=80_000_000 + i,
            mtime_ns=10**18 + i,
            facts=key[:12],
        )


@dataclass(frozen=True)
class StubTask:
    """Two rows an item, and no file."""

    out: Path
    fingerprint: str = "stub"

    def prepare(self) -> None:
        """Nothing to prepare."""

    def __call__(self, item: Item) -> list[Row]:
        return [
            make_row(
                sample_id=item.key, status="ok", view=view, draw=0, ct_sha256=item.key,
                patient_id=item.key, cxr_path=f"images/{item.key[-2:]}/{item.key}_{view}_0.png",
                shape_zyx=[300, 512, 512], spacing_zyx_mm=[1.0, 0.7, 0.7], warnings=[],
            )
            for view in ("PA", "LL")
        ]  # fmt: skip

    def files(self, rows: Sequence[Row]) -> list[str]:  # noqa: ARG002
        return []

    def failure(self, item: Item, reason: Reason, detail: str) -> list[Row]:
        return [make_row(sample_id=item.key, status="failed", reason=reason.value, detail=detail)]

    def to_table(self, rows: Sequence[Row]) -> pa.Table:
        return to_table(rows, fingerprint=self.fingerprint)

    def digest(self, item: Item) -> str:  # noqa: ARG002
        return ""
