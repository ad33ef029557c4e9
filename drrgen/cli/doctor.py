"""``drrgen doctor``: what this machine can do, and what to install for the rest."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from drrgen.cli.console import ExitCode, exit_on_error, stdout


def show_doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try out engines, DICOM decoders, packages and room; say what to install for what is missing.

    Exit code 0 says that rendering works, 1 that it does not.

    Example: drrgen doctor --json
    """
    with exit_on_error():
        from drrgen.doctor import examine

        diagnosis = examine()
        if as_json:
            typer.echo(json.dumps(asdict(diagnosis), indent=2))
        else:
            table = Table("what", "name", "is", "found", "what to do")
            for finding in diagnosis.findings:
                cells = (
                    finding.group, finding.name, finding.health, finding.detail, finding.remedy
                )  # fmt: skip
                table.add_row(*(escape(cell) for cell in cells))
            stdout.print(table)
            stdout.print("rendering works" if diagnosis.renders else "rendering does not work")
        raise typer.Exit(ExitCode.DONE if diagnosis.renders else ExitCode.ERROR)
