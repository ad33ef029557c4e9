"""``drrgen run``, ``merge`` and ``status``: shards of a planned build, on machines of their own."""

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from drrgen.choices import Engine
from drrgen.cli.console import ExitCode, exit_on_error, set_up_logging, stderr, stdout
from drrgen.cli.render import RUN_KEYS
from drrgen.cli.running import report, show
from drrgen.config import RunConfig, with_overrides

if TYPE_CHECKING:
    from drrgen.jobs.status import Standing

WHOLE = "0/1"


def parse_shard(word: str) -> tuple[int, int]:
    """Read ``3/64``: the fourth of 64 shards, for they count from 0."""
    found = re.fullmatch(r"(\d+)/(\d+)", word)
    if not found or not int(found[1]) < int(found[2]):
        raise typer.BadParameter(f"{word!r} is no shard; wanted i/N with i from 0 to N-1")
    return int(found[1]), int(found[2])


def run(
    ctx: typer.Context,
    out: Annotated[str, typer.Argument(help="Output folder or URL of drrgen plan.")],
    shard: Annotated[
        str, typer.Option(metavar="i/N", help="Which share, from 0; all of it.")
    ] = WHOLE,
    engine: Annotated[Engine | None, typer.Option(help="What integrates the rays; auto.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by cores and memory, none for a handful of CT.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Where workers are: local, slurm, kubernetes, cuda, tcp://.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(metavar="FILE", help="The cluster as TOML: queue, memory, image.")
    ] = None,
    timeout_s: Annotated[
        float | None, typer.Option(help="Time limit of a CT; 1800 in a worker process.")
    ] = None,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Also try again what was refused before.")
    ] = False,
    verbose: Annotated[int, typer.Option("-v", count=True, help="Say more; -vv all.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    log_file: Annotated[Path | None, typer.Option(help="Write the log there too.")] = None,
) -> None:
    """Do what drrgen plan wrote down, or one share of it; the same command goes on.

    Shards share nothing but the output and the folder OUT.private beside it, so a job array is
    enough; drrgen merge makes one data set of them. Exit code 3: some studies were refused or
    failed.

    Example: drrgen run CXR --shard 0/2
    """
    with exit_on_error():
        set_up_logging(-1 if quiet else verbose, log_file)
        from drrgen_pipelines.build import run_planned_shard

        from drrgen.io.stores import open_place

        running = with_overrides(RunConfig(), {key: ctx.params[key] for key in RUN_KEYS})
        index, count = parse_shard(shard)
        last = show(
            run_planned_shard(open_place(out), running, index, count, retry_refused=retry_refused),
            quiet=quiet,
            head=lambda todo, kept: f"shard {index} of {count}: {todo} to do, {kept} there already",
        )
        raise typer.Exit(ExitCode.SOME_FAILED if last.refused or last.failed else ExitCode.DONE)


def merge(
    out: Annotated[str, typer.Argument(help="Output folder or URL whose shards are all done.")],
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Make one data set of the shards: the list of parts, the totals, the contact sheet.

    Exit code 1 says that a shard is not done, and which; 3, that some studies have no picture.

    Example: drrgen merge CXR
    """
    with exit_on_error():
        from drrgen_pipelines.build import merge_build

        from drrgen.io.stores import open_place

        merge_build(open_place(out))
        raise typer.Exit(report(open_place(out), quiet=quiet))


def status(
    out: Annotated[str, typer.Argument(help="Output folder or URL of a build.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how a build stands, running or stopped, here or on a cluster; changes nothing.

    Example: drrgen status CXR
    """
    with exit_on_error():
        from drrgen.io.stores import open_place
        from drrgen.jobs.status import read_standing

        standing = read_standing(open_place(out))
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(standing) | {"left": standing.left}, indent=2))
            return
        _show_standing(standing)
        if standing.left and not standing.running:
            stderr.print("stopped before its end; the command that began it goes on")


def _show_standing(standing: "Standing") -> None:
    """Print how a build stands, as a table."""
    table = Table("what", "count")
    for word in ("ok", "refused", "failed", "ignored"):
        table.add_row(word, str(standing.done.get(word, 0)))
    for reason, n in sorted(standing.reasons.items()):
        table.add_row(f"  {reason}", str(n))
    table.add_row("left", f"{standing.left} of {standing.planned}")
    table.add_row("in work", str(standing.in_work))
    table.add_row("parts written", f"{standing.parts} of {standing.parts_planned}")
    for host, n in sorted(standing.hosts.items()):
        table.add_row(f"done lately on {host}", str(n))
    if standing.per_hour:
        table.add_row("an hour, lately", f"{standing.per_hour:.0f}")
    if standing.running and standing.seconds_left:
        table.add_row("time left", f"{standing.seconds_left / 3600:.1f} h")
    if standing.last_event:
        table.add_row("last heard of", f"{time.time() - standing.last_event:.0f} s ago")
    table.add_row("running", "yes" if standing.running else "no")
    stdout.print(table)
