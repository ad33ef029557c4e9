"""``drrgen compare``: how near the look is to real radiographs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from drrgen.choices import View
from drrgen.cli.console import exit_on_error, stderr, stdout
from drrgen.cli.render import parse_view

if TYPE_CHECKING:
    from drrgen_pipelines.compare import ViewComparison


def compare(
    real: Annotated[Path, typer.Option(help="A real radiograph, or a folder: DICOM, PNG, JPEG.")],
    synthetic: Annotated[Path, typer.Option(help="Output of drrgen render, or such a folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Write compare.json and compare.png into this folder.")
    ] = None,
    view: Annotated[
        View | None,
        typer.Option(
            parser=parse_view,
            metavar="[PA|AP|LL|RL]",
            help="This view only; pictures that tell no view are taken for it.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Most pictures of each side, spread over all.")
    ] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold synthetic radiographs against real ones of the same view: greys, contrast, spectrum.

    Every measure is printed for both, with the difference; what each means is in the JSON.

    Example: drrgen compare --real HOSPITAL --synthetic CXR --out LOOK
    """
    with exit_on_error():
        from drrgen_pipelines.compare import compare as measure
        from drrgen_pipelines.compare import describe, write_comparison

        comparison = measure(real, synthetic, view=view, limit=limit)
        if as_json:
            typer.echo(json.dumps(describe(comparison), indent=2))
        else:
            for each in comparison.views:
                stdout.print(_make_table(each))
        for why, n in sorted(comparison.left_aside.items()):
            stderr.print(f"left aside: {n} {why}")
        if out is not None:
            for path in write_comparison(comparison, out):
                stderr.print(str(path))


def _make_table(each: "ViewComparison") -> Table:
    """Lay out the measures of one view."""
    title = f"{each.view}: {each.n_real} real, {each.n_synthetic} synthetic"
    table = Table("measure", "unit", "real", "synthetic", "difference", title=title)
    for line in each.lines:
        table.add_row(
            line.name,
            line.unit,
            _show(line.real, line.real_sd),
            _show(line.synthetic, line.synthetic_sd),
            _show(line.difference, None),
        )
    return table


def _show(value: float | None, sd: float | None) -> str:
    """Show a number, with its standard deviation where there is one."""
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")
