"""``drrgen gallery``: look at a data set in a browser."""

import sys
from typing import Annotated

import typer

from drrgen.cli.console import exit_on_error


def gallery(
    dataset: Annotated[str, typer.Argument(help="Output folder or URL of drrgen render.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Show the first rows only.")] = None,
) -> None:
    """Write OUT/gallery/index.html: all radiographs, with filters, reports and refusals.

    One page that needs no server and no network; it holds what the manifest says of the rows.

    Example: drrgen gallery CXR
    """
    with exit_on_error():
        from drrgen_pipelines.gallery import count_shown, find_gallery, write_gallery
        from tqdm import tqdm

        from drrgen.io.stores import open_place

        out = open_place(dataset)
        total = count_shown(out, limit=limit)
        with tqdm(total=total, unit="row", file=sys.stderr, disable=None, leave=False) as bar:
            for n_rows in write_gallery(out, limit=limit):
                bar.update(n_rows)
        typer.echo(str(find_gallery(out)))
