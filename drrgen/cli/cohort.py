"""``drrgen cohort``: virtual patients with known findings."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drrgen.cli.console import ExitCode, exit_on_error, set_up_logging, stderr

if TYPE_CHECKING:
    from drrgen.cohort.build import CohortBuild
    from drrgen.cohort.settings import CohortConfig
    from drrgen.cohort.tables import Balance
    from drrgen.jobs.runner import Progress


def cohort(
    n: Annotated[int, typer.Option("--n", min=1, help="Patients; a larger number later adds.")],
    out: Annotated[Path, typer.Option(help="Output folder; continued when it is there already.")],
    size: Annotated[
        str | None, typer.Option(metavar="[128|192|256|full]", help="Voxels along x and y; 128.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything; 0.")] = None,
    dicom: Annotated[
        bool | None, typer.Option("--dicom", help="Write DICOM series instead of NIfTI.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings as TOML, like COHORT/cohort.toml; options beat it."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by cores and memory, none for a handful.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    verbose: Annotated[int, typer.Option("-v", count=True, help="Say more; -vv all.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    log_file: Annotated[Path | None, typer.Option(help="Write the log there too.")] = None,
) -> None:
    """Make virtual patients with known findings, from one real CT: a test article.

    Volumes, reports, labels and masks are written as a data set of your own would be. The same
    settings and seed give the same patients, whatever the number of workers.

    Example: drrgen cohort --n 40 --out COHORT
    """
    with exit_on_error():
        set_up_logging(-1 if quiet else verbose, log_file)
        from drrgen.cohort.build import plan_cohort, run_cohort
        from drrgen.cohort.tables import find_balance, read_cohort
        from drrgen.jobs.runner import Means

        settings = _merge(config, {"size": size, "seed": seed, "dicom": dicom})
        build = plan_cohort(n, out, settings, overwrite=overwrite)
        if not quiet or dry_run:
            stderr.print(build.summary)
        if dry_run:
            return
        for _ in _show(run_cohort(build, Means(workers=workers)), build, hidden=quiet):
            pass
        balance = find_balance(read_cohort(out))
        _report(balance, out, quiet=quiet)
        raise typer.Exit(ExitCode.SOME_FAILED if balance.failed else ExitCode.DONE)


def _merge(config: Path | None, options: dict[str, object]) -> "CohortConfig":
    """Let the options that were given beat the file."""
    from dataclasses import replace

    from drrgen.cohort.build import read_cohort_config
    from drrgen.cohort.settings import CohortConfig
    from drrgen.config import with_overrides

    settings = read_cohort_config(config) if config else CohortConfig()
    return replace(settings, patients=with_overrides(settings.patients, options))


def _show(
    progress: Iterator["Progress"], build: "CohortBuild", *, hidden: bool
) -> Iterator["Progress"]:
    """Draw a bar with rate and time left while the work goes on."""
    from tqdm import tqdm

    with tqdm(
        total=build.ahead.todo, unit="patient", file=sys.stderr, disable=hidden, mininterval=0.5
    ) as bar:
        for step in progress:
            bar.update(step.done - bar.n)
            bar.set_postfix(failed=step.failed, refresh=False)
            yield step


def _report(balance: "Balance", out: Path, *, quiet: bool) -> None:
    """Print the balance of the labels, which go together, and the main files."""
    if not quiet:
        stderr.print(
            f"{balance.volumes} volumes of {balance.patients} virtual patients, {balance.without} "
            f"of them without any finding; {balance.reports} distinct reports; {balance.failed} "
            "failed"
        )
        for line in _make_table(balance):
            typer.echo(line)
    for name in ("ct", "reports.csv", "labels.csv", "metadata.csv", "findings.csv", "masks"):
        typer.echo(str(out / name))


def _make_table(balance: "Balance") -> Iterator[str]:
    """Lay out how often each label is true, alone and with each other one, a line a label."""
    names = [name for name in balance.known if balance.present[name]]
    yield f"{'label':38}{'volumes':>8}{'share':>7}   together with" + "".join(
        f"{i:4}" for i in range(1, len(names) + 1)
    )
    for i, name in enumerate(names, start=1):
        pairs = "".join(
            f"{balance.together[(name, other)] + balance.together[(other, name)] or '.':>4}"
            for other in names
        )
        share = balance.present[name] / balance.known[name]
        yield f"{i:3} {name:34}{balance.present[name]:8}{share:7.0%}{'':16}{pairs}"
