"""``drrgen config``: every setting, its default and what it means."""

from pathlib import Path
from typing import Annotated

import typer

from drrgen.cli.console import exit_on_error
from drrgen.config import Config, read_config, to_toml


def show_config(
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file to check; its settings are shown merged with the defaults."),
    ] = None,
) -> None:
    """Print the complete settings as TOML, a comment a key.

    Example: drrgen config > my.toml, then drrgen render --config my.toml ...
    """
    with exit_on_error():
        typer.echo(to_toml(read_config(config) if config else Config()), nl=False)
