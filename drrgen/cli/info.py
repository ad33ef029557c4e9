"""``drrgen info``: what is this CT, and would it be refused."""

import json
from typing import Annotated

import typer
from rich.table import Table

from drrgen.cli.console import exit_on_error, stdout


def show_info(
    path: Annotated[str, typer.Argument(help="Folder, file or glob of CT.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the CT under a path: grid, orientation, values, or why one would be refused.

    Example: drrgen info CT --json
    """
    with exit_on_error():
        from drrgen_pipelines.info import describe_path

        facts = describe_path(path)
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
            return
        table = Table("name", "format", "shape z y x", "spacing mm", "axes", "HU 1-99 %", "remarks")
        for ct in facts["ct"]:
            if "refused" in ct:
                table.add_row(
                    ct["name"], ct["format"], "", "", "", "", f"{ct['refused']}: {ct['detail']}"
                )
                continue
            table.add_row(
                ct["name"], ct["format"], str(ct["shape_zyx"]), str(ct["spacing_zyx_mm"]),
                ct["orientation"], f"{ct['hu_p01']:.0f} to {ct['hu_p99']:.0f}",
                ", ".join(ct["warnings"]),
            )  # fmt: skip
        stdout.print(table)
