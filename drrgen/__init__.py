"""Chest CT to synthetic chest radiographs.

Names are handed on lazily, so that the command line and the manifest need no torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "CTVolume": "drrgen.volume",
    "Detector": "drrgen.geometry.detector",
    "View": "drrgen.choices",
    "make_pose": "drrgen.geometry.pose",
    "read_volume": "drrgen.io.volumes",
    "render": "drrgen.renderer.render",
    "to_radiograph": "drrgen.physics.display",
    "write_radiograph": "drrgen.io.radiographs",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'drrgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
