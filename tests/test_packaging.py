"""The wheel: three packages, the table of attenuation, the mark of the typed, one version."""

import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"drrgen", "drrgen_pipelines", "drrgen_training"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build without a network and without isolation."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def read_project() -> dict[str, object]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(project, dict)
    return project


def test_the_wheel_holds_our_three_packages_and_nothing_beside(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert len(info) == 1
    assert tops - info == PACKAGES


def test_every_module_of_the_tree_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    for package in ("drrgen", "pipelines/drrgen_pipelines", "training/drrgen_training"):
        top = ROOT / package
        modules = {p.relative_to(top.parent).as_posix() for p in top.rglob("*.py")}
        assert modules <= set(wheel.namelist())


def test_the_data_and_the_marks_of_the_typed_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    wanted = {f"{package}/py.typed" for package in PACKAGES}
    wanted |= {"drrgen/__init__.pyi", "drrgen/physics/tables/mass_attenuation.csv"}
    page = "drrgen_pipelines/gallery_page"
    wanted |= {f"{page}/page.html", f"{page}/page.css", f"{page}/page.js"}
    assert wanted <= set(wheel.namelist())


def test_every_recipe_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    recipes = {f"drrgen_pipelines/recipes/{p.name}" for p in (ROOT / "pipelines/recipes").iterdir()}
    assert len(recipes) > 5 and recipes <= set(wheel.namelist())


def test_the_wheel_has_one_version_one_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Version"] == read_project()["version"] == version("drrgen")
    assert metadata["Requires-Python"] == ">=3.11"
    assert "drrgen = drrgen.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())
