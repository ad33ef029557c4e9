import gc
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from datasets import make_good_row, make_refused_row, write_dataset, write_picture
from drrgen_pipelines.export import INDEX_NAME, Exported, export_webdataset
from PIL import Image
from typer.testing import CliRunner

from drrgen.choices import Split
from drrgen.cli import app
from drrgen.errors import InputError, ManifestError
from drrgen.io.atomic import PARTIAL_MARK
from drrgen.manifest import Row

MARK = b"\x89PNG"


def make_rows() -> list[Row]:
    splits = ["train"] * 6 + ["dev"] * 2 + ["test"]
    rows = [
        make_good_row(f"s{i}", split=split, kvp=120.0, report_findings=f"Finding {i}, größer.")
        for i, split in enumerate(splits)
    ]
    rows[1] |= {"report_impression": "Impression."}
    rows[2] |= {"report_findings": None}
    return [*rows, make_refused_row("z", report_findings="Not to be exported.")]


def build(out: Path, rows: list[Row] | None = None, *, side: int = 700, part_size: int = 4) -> Path:
    rows = make_rows() if rows is None else rows
    for row in rows:
        if row["status"] == "ok":
            write_picture(out, row, rows=side, columns=side)
    return write_dataset(out, rows, part_size=part_size)


def export(out: Path, to: Path, **options: Any) -> list[Exported]:
    return list(export_webdataset(out, to, shard_mb=options.pop("shard_mb", 2), **options))


def read_index(to: Path) -> dict[str, Any]:
    index = json.loads((to / INDEX_NAME).read_text(encoding="utf-8"))
    assert isinstance(index, dict)
    return index


def read_shards(to: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(to.glob("*.tar"))}


def test_shards_hold_the_files_the_rows_and_the_reports(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR"), tmp_path / "TARS"
    export(out, to)
    with tarfile.open(to / "train-000000.tar") as tar:
        files = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert list(files)[:6] == ["s0_PA_0.png", "s0_PA_0.json", "s0_PA_0.txt", "s1_PA_0.png", "s1_PA_0.json", "s1_PA_0.txt"]  # fmt: skip
    assert files["s0_PA_0.png"] == (out / "images" / "s0.png").read_bytes()
    assert files["s1_PA_0.txt"].decode() == "Finding 1, größer.\n\nImpression."
    row = json.loads(files["s0_PA_0.json"])
    assert (row["sample_id"], row["kvp"], row["split"]) == ("s0", 120.0, "train")
    assert None not in row.values()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves the shards open
def test_the_webdataset_package_reads_every_radiograph_and_no_other_row(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR"), tmp_path / "TARS"
    export(out, to)
    paths = [str(path) for path in sorted(to.glob("*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
    gc.collect()  # closes them here, and not in another test
    assert sorted(sample["__key__"] for sample in samples) == [f"s{i}_PA_0" for i in range(9)]
    assert [sample["__key__"] for sample in samples if "txt" not in sample] == ["s2_PA_0"]
    for sample in samples:
        with Image.open(io.BytesIO(sample["png"])) as picture:
            assert picture.size == (700, 700)
        assert json.loads(sample["json"])["status"] == "ok"


def test_the_index_counts_and_digests_what_is_there(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR"), tmp_path / "TARS"
    export(out, to)
    index = read_index(to)
    assert index["is_complete"]
    assert index["samples"] == {"train": 6, "dev": 2, "test": 1}
    shards = read_shards(to)
    assert [each["name"] for each in index["shards"]] == sorted(shards)
    assert sum(each["split"] == "train" for each in index["shards"]) == 3
    for each in index["shards"]:
        assert each["bytes"] == len(shards[each["name"]]) <= 2e6 + tarfile.RECORDSIZE
        assert each["sha256"] == hashlib.sha256(shards[each["name"]]).hexdigest()


def test_two_exports_are_the_same_bytes_of_nobody_and_no_time(tmp_path: Path) -> None:
    out = build(tmp_path / "CXR")
    export(out, tmp_path / "a")
    export(out, tmp_path / "b")
    assert read_shards(tmp_path / "a") == read_shards(tmp_path / "b")
    assert read_index(tmp_path / "a") == read_index(tmp_path / "b")
    with tarfile.open(tmp_path / "a" / "dev-000000.tar") as tar:
        told = {(each.mtime, each.uid, each.gid, each.uname, each.gname, each.mode) for each in tar}
    assert told == {(0, 0, 0, "", "", 0o644)}


def test_an_interrupted_export_goes_on_and_a_finished_one_has_nothing_to_do(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR"), tmp_path / "TARS"
    export(out, tmp_path / "whole")
    going = export_webdataset(out, to, shard_mb=2)
    first = next(going)
    going.close()
    assert not read_index(to)["is_complete"]
    left = to / f".train-000001.tar{PARTIAL_MARK}dead"
    left.touch()
    again = export(out, to)
    assert [each.is_new for each in again] == [False] + [True] * 4
    assert again[0].shard == first.shard
    assert read_shards(to) == read_shards(tmp_path / "whole")
    assert not left.exists()
    assert not any(each.is_new for each in export(out, to))


def test_a_damaged_shard_and_a_changed_row_are_written_anew(tmp_path: Path) -> None:
    rows = make_rows()
    out, to = build(tmp_path / "CXR", rows), tmp_path / "TARS"
    export(out, to)
    (to / "dev-000000.tar").write_bytes(b"damaged")
    rows[8]["report_findings"] = "Amended."
    write_dataset(out, rows, part_size=4)
    new = [each.shard.name for each in export(out, to) if each.is_new]
    assert new == ["dev-000000.tar", "test-000000.tar"]


def test_larger_shards_leave_no_old_ones_behind(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR"), tmp_path / "TARS"
    export(out, to)
    (to / "mine.tar").touch()
    export(out, to, shard_mb=100)
    assert set(read_shards(to)) == {"dev-000000.tar", "mine.tar", "test-000000.tar", "train-000000.tar"}  # fmt: skip


def test_one_split_leaves_the_others_alone(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR"), tmp_path / "TARS"
    export(out, to, splits=[Split.DEV])
    assert set(read_shards(to)) == {"dev-000000.tar"}
    export(out, to, splits=[Split.TEST])
    assert read_index(to)["samples"] == {"train": 0, "dev": 2, "test": 1}


def test_a_picture_of_another_format_keeps_its_ending(tmp_path: Path) -> None:
    out = build(tmp_path / "CXR", [make_good_row("s", cxr_path="images/s.npy")], side=8)
    export(out, tmp_path / "TARS")
    with tarfile.open(tmp_path / "TARS" / "train-000000.tar") as tar:
        assert tar.getnames() == ["s_PA_0.npy", "s_PA_0.json"]


def test_pictures_that_are_gone_or_changed_stop_the_export(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR"), tmp_path / "TARS"
    picture = out / "images" / "s0.png"
    picture.write_bytes(MARK)
    with pytest.raises(ManifestError, match=r"wanted .* as when it was written; run drrgen check"):
        export(out, to)
    picture.unlink()
    with pytest.raises(ManifestError, match="in the manifest and not on disk"):
        export(out, to)
    assert read_shards(to) == {}
    assert not list(to.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cxr_path": "../../s.png"}, "no digest"),
        ({"sample_id": "../s"}, "cannot export"),
        ({"sample_id": "a.b"}, "cannot export"),
        ({"cxr_path": "images/s.json"}, "no digest"),
    ],
)
def test_names_that_would_lead_elsewhere_are_refused(
    tmp_path: Path, changes: Row, said: str
) -> None:
    row = make_good_row("s", cxr_path="images/s.png")
    write_picture(tmp_path / "CXR", row)
    out = write_dataset(tmp_path / "CXR", [row | changes])
    with pytest.raises(ManifestError, match=said):
        export(out, tmp_path / "TARS")


def test_a_folder_that_is_no_place_for_shards_is_refused(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR", [make_refused_row("z")]), tmp_path / "TARS"
    with pytest.raises(InputError, match="inside the data set"):
        export(out, out / "tars")
    with pytest.raises(InputError, match="shard_mb must be positive, got 0"):
        export(out, to, shard_mb=0)
    with pytest.raises(ManifestError, match="no finished manifest"):
        export(tmp_path / "nothing", to)
    to.mkdir()
    for text, said in (
        ("{}", "no index"),
        ('{"shards": [], "fingerprint": "x"}', "other settings"),
    ):
        (to / INDEX_NAME).write_text(text)
        with pytest.raises(ManifestError, match=said):
            export(out, to)


def test_the_command_names_the_shards(tmp_path: Path) -> None:
    out, to = build(tmp_path / "CXR", side=8), tmp_path / "TARS"
    words = ["export", "--webdataset", str(out), "--to", str(to), "--split", "dev"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(to / "dev-000000.tar")]
    assert "there already: dev-000000.tar" in CliRunner().invoke(app, words).stderr


@pytest.mark.parametrize("text", ["[]", "7", "null", "{}", '{"parts": 3, "fingerprint": "x"}'])
def test_a_summary_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    out = write_dataset(tmp_path / "out", [make_good_row("a")])
    (out / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="no summary of a manifest"):
        list(export_webdataset(out, tmp_path / "to"))
