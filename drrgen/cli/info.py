"""``drrgen info``: what is this CT, and would it be refused."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from drrgen.cli.console import exit_on_error, stdout


def show_info(
    path: Annotated[str, typer.Argument(help="Folder, file or glob of CT.")],
    every: Annotated[
        bool, typer.Option("--all", help="Every series of a study, with its fate.")
    ] = False,
    preview: Annotated[
        Path | None, typer.Option(help="Draw the first good CT to this PNG: 3 slices and a mean.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the CT under a path: grid, orientation, values, or why one would be refused.

    Example: drrgen info CT --all --preview look.png
    """
    with exit_on_error():
        from drrgen_pipelines.info import describe_path
        from tqdm import tqdm

        with tqdm(unit="file", file=sys.stderr, disable=None, leave=False) as bar:

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            facts = describe_path(path, all_series=every, preview=preview, progress=tell)
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
            return
        _show(facts, every=every)


def _show(facts: dict[str, Any], *, every: bool) -> None:
    """Print a table, a line a CT, and what was left aside."""
    table = Table("name", "format", "shape z y x", "spacing mm", "axes", "HU 1-99 %", "remarks")
    for ct in facts["ct"]:
        remarks = [f"{ct['refused']}: {ct['detail']}"] if "refused" in ct else ct["warnings"]
        said = ", ".join([ct["fate"], *remarks] if every else remarks)
        grid = (
            ("", "", "", "")
            if "refused" in ct
            else (
                str(ct["shape_zyx"]), str(ct["spacing_zyx_mm"]), ct["orientation"],
                f"{ct['hu_p01']:.0f} to {ct['hu_p99']:.0f}",
            )
        )  # fmt: skip
        table.add_row(ct["name"], ct["format"], *grid, said)
    stdout.print(table)
    if facts["ignored"]:
        counts = ", ".join(f"{n} {word}" for word, n in sorted(facts["ignored"].items()))
        stdout.print(f"left aside: {counts}")
