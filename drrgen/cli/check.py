"""``drrgen check``: is a data set whole, true, and without leakage."""

from typing import Annotated

import typer
from rich.table import Table

from drrgen.cli.console import ExitCode, exit_on_error, stdout


def check(
    dataset: Annotated[str, typer.Argument(help="Output folder or URL of drrgen render.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Look whether files are there; do not read them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check schema, files, digests, ranges, duplicates, and leakage between splits.

    Exit code 0 where nothing is wrong (warnings do not count), 1 where something is.

    Example: drrgen check CXR
    """
    with exit_on_error():
        from drrgen_pipelines.check import check_dataset

        from drrgen.io.stores import open_place

        checked = check_dataset(open_place(dataset), contents=not quick)
        if as_json:
            typer.echo(checked.to_json())
        else:
            table = Table("severity", "code", "count", "what", "for example")
            for finding in checked.findings:
                table.add_row(
                    finding.severity, finding.code, str(finding.count), finding.text,
                    "\n".join(finding.examples),
                )  # fmt: skip
            if checked.findings:
                stdout.print(table)
            verdict = "sound" if checked.is_sound else "NOT sound"
            stdout.print(f"{verdict}: {checked.rows} rows, {checked.files} files read")
        if not checked.is_sound:
            raise typer.Exit(ExitCode.ERROR)
