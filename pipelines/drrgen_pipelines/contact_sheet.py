"""One picture that shows what a data set looks like."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drrgen.errors import RadiographError, Status
from drrgen.io.atomic import write_bytes
from drrgen.io.radiographs import read_radiograph
from drrgen.io.stores import Place, list_files, stage
from drrgen.manifest import Row, read_table

TILE_PX, GAP_PX, CAPTION_PX, COLUMNS = 360, 12, 22, 4
_GROUND, _INK = 24, 200


def make_contact_sheet(out: Place, *, limit: int = 24) -> Place:
    """Draw the radiographs of a data set side by side, spread over the whole of it.

    Args:
        out: Output folder with its manifest.
        limit: Most radiographs shown.

    Returns:
        The picture, ``<out>/contact-sheet.png``.
    """
    shown, n_good, bad = _choose_rows(out, limit)
    columns = max(1, min(COLUMNS, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    size = (
        columns * (TILE_PX + GAP_PX) + GAP_PX,
        lines * (TILE_PX + CAPTION_PX + GAP_PX) + GAP_PX + CAPTION_PX,
    )
    sheet = Image.new("L", size, _GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, row in enumerate(shown):
        x = GAP_PX + i % columns * (TILE_PX + GAP_PX)
        y = GAP_PX + i // columns * (TILE_PX + CAPTION_PX + GAP_PX)
        tile = _read_tile(out, row)
        sheet.paste(tile, (x + (TILE_PX - tile.width) // 2, y + (TILE_PX - tile.height) // 2))
        draw.text((x, y + TILE_PX + 2), _caption(row), _INK, font)
    footer = f"{len(shown)} of {n_good} radiographs; {bad} CT refused or failed"
    draw.text((GAP_PX, size[1] - CAPTION_PX), footer, _INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    path = out / "contact-sheet.png"
    write_bytes(path, buffer.getvalue())
    return path


def _caption(row: Row) -> str:
    """Name a radiograph, and say what was taken out of its CT."""
    removed = row["table_removed_ml"]
    table = f", {removed:.0f} ml beside the body removed" if removed else ""
    return f"{row['sample_id'][:8]} {row['view']}{table}"


def _choose_rows(out: Place, limit: int) -> tuple[list[Row], int, int]:
    """Choose rows spread over those of each view; count radiographs, and studies without."""
    paths = list_files(out / "manifest", "*.parquet")
    places: dict[str, list[tuple[int, int]]] = {}
    n_bad = 0
    for part, path in enumerate(paths):
        for i, row in enumerate(read_table(path, ["status", "view"]).to_pylist()):
            if row["status"] == Status.OK:
                places.setdefault(row["view"], []).append((part, i))
            else:
                n_bad += 1
    most = max(1, limit // max(1, len(places)))
    shown = sorted(place for found in places.values() for place in _spread(found, most))
    rows = [read_table(paths[part]).slice(i, 1).to_pylist()[0] for part, i in shown]
    return rows, sum(map(len, places.values())), n_bad


def _spread(places: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Take some, evenly from the first to the last."""
    return [places[i * len(places) // most] for i in range(most)] if len(places) > most else places


def _read_tile(out: Place, row: Row) -> Image.Image:
    """Read a radiograph, scaled down to a tile; a grey one where the file is gone."""
    try:
        with stage([out / row["cxr_path"]]) as (path,):
            grey = read_radiograph(path).grey.numpy()
    except (OSError, RadiographError):
        return Image.new("L", (TILE_PX, TILE_PX), 2 * _GROUND)
    tile = Image.fromarray((np.clip(grey, 0, 1) * 255).astype(np.uint8))
    tile.thumbnail((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    return tile
