from pathlib import Path

import pytest
from typer.testing import CliRunner

from drrgen.cli import app

runner = CliRunner()


@pytest.fixture
def cached(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / "cohort-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.mark.usefixtures("cached")
def test_it_prints_the_balance_and_the_main_files(tmp_path: Path) -> None:
    settings = tmp_path / "mine.toml"
    settings.write_text("[prevalence]\nnodule = 1.0\nmass = 1.0\n[patients]\nhealthy = 0.0\n")
    out = tmp_path / "C"
    said = runner.invoke(
        app, ["cohort", "--n", "1", "--out", str(out), "--config", str(settings), "--seed", "4"]
    )
    assert said.exit_code == 0, said.output
    assert "1 virtual patients, 1 to make" in said.output
    assert "Lung nodule" in said.stdout
    assert "together with" in said.stdout
    assert str(out / "reports.csv") in said.stdout
    assert "seed = 4" in (out / "cohort.toml").read_text()
    again = runner.invoke(
        app, ["cohort", "--n", "1", "--out", str(out), "--config", str(out / "cohort.toml")]
    )
    assert again.exit_code == 0
    assert "0 to make" in again.output


@pytest.mark.usefixtures("cached")
def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    said = runner.invoke(app, ["cohort", "--n", "5", "--out", str(tmp_path / "C"), "--dry-run"])
    assert said.exit_code == 0
    assert "5 to make" in said.output
    assert not (tmp_path / "C").exists()


def test_a_wrong_size_is_a_wrong_usage(tmp_path: Path) -> None:
    said = runner.invoke(app, ["cohort", "--n", "1", "--out", str(tmp_path), "--size", "100"])
    assert said.exit_code == 2
    assert "wanted 128, 192, 256, full" in said.output
