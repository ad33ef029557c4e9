"""Before any test: hints become checks, and hypothesis gets its profile."""

import os
from pathlib import Path

from hypothesis import settings
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
PACKAGES = ("drrgen", "pipelines/drrgen_pipelines", "training/drrgen_training")
UNCHECKED = (
    "drrgen.cli",  # names types that it imports only for mypy, so that --help needs no torch
    "drrgen.renderer._numba",  # kernels: their compiler takes no wrapped function
    "drrgen.renderer._slabs",
    "drrgen.renderer._triton",
)


def find_modules() -> list[str]:
    """Name every module, without importing any."""
    found = []
    for package in PACKAGES:
        top = ROOT / package
        for path in sorted(top.rglob("*.py")):
            name = ".".join(path.relative_to(top.parent).with_suffix("").parts)
            if path.stem != "__init__" and not name.startswith(UNCHECKED):
                found.append(name)
    return found


install_import_hook(find_modules(), "typecheck.check")

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
