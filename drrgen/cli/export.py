"""``drrgen export``: a data set in the form that a trainer wants."""

from typing import Annotated

import typer

from drrgen.choices import Split
from drrgen.cli.console import exit_on_error, stderr


def export(
    webdataset: Annotated[
        str,
        typer.Option(help="Output folder or URL of drrgen render, to be written as tar shards."),
    ],
    to: Annotated[str, typer.Option(help="Folder or URL of the shards; the command goes on.")],
    split: Annotated[list[Split], typer.Option(help="This split only; repeatable.")] = list(Split),  # noqa: B006  typer never changes it
    shard_mb: Annotated[int, typer.Option(min=1, help="Most megabytes of a shard.")] = 1000,
) -> None:
    """Write the radiographs as tar shards a split, as the webdataset package reads them.

    Of each radiograph KEY.png (the file as it is), KEY.json (its row) and KEY.txt (the report,
    where there is one); index.json has counts and digests. The same data set gives the same bytes.

    Example: drrgen export --webdataset CXR --to TARS
    """
    with exit_on_error():
        from drrgen_pipelines.export import export_webdataset

        from drrgen.io.stores import open_place

        folder = open_place(to)
        for done in export_webdataset(
            open_place(webdataset), folder, splits=split, shard_mb=shard_mb
        ):
            if not done.is_new:
                stderr.print(f"there already: {done.shard.name}")
            typer.echo(str(folder / done.shard.name))
