"""A data set as one page to look at, without a server and without a network.

The page is written chunk by chunk: the columns of some rows as JSON, then their thumbnails. What a
manifest says is data to the page, never markup: no character of it can end the element that holds
it, the page puts it in as text, and a content security policy lets nothing run but the page's own
script.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from itertools import islice
from typing import Any, TextIO

import numpy as np
from PIL import Image

from drrgen.errors import RadiographError, Status
from drrgen.io.atomic import atomic_path
from drrgen.io.radiographs import read_radiograph
from drrgen.io.stores import Place, stage
from drrgen.manifest import SCHEMA, Row
from drrgen_pipelines.rows import find_file, read_parts, read_summary, to_plain

THUMBNAIL_PX = 192  # long side
CHUNK_ROWS = 250
MISSING = ""  # instead of the thumbnail of a picture that cannot be read
_QUALITY = 70  # of WebP: about 2 kB a thumbnail
_READERS = 8  # threads; decoding lets others run
_BROWSERS_SHOW = (".png", ".jpg", ".jpeg")
# Characters that could end a script element, open a comment or end a line of JavaScript.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def find_gallery(out: Place) -> Place:
    """Name the page of a data set."""
    return out / "gallery" / "index.html"


def count_shown(out: Place, *, limit: int | None = None) -> int:
    """Count the rows that the page will show.

    Raises:
        ManifestError: There is no finished manifest.
    """
    total = sum(part["rows"] for part in read_summary(out)["parts"])
    return total if limit is None else min(total, limit)


def write_gallery(out: Place, *, limit: int | None = None) -> Iterator[int]:
    """Write the page of a data set, whole, and count the rows as they are done.

    Args:
        out: Output folder of ``drrgen render``.
        limit: Show the first rows only.

    Raises:
        ManifestError: No finished manifest, a broken part, or a path that leaves the folder.
        OSError: The page cannot be written.
    """
    head, tail = _fill_page(_describe(out, limit))
    rows = (row for part in read_parts(out) for row in part.rows)
    with (
        atomic_path(find_gallery(out)) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as page,
        ThreadPoolExecutor(_READERS) as pool,
    ):
        page.write(head)
        shown = islice(rows, limit)
        while chunk := list(islice(shown, CHUNK_ROWS)):
            paths = [_find_picture(out, row) for row in chunk]
            thumbnails = list(pool.map(_make_thumbnail, paths))
            _write_data(page, "rows", _to_columns(chunk, paths))
            _write_data(page, "thumbnails", thumbnails)
            yield len(chunk)
        page.write(tail)


def _describe(out: Place, limit: int | None) -> dict[str, Any]:
    """Tell the page what it shows, and what the columns mean."""
    columns = {
        field.name: {key.decode(): text.decode() for key, text in field.metadata.items()}
        for field in SCHEMA
    }
    return {
        "name": out.absolute().name,
        "rows": count_shown(out, limit=limit),
        "total": count_shown(out),
        "columns": columns,
    }


def _fill_page(about: Mapping[str, Any]) -> tuple[str, str]:
    """Put style and script into the page; cut it where the data goes."""
    folder = files("drrgen_pipelines") / "gallery_page"
    page, style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: data:; "
        f"style-src {_hash_source(style)}; script-src {_hash_source(script)}"
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "ABOUT": _to_json(about)}
    head, tail = page.split("{{DATA}}")
    for name, text in parts.items():
        head, tail = (half.replace(f"{{{{{name}}}}}", text) for half in (head, tail))
    return head, tail


def _hash_source(text: str) -> str:
    """Allow an inline element by its content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _to_json(value: object) -> str:
    """Write JSON that cannot end the element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _write_data(page: TextIO, kind: str, value: object) -> None:
    """Write a data block: the browser runs none of it."""
    page.write(f'<script type="application/json" data-holds="{kind}">{_to_json(value)}</script>\n')


def _to_columns(rows: Sequence[Row], paths: Sequence[Place | None]) -> dict[str, Any]:
    """Turn rows into columns: one value where all are the same, none where all are null.

    ``whole`` tells of which rows a browser can show the picture file itself.
    """
    whole = [path is not None and path.suffix.lower() in _BROWSERS_SHOW for path in paths]
    lists = {name: [to_plain(row[name]) for row in rows] for name in SCHEMA.names} | {
        "whole": whole
    }
    packed = {
        name: {"same": values[0]} if all(v == values[0] for v in values) else {"each": values}
        for name, values in lists.items()
        if any(value is not None for value in values)
    }
    return {"n": len(rows), "columns": packed}


def _find_picture(out: Place, row: Row) -> Place | None:
    """Find the picture of a row; None where it has none."""
    if row["status"] != Status.OK or row["cxr_path"] is None:
        return None
    return find_file(out, row["cxr_path"])


def _make_thumbnail(path: Place | None) -> str | None:
    """Make a small WebP in base64; ``MISSING`` where the picture cannot be read."""
    if path is None:
        return None
    try:
        with stage([path]) as (local,):
            grey = read_radiograph(local).grey.numpy()
    except (OSError, RadiographError):
        return MISSING
    picture = Image.fromarray((np.clip(np.nan_to_num(grey), 0, 1) * 255).astype(np.uint8))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
