"""What an import costs: no torch for the command's help, and never torchvision or timm."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import drrgen

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "drrgen": ROOT / "drrgen",
    "drrgen_pipelines": ROOT / "pipelines" / "drrgen_pipelines",
    "drrgen_training": ROOT / "training" / "drrgen_training",
}
MISSING_OK = "triton"  # only CUDA builds of torch bring it

PROBE = """
import importlib, json, sys
sys.path[:0] = {path}
for name in {names}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith({missing_ok!r}):
            raise
print(json.dumps(sorted(sys.modules)))
"""


def import_afresh(*names: str) -> set[str]:
    """Import modules in a new process; return all that are loaded then."""
    path = [str(folder.parent) for folder in PACKAGES.values()]
    code = PROBE.format(path=path, names=list(names), missing_ok=MISSING_OK)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def find_modules() -> list[str]:
    found = []
    for folder in PACKAGES.values():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found.append(".".join(p for p in parts if p != "__init__"))
    return found


@pytest.mark.parametrize("names", [["drrgen"], ["drrgen.manifest"], ["drrgen.errors", "drrgen.choices", "drrgen.config", "drrgen.cli"]])  # fmt: skip
def test_what_is_light_imports_no_torch(names: list[str]) -> None:
    loaded = import_afresh(*names)
    assert set(names) <= loaded
    assert not loaded & {"torch", "numba", "SimpleITK", "pydicom", "dask", "scipy", "diffdrr"}


def test_help_answers_without_torch() -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(f.parent) for f in PACKAGES.values()]}\n"
        "from drrgen.cli import main\nsys.argv = ['drrgen', 'render', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--ct-dir" in done.stdout


def test_no_module_imports_torchvision_or_timm() -> None:
    """Their registry wheels do not import beside a CPU-only torch."""
    modules = find_modules()
    assert len(modules) > 30
    loaded = import_afresh(*modules)
    assert {"drrgen.renderer.render", "drrgen_pipelines.build", "torch"} <= loaded
    assert not loaded & {"torchvision", "timm"}


def test_the_public_names_are_those_of_the_stub_and_all_resolve() -> None:
    stub = ast.parse((ROOT / "drrgen" / "__init__.pyi").read_text(encoding="utf-8"))
    stated = {
        (alias.asname, f"{node.module}")
        for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    assert sorted(name for name, _ in stated if name) == list(drrgen.__all__) == dir(drrgen)
    for name, home in stated:
        assert name and getattr(drrgen, name).__module__ == home


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'drrgen' has no attribute 'rendre'"):
        drrgen.rendre  # noqa: B018
