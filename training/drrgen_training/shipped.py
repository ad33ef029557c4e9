"""Files that come with drrgen: recipes, prompts, mappings, each a TOML file with a name."""

from pathlib import Path
from typing import Any

from drrgen.errors import ConfigError

_HERE = Path(__file__).parent


def find_shipped(kind: str, name: str) -> Path:
    """Find a file: one that is shipped, by name, or the user's own.

    Args:
        kind: Folder of the shipped ones, such as ``recipes``; in a wheel it lies in the package,
            in the tree beside it.
        name: Such as ``stage1``; a name that ends with ``.toml`` is a path.

    Raises:
        ConfigError: There is none.
    """
    if name.endswith(".toml"):
        return Path(name)
    shipped = list_shipped(kind)
    if name not in shipped:
        raise ConfigError(
            f"there is no {name} among the {kind}; wanted one of {', '.join(sorted(shipped))}, or "
            "FILE.toml"
        )
    return shipped[name]


def list_shipped(kind: str) -> dict[str, Path]:
    """List what is shipped of a kind, by name."""
    folders = (_HERE / kind, _HERE.parent / kind)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def is_list_of_words(value: Any) -> bool:
    """Say whether a value of a file is a list of texts that say something."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(each, str) and each.strip() for each in value
    )  # fmt: skip
