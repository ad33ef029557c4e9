import json
from pathlib import Path

import pytest
from drrgen_pipelines.check import Checked, check_dataset
from toys import ToyTask, make_items
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.errors import ManifestError
from drrgen.jobs.runner import run
from drrgen.jobs.task import Item
from drrgen.manifest import Row

GOOD = {
    "dataset": "toy", "width": 4, "height": 3, "exposed_xywh": [0, 0, 4, 3], "pitch_mm": 1.0,
    "sid_mm": 1800.0, "sod_mm": 1600.0, "cxr_sha256": "0", "hu_p01": -1000.0, "hu_p50": 0.0,
    "hu_p99": 900.0, "split": "train",
}  # fmt: skip
CHANGES: dict[str, Row] = {}  # what a test puts into rows, by item


class FilledTask(ToyTask):
    """The toy task, its rows filled like those of a radiograph."""

    def __call__(self, item: Item) -> list[Row]:
        rows = super().__call__(item)
        for row in rows:
            if row["status"] == "ok":
                row.update(GOOD, patient_id=item.key, cxr_path=f"images/{item.key}.txt")
            row.update({"split": "train"} | CHANGES.get(item.key, {}))
        return rows


@pytest.fixture(autouse=True)
def no_changes() -> None:
    CHANGES.clear()


def build(out: Path, **changes: Row) -> Path:
    CHANGES.update(changes)
    items = make_items(a="1", b="2", c="refuse", d="4")
    list(run(FilledTask(out), items, out, part_size=2))
    (out / "calls.log").unlink()
    return out


def codes(checked: Checked) -> set[str]:
    return {finding.code for finding in checked.findings}


def test_a_sound_data_set_has_no_findings(tmp_path: Path) -> None:
    checked = check_dataset(build(tmp_path))
    assert checked == Checked(rows=4, files=3, findings=())
    assert checked.is_sound


def test_a_flipped_byte_and_a_lost_file_are_found(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "images" / "a.txt").write_bytes(b"2")
    (tmp_path / "images" / "b.txt").unlink()
    checked = check_dataset(tmp_path)
    assert codes(checked) == {"file_changed", "file_missing"}
    assert not checked.is_sound
    assert codes(check_dataset(tmp_path, contents=False)) == {"file_missing"}


def test_a_file_that_no_row_names_is_only_worth_a_look(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "images" / "mine.txt").touch()
    checked = check_dataset(tmp_path)
    assert codes(checked) == {"file_unknown"}
    assert checked.is_sound


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("patient_leak", {"b": {"patient_id": "a", "split": "test"}}),
        ("ct_leak", {"a": {"ct_sha256": "x"}, "b": {"ct_sha256": "x", "split": "dev"}}),
        ("duplicate_key", {"b": {"sample_id": "a"}}),
        ("split_unknown", {"a": {"split": "valid"}}),
        ("path_escapes", {"a": {"mask_path": "../../etc/passwd"}}),
        ("path_escapes", {"a": {"mask_path": "/dev/zero"}}),
        ("path_escapes", {"a": {"mask_path": "images/\0"}}),
        ("range_pitch_mm", {"a": {"pitch_mm": -1.0}}),
        ("range_sod_mm", {"a": {"sod_mm": 1900.0}}),
        ("range_exposed_xywh", {"a": {"exposed_xywh": [0, 0, 5, 3]}}),
        ("row_inconsistent", {"a": {"cxr_sha256": None}}),
        ("row_inconsistent", {"c": {"reason": None}}),
        ("row_inconsistent", {"c": {"reason": "crashed"}}),
        ("row_inconsistent", {"a": {"view": "XX"}}),
    ],
)
def test_what_spoils_a_data_set_is_an_error(
    tmp_path: Path, code: str, changes: dict[str, Row]
) -> None:
    checked = check_dataset(build(tmp_path, **changes))
    assert code in codes(checked)
    assert not checked.is_sound


def test_the_same_report_in_two_splits_is_counted_and_no_error(tmp_path: Path) -> None:
    same = {"report_sha256": "normal"}
    checked = check_dataset(build(tmp_path, a=same, b=same | {"split": "test"}))
    assert codes(checked) == {"report_leak"}
    assert checked.is_sound


def test_a_broken_part_a_lost_part_and_a_foreign_part_are_named(tmp_path: Path) -> None:
    build(tmp_path)
    parts = tmp_path / "manifest"
    (parts / "part-00009.parquet").write_bytes((parts / "part-00001.parquet").read_bytes())
    (parts / "part-00001.parquet").write_bytes(b"PAR1")
    assert codes(check_dataset(tmp_path)) >= {"part_broken", "part_unlisted"}
    (parts / "part-00001.parquet").unlink()
    assert "part_missing" in codes(check_dataset(tmp_path))


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no finished manifest"):
        check_dataset(tmp_path)


def test_the_command_exits_with_1_and_answers_in_json(tmp_path: Path) -> None:
    build(tmp_path)
    runner = CliRunner()
    assert runner.invoke(app, ["check", str(tmp_path)]).exit_code == 0
    (tmp_path / "images" / "a.txt").write_bytes(b"other")
    result = runner.invoke(app, ["check", str(tmp_path), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.output)["findings"][0]["code"] == "file_changed"
