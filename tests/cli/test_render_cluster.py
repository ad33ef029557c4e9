"""What ``drrgen render`` says of a cluster before it asks one for anything."""

from pathlib import Path

import pytest
import yaml
from ct_files import write_ct
from typer.testing import CliRunner, Result

from drrgen.cli import app
from drrgen.phantoms import make_torso

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "CT").mkdir()
    write_ct(make_torso(spacing_mm=8.0, height_mm=200.0), tmp_path / "CT" / "ct.nii.gz")
    (tmp_path / "salt.txt").write_text("a salt for tests only, long enough\n")
    (tmp_path / "site.toml").write_text('[slurm]\nqueue = "gpu"\n\n[kubernetes]\nclaim = "ct"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dry_run(*more: str) -> Result:
    words = ["render", "--ct-dir", "CT", "--out", "OUT", "--salt-file", "salt.txt", "--dry-run"]
    return runner.invoke(app, [*words, *more])


def test_a_dry_run_prints_the_job_and_nothing_else_to_stdout(folder: Path) -> None:
    said = dry_run("--cluster", "slurm", "--site", "site.toml")
    assert said.exit_code == 0
    assert said.stdout.startswith("#!/usr/bin/env bash\n") and "#SBATCH -p gpu\n" in said.stdout
    assert "1 to render" in said.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["CT", "salt.txt", "site.toml"]


def test_a_dry_run_prints_the_manifest(folder: Path) -> None:
    said = dry_run("--cluster", "kubernetes", "--site", "site.toml", "--workers", "9")
    manifest = yaml.safe_load(said.stdout)
    assert manifest["kind"] == "DaskCluster" and manifest["spec"]["worker"]["replicas"] == 9


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cluster", "slrum"], "cluster: got slrum, wanted local, slurm, kubernetes, cuda"),
        (["--cluster", "slurm", "--site", "no.toml"], "cannot read the site file no.toml"),
    ],
)
def test_a_cluster_that_cannot_be_is_wrong_usage(folder: Path, words: list[str], told: str) -> None:
    said = dry_run(*words)
    assert said.exit_code == 2 and told in said.stderr
