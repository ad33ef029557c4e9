import re
import runpy
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from ct_files import write_ct
from typer.main import get_command
from typer.testing import CliRunner

import drrgen
from drrgen.cli import app
from drrgen.config import Config, make_config, to_toml
from drrgen.manifest import read_rows
from drrgen.phantoms import make_torso

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
runner = CliRunner()


@pytest.fixture
def in_folder_with_ct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    volume = make_torso(spacing_mm=4.0, height_mm=200.0)
    write_ct(volume, tmp_path / "ct.nii.gz")
    (tmp_path / "CT").mkdir()
    shutil.copy(tmp_path / "ct.nii.gz", tmp_path / "CT")
    (tmp_path / "reports.csv").write_text("volume,findings,impression\nct,Clear.,Normal.\n")
    for view in ("PA", "LL"):
        grey = torch.rand((96, 80), generator=torch.Generator().manual_seed(1))
        drrgen.write_radiograph(
            tmp_path / "HOSPITAL" / f"{view}.png", grey, settings={"drrgen:view": view}
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("typer.get_app_dir", lambda _: str(tmp_path / "configuration"))
    return tmp_path


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example_and_is_in_the_readme(name: str) -> None:
    assert f"drrgen {name}" in README
    said = runner.invoke(app, [name, "--help"])
    assert said.exit_code == 0
    assert f"Example: drrgen {name}" in said.output


def test_the_commands_of_the_readme_run(in_folder_with_ct: Path) -> None:
    (block,) = re.findall(r"^## Use\n\n((?:    .*\n)+)", README, re.MULTILINE)
    for line in block.splitlines():
        words = line.split("#")[0].split()
        assert words[0] == "drrgen"
        result = runner.invoke(app, words[1:])
        assert result.exit_code == 0, result.output
    assert (in_folder_with_ct / "CXR" / "contact-sheet.png").exists()
    rows = read_rows(in_folder_with_ct / "DATASET" / "manifest" / "part-00000.parquet")
    assert {(row["view"], row["report_impression"]) for row in rows} == {
        ("PA", "Normal."), ("LL", "Normal.")
    }  # fmt: skip


def test_the_python_of_the_readme_runs_and_uses_every_public_name(in_folder_with_ct: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    assert (in_folder_with_ct / "pa.png").stat().st_size > 0
    for name in drrgen.__all__:
        assert f"drrgen.{name}" in README


def test_the_columns_of_the_readme_are_those_of_the_schema() -> None:
    fill = runpy.run_path(str(ROOT / "docs" / "write_columns.py"))["fill"]
    assert fill(README) == README, "run make docs"


def test_the_table_of_hazards_is_that_of_the_tests() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "write_hazards.py"))
    assert made["write_table"]() == made["TABLE"].read_text(encoding="utf-8"), (
        "run python docs/write_hazards.py"
    )


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_the_printed_configuration_is_complete_and_reads_back() -> None:
    printed = runner.invoke(app, ["config"]).output
    assert make_config(tomllib.loads(printed)) == Config()
    assert printed == to_toml(Config())
