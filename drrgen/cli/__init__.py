"""The command ``drrgen``: the only place that prints."""

from typing import Annotated

import typer

from drrgen.cli.build import build
from drrgen.cli.check import check
from drrgen.cli.cohort import cohort
from drrgen.cli.compare import compare
from drrgen.cli.config import show_config
from drrgen.cli.console import read_version, stdout
from drrgen.cli.doctor import show_doctor
from drrgen.cli.evaluate import evaluate
from drrgen.cli.export import export
from drrgen.cli.export_model import export_model
from drrgen.cli.gallery import gallery
from drrgen.cli.info import show_info
from drrgen.cli.plan import append, plan
from drrgen.cli.predict import predict
from drrgen.cli.render import render
from drrgen.cli.shards import merge, run, status
from drrgen.cli.training import embed, pack, train

app = typer.Typer(
    name="drrgen",
    help="Turn chest CT into synthetic chest radiographs, and build data sets of them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        stdout.print(read_version())
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Turn chest CT into synthetic chest radiographs, and build data sets of them."""


app.command("render")(render)
app.command("build")(build)
app.command("plan")(plan)
app.command("run")(run)
app.command("merge")(merge)
app.command("append")(append)
app.command("status")(status)
app.command("info")(show_info)
app.command("check")(check)
app.command("compare")(compare)
app.command("gallery")(gallery)
app.command("export")(export)
app.command("cohort")(cohort)
app.command("pack")(pack)
app.command("embed")(embed)
app.command("train")(train)
app.command("evaluate")(evaluate)
app.command("predict")(predict)
app.command("export-model")(export_model)
app.command("config")(show_config)
app.command("doctor")(show_doctor)


def main() -> None:
    """Run the command line."""
    app()
