"""``drrgen build``: CT or radiographs, reports and labels in, a data set out.

It is ``drrgen render`` with tables beside the CT, so it takes the options of ``render`` from there.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drrgen.cli.console import exit_on_error
from drrgen.cli.render import make_dataset, render

if TYPE_CHECKING:
    from drrgen_pipelines.recipe import Recipe

DEFAULT_RECIPE = "generic"
_TABLE = "CSV, TSV, JSON lines or Parquet; repeatable."


def _add_options(
    ct_dir: Annotated[
        str | None, typer.Option(help="Folder, file or glob of CT; none for real radiographs.")
    ] = None,
    cxr_dir: Annotated[
        str | None, typer.Option(help="Folder, file or glob of real radiographs: DICOM, PNG, JPEG.")
    ] = None,
    reports: Annotated[
        list[Path] | None, typer.Option(help=f"Reports: {_TABLE} A folder: XML of Open-i.")
    ] = None,
    labels: Annotated[list[Path] | None, typer.Option(help=f"Labels: {_TABLE}")] = None,
    metadata: Annotated[
        list[Path] | None, typer.Option(help=f"Patient, scan, split, view: {_TABLE}")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="How tables are read and joined: NAME or FILE.toml; generic."),
    ] = None,
    require_report: Annotated[
        bool, typer.Option("--require-report", help="Refuse a study without a report.")
    ] = False,
) -> None:
    """Hold the options that ``build`` has and ``render`` has not, or has otherwise."""


def join_options(base: Callable[..., None], more: Callable[..., None]) -> inspect.Signature:
    """Join the options of two commands; those of the second one stand above the first one's."""
    own = dict(inspect.signature(more).parameters)
    shared = [own.pop(name, option) for name, option in inspect.signature(base).parameters.items()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([each.replace(kind=keyword) for each in (*shared, *own.values())])


def build(ctx: typer.Context, **_: Any) -> None:
    """Make a data set of CT, reports and labels; or of real radiographs and reports.

    A CT without a report is rendered all the same, with the warning no_report in its row. Shipped
    recipes: generic, virtual, ct-rate, rad-chestct, mimic-ct, open-i; see pipelines/README.md.

    Example: drrgen build --ct-dir CT --reports reports.csv --out DATASET
    """
    with exit_on_error():
        make_dataset(with_tables(ctx.params))


def with_tables(options: Mapping[str, Any], default: "Recipe | None" = None) -> dict[str, Any]:
    """Add to the options of ``build`` what they say to read beside the CT.

    Args:
        options: The options.
        default: The recipe where they name none.
    """
    from drrgen_pipelines.recipe import read_recipe

    tables = {
        name: tuple(map(Path, options[name] or ())) for name in ("reports", "labels", "metadata")
    }
    more = {"cxr": options["cxr_dir"], "require_report": options["require_report"]}
    if options["recipe"]:
        more["recipe"] = read_recipe(options["recipe"])
    elif default or any(tables.values()) or any(more.values()):  # else it is render
        more["recipe"] = default or read_recipe(DEFAULT_RECIPE)
    return {**options, "tables": tables | more}


build.__signature__ = join_options(render, _add_options)  # type: ignore[attr-defined]
