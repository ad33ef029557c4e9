import gzip
import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from ct_files import write_ct
from PIL import Image
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.phantoms import make_torso

runner = CliRunner()


@pytest.fixture(scope="module")
def torso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = make_torso(spacing_mm=4.0, height_mm=200.0)
    path = tmp_path_factory.mktemp("torso") / "ct.nii.gz"
    write_ct(volume, path)
    return path


def run(*arguments: object) -> int:
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code


def render(ct: Path, out: Path, *more: object) -> int:
    salt = out.parent / "salt.txt"
    salt.write_text("a salt for tests only, long enough\n")
    return run("render", "--ct-dir", ct, "--out", out, "--salt-file", salt, "--size", 96, *more)


def read_files(out: Path) -> dict[str, bytes]:
    kept = [*out.rglob("*.png"), *out.rglob("*.parquet"), out / "manifest.json"]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in kept}


def test_bad_files_cost_their_own_row_and_no_other(torso: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    folder.mkdir()
    shutil.copy(torso, folder / "a.nii.gz")
    shutil.copy(torso, folder / "b.nii.gz")
    (folder / "cut.nii.gz").write_bytes(torso.read_bytes()[:5000])
    (folder / "empty.nii").touch()
    (folder / "notes.txt").write_text("no CT")
    assert render(folder, tmp_path / "out") == 3
    table = ds.dataset(sorted((tmp_path / "out" / "manifest").glob("*.parquet"))).to_table()
    rows = table.to_pylist()
    assert sorted(r["status"] for r in rows) == ["ok"] * 4 + ["refused"] * 2
    assert {r["reason"] for r in rows if r["view"] is None} == {"truncated_file"}


def test_the_heart_is_on_the_viewers_right_in_pa(torso: Path, tmp_path: Path) -> None:
    assert render(torso, tmp_path / "out", "--view", "PA", "--display", "linear") == 0
    (path,) = (tmp_path / "out" / "images").rglob("*.png")
    with Image.open(path) as image:
        grey = np.asarray(image, dtype=float)
    middle = grey[grey.shape[0] // 2 - 2 : grey.shape[0] // 2 + 12]
    half = grey.shape[1] // 2
    assert middle[:, half:].mean() > middle[:, :half].mean()


def test_running_twice_changes_no_byte_and_other_settings_are_refused(
    torso: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert render(torso, out) == 0
    before = read_files(out)
    assert render(torso, out) == 0
    assert read_files(out) == before
    assert render(torso, out, "--kev", 70) == 1
    assert read_files(out) == before


def test_an_output_that_is_a_file_is_wrong_usage_and_left_alone(
    torso: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    assert render(torso, tmp_path / "out") == 2
    assert (tmp_path / "out").read_text() == "mine"


def test_a_missing_folder_is_wrong_usage(tmp_path: Path) -> None:
    assert render(tmp_path / "nothing", tmp_path / "out") == 2


def test_a_flipped_bit_in_the_stream_is_refused_or_read(torso: Path, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(gzip.decompress(torso.read_bytes())))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "bad.nii.gz").write_bytes(data)
    assert render(tmp_path / "bad.nii.gz", tmp_path / "out") == 3


def test_a_disk_that_was_full_costs_nothing_but_another_run(torso: Path, tmp_path: Path) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    assert render(torso, undisturbed) == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))  # as if no more fitted
    try:
        assert render(torso, out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(out.rglob("*.png")) and not list(out.rglob("*.parquet"))
    assert render(torso, out) == 0
    assert read_files(out) == read_files(undisturbed)
