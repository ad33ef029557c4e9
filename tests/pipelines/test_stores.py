"""Data sets whose CT and whose output lie in a store: the bytes are those of a disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ct_files import write_ct
from dicom_files import make_slice
from s3 import find_program, serve_s3
from typer.testing import CliRunner
from upath import UPath

from drrgen.cli import app
from drrgen.io.stores import Place, list_names, open_place
from drrgen.phantoms import make_torso

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    volume = make_torso(spacing_mm=8.0, height_mm=200.0)
    for name in ("a.nii.gz", "deep/b.nrrd", "c.mhd"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_ct(volume, folder / name)
    (folder / "series").mkdir()
    for z in range(len(volume.hu)):
        make_slice(volume, z, "P").save_as(folder / "series" / f"{z}", enforce_file_format=True)
    (folder / "cut.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:300])
    (folder / "notes.txt").write_text("no CT")
    return folder


@pytest.fixture(scope="module")
def salt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("salt") / "salt.txt"
    path.write_text("a salt for tests only, long enough\n")
    return path


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_program() is None:
        pytest.skip("seaweedfs is not installed")
    with serve_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        place = open_place("s3://bucket")
        assert isinstance(place, UPath)
        place.fs.mkdir("bucket")
        yield "s3://bucket"
        place.fs.clear_instance_cache()


def call(*words: object) -> tuple[int, str]:
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def render(ct: object, out: object, salt: Path, *more: object) -> tuple[int, str]:
    return call(
        "render", "-q", "--ct-dir", ct, "--out", out, "--salt-file", salt, "--size", 64, *more
    )


def copy_to(folder: Path, place: UPath) -> None:
    for name in list_names(folder):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes((folder / name).read_bytes())


def read_bytes(out: Place) -> dict[str, bytes]:
    kept = [n for n in list_names(out) if n.endswith((".parquet", ".png")) or n == "manifest.json"]
    return {name: (out / name).read_bytes() for name in kept}


def follow_data_set(folder: Path, url: str, salt: Path, tmp_path: Path, *more: object) -> None:
    """Build on a disk and in a store; check, look at, export and continue what is in the store."""
    store = open_place(url)
    assert isinstance(store, UPath)
    copy_to(folder, store / "ct")
    assert render(folder, tmp_path / "out", salt)[0] == 3
    assert render(f"{url}/ct", f"{url}/out", salt, *more)[0] == 3
    assert read_bytes(store / "out") == read_bytes(tmp_path / "out")
    assert call("check", f"{url}/out")[0] == 0
    assert call("status", f"{url}/out")[0] == 0
    assert call("gallery", f"{url}/out")[0] == 0
    assert (store / "out" / "gallery" / "index.html").exists()
    assert call("export", "--webdataset", f"{url}/out", "--to", f"{url}/tars")[0] == 0
    assert any(name.endswith(".tar") for name in list_names(store / "tars"))
    picture = next(iter(list_names(store / "out" / "images")))
    (store / "out" / "images" / picture).unlink()
    assert call("check", f"{url}/out")[0] == 1
    assert render(f"{url}/ct", f"{url}/out", salt, *more)[0] == 3
    assert read_bytes(store / "out") == read_bytes(tmp_path / "out")


def test_a_data_set_in_memory_is_that_of_a_disk(folder: Path, salt: Path, tmp_path: Path) -> None:
    follow_data_set(folder, f"memory://{tmp_path.name}", salt, tmp_path)


@pytest.mark.slow
def test_a_data_set_in_s3_is_that_of_a_disk(
    folder: Path, salt: Path, tmp_path: Path, s3: str
) -> None:
    follow_data_set(folder, f"{s3}/set", salt, tmp_path, "--workers", 2)


def test_a_ct_in_a_store_is_rendered_to_a_disk(folder: Path, salt: Path, tmp_path: Path) -> None:
    store = open_place(f"memory://{tmp_path.name}/one")
    assert isinstance(store, UPath)
    copy_to(folder, store)
    assert render(f"{store}/*.nii.gz", tmp_path / "glob", salt)[0] == 3
    assert render(f"{store}/deep/b.nrrd", tmp_path / "file", salt)[0] == 0


def test_a_store_without_ct_is_told(salt: Path, tmp_path: Path) -> None:
    code, said = render(f"memory://{tmp_path.name}/empty", tmp_path / "out", salt)
    assert code == 2
    assert "nothing is at memory" in " ".join(said.split())
    shutil.rmtree(tmp_path, ignore_errors=True)
