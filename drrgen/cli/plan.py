"""``drrgen plan`` and ``append``: write down what shards will do; add to what is there."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from drrgen.cli.build import build, with_tables
from drrgen.cli.console import exit_on_error, set_up_logging, stderr, stdout
from drrgen.cli.render import RUN_KEYS, find_dataset, find_own_salt
from drrgen.cli.running import describe_plan, report, show

_APPENDED = (
    "ct_dir", "cxr_dir", "reports", "labels", "metadata", "recipe", "require_report", "mask",
    "salt_file", *RUN_KEYS, "limit", "retry_refused", "dry_run", "verbose", "quiet", "log_file",
)  # fmt: skip


def plan(ctx: typer.Context, **_: Any) -> None:
    """Find the studies and write down what is to be done; say what it costs, and render nothing.

    Takes the options of build. Refuses what cannot fit on the disk. Then drrgen run does it, all of
    it or a share on each machine, and drrgen merge makes one data set of the shares.

    Example: drrgen plan --ct-dir CT --out CXR
    """
    with exit_on_error():
        options = with_tables(ctx.params)
        build_ahead = find_dataset(options)
        from drrgen_pipelines.build import forecast_build, write_plan
        from drrgen_pipelines.estimate import estimate

        ahead = forecast_build(build_ahead)
        cost = estimate(ahead, build_ahead.config, build_ahead.out)
        stderr.print(describe_plan(build_ahead, todo=ahead.todo, kept=ahead.kept))
        stdout.print(cost.summary)
        cost.check_room()
        if not options["dry_run"]:
            write_plan(build_ahead)


def append(
    ctx: typer.Context,
    out: Annotated[str, typer.Argument(help="Output folder or URL of an earlier build.")],
    **_: Any,
) -> None:
    """Add studies to a data set, with the settings that it was made with.

    What is there stays as it is, byte for byte; no patient changes the split.

    Example: drrgen append CXR --ct-dir MORE
    """
    with exit_on_error():
        quiet = bool(ctx.params["quiet"])
        set_up_logging(-1 if quiet else ctx.params["verbose"], ctx.params["log_file"])
        from drrgen_pipelines.build import (
            find_addition,
            forecast_build,
            read_built_recipe,
            run_build,
        )
        from drrgen_pipelines.sources import Sources

        from drrgen.io.stores import open_place

        place = open_place(out)
        options = with_tables(ctx.params, read_built_recipe(place))
        salt_file = options["salt_file"]
        addition = find_addition(
            Sources(ct=options["ct_dir"], **options["tables"]),
            place,
            {key: options[key] for key in RUN_KEYS},
            salt_file=Path(salt_file) if salt_file else find_own_salt(quiet=quiet),
            limit=options["limit"],
            mask=Path(options["mask"]) if options["mask"] else None,
        )
        if options["dry_run"]:
            ahead = forecast_build(addition)
            stderr.print(describe_plan(addition, todo=ahead.todo, kept=ahead.kept))
            return
        steps = run_build(addition, retry_refused=options["retry_refused"])
        show(steps, quiet=quiet, head=lambda **n: describe_plan(addition, **n))
        raise typer.Exit(report(addition.out, quiet=quiet))


def _choose_options() -> inspect.Signature:
    """Take from ``build`` what says where studies lie and how the work is done."""
    own = dict(inspect.signature(append).parameters)
    theirs = inspect.signature(build).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    chosen = [own["ctx"], own["out"], *(theirs[name] for name in _APPENDED)]
    return inspect.Signature([each.replace(kind=keyword) for each in chosen])


plan.__signature__ = inspect.signature(build)  # type: ignore[attr-defined]
append.__signature__ = _choose_options()  # type: ignore[attr-defined]
