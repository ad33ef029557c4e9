"""The commands over a planned build, as a job array would call them."""

import json
from pathlib import Path

import pytest
from ct_files import write_ct
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.phantoms import make_torso

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    for i in range(4):
        write_ct(make_torso(spacing_mm=4.0, height_mm=200.0 + 4 * i), folder / f"ct{i}.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "ct0.nii.gz").read_bytes()[:5000])
    (folder / "salt.txt").write_text("a salt for tests only, long enough\n")
    return folder


def call(*words: object) -> tuple[int, str]:
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def list_options(folder: Path, out: Path) -> list[object]:
    return ["--ct-dir", folder, "--out", out, "--salt-file", folder / "salt.txt", "--size", 64,
            "--view", "PA", "--config", folder / "small.toml"]  # fmt: skip


@pytest.fixture(scope="module")
def parts_of_two(folder: Path) -> None:
    (folder / "small.toml").write_text("[run]\nshard_size = 2\n")


def read_bytes(out: Path) -> dict[str, bytes]:
    kept = [*out.rglob("*.png"), *out.rglob("*.parquet"), out / "manifest.json"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


@pytest.mark.usefixtures("parts_of_two")
def test_shards_of_the_commands_give_the_bytes_of_one_render(folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert call("render", "-q", *list_options(folder, whole))[0] == 3
    code, said = call("plan", *list_options(folder, out))
    assert code == 0, said
    assert not (out / "images").exists()
    assert {call("run", "-q", out, "--shard", f"{i}/3")[0] for i in (1, 2, 0)} == {0, 3}
    assert json.loads(call("status", out, "--json")[1])["left"] == 0
    assert call("merge", "-q", out)[0] == 3
    assert read_bytes(out) == read_bytes(whole)
    assert call("check", out)[0] == 0


@pytest.mark.usefixtures("parts_of_two")
def test_merging_too_early_says_which_part_is_missing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("plan", *list_options(folder, out))
    call("run", "-q", out, "--shard", "0/3")
    code, said = call("merge", out)
    assert (code, "2 of 3 parts" in said) == (1, True)
    code, said = call("status", out)
    assert code == 0
    assert "3 of 5" in " ".join(said.split()).replace("│", "")


@pytest.mark.parametrize("shard", ["3/3", "1", "a/b", "-1/2", "0/0"])
def test_a_wrong_shard_is_wrong_usage(shard: str, tmp_path: Path) -> None:
    assert call("run", tmp_path, f"--shard={shard}")[0] == 2


def test_a_folder_without_a_plan_is_told(tmp_path: Path) -> None:
    for command in ("run", "merge"):
        code, said = call(command, tmp_path)
        assert code == 1
        assert "config.toml" in said
    code, said = call("status", tmp_path)
    assert code == 1
    assert "nothing was begun" in " ".join(said.split())
