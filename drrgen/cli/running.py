"""What every command that does work shows: a bar while it runs, and how it ended."""

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from drrgen.cli.console import ExitCode, stderr

if TYPE_CHECKING:
    from drrgen_pipelines.build import Build

    from drrgen.io.stores import Place
    from drrgen.jobs.runner import Progress


def describe_plan(build: "Build", *, todo: int, kept: int) -> str:
    """Say what is going to happen, in a line."""
    studies = "1 study" if build.found.n_studies == 1 else f"{build.found.n_studies} studies"
    return (
        f"{studies} found, {todo} to render, {kept} there already; ignored files: {build.ignored}"
    )


def show(
    steps: "Iterator[Progress]", *, quiet: bool, head: Callable[..., str], unit: str = "CT"
) -> "Progress":
    """Do the work, with a bar of rate, time left and failures.

    Args:
        steps: The work.
        quiet: Show nothing.
        head: Makes the line before the bar, from ``todo`` and ``kept``.
        unit: What an item is.

    Returns:
        How far it came.
    """
    from tqdm import tqdm

    last = next(steps)
    if not quiet:
        stderr.print(head(todo=last.total, kept=last.kept))
    with tqdm(total=last.total, unit=unit, file=sys.stderr, disable=quiet, mininterval=0.5) as bar:
        for step in steps:
            last = step
            bar.update(step.done - bar.n)
            bar.set_postfix(refused=step.refused, failed=step.failed, refresh=False)
    return last


def report(out: "Place", *, quiet: bool) -> ExitCode:
    """Say how a data set stands; print the output's main files; choose the exit code."""
    from drrgen_pipelines.build import read_totals

    totals = read_totals(out)
    if not quiet:
        stderr.print(totals.summary)
    for path in totals.results:
        typer.echo(str(path))
    return ExitCode.SOME_FAILED if totals.refused or totals.failed else ExitCode.DONE
