"""Pages to look at, each all in one file: their style, their pictures, their words."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from drrgen.errors import DrrgenError
from drrgen.io.radiographs import read_radiograph

THUMBNAIL = 200  # pixels
_STYLE = Path(__file__).with_name("pages.css")


def render_page(template: Path, **facts: Any) -> str:
    """Fill in a page; all that it is told is escaped. Its style is that of all pages: ``style``.

    Args:
        template: Jinja's.
        facts: What it names.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = _STYLE.read_text(encoding="utf-8")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        style=style, **facts
    )


def encode_picture(path: str) -> str:
    """Shrink a radiograph into a data URI; nothing where it cannot be read."""
    try:
        return encode_grey(read_radiograph(path).grey.numpy())
    except (OSError, ValueError, DrrgenError):  # no path at all is a ValueError
        return ""


def encode_grey(grey: Float[np.ndarray, "v u"], most: int = THUMBNAIL) -> str:
    """Shrink a picture into a data URI.

    Args:
        grey: 0 to 1.
        most: Longest side of the result [pixels].
    """
    image = Image.fromarray((grey * 255).round().clip(0, 255).astype(np.uint8))
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def cut_text(text: str, most: int) -> str:
    """Cut a long text between words.

    Example:
        >>> cut_text("No nodule is seen.", 12)
        'No nodule …'
    """
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"
