"""One picture of a comparison: a real and a synthetic radiograph, their greys, their spectra."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from drrgen_pipelines.looks import N_BINS, Look

TILE_PX, GAP_PX, CAPTION_PX, _KEY_PX = 420, 16, 24, 32
_GROUND, _INK, _FAINT = (24, 24, 24), (220, 220, 220), (90, 90, 90)
_COLOURS = ((240, 240, 240), (255, 160, 60))  # real, synthetic
_WORDS = ("real", "synthetic")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Band:
    """What one view shows; of every pair the first is real, the second synthetic.

    Attributes:
        title: Its name.
        pictures: One radiograph of each side, grey from 0 to 1.
        looks: The mean looks.
        counts: How many radiographs each side has.
    """

    title: str
    pictures: tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, "_ _"]]
    looks: tuple[Look, Look]
    counts: tuple[int, int]


def draw_bands(bands: Sequence[Band]) -> bytes:
    """Draw a band a view, as PNG.

    Args:
        bands: The views.
    """
    height = TILE_PX + CAPTION_PX + GAP_PX
    size = (4 * (TILE_PX + GAP_PX) + GAP_PX, len(bands) * height + GAP_PX)
    sheet = Image.new("RGB", size, _GROUND)
    for i, band in enumerate(bands):
        _draw_band(sheet, band, GAP_PX + i * height)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_band(sheet: Image.Image, band: Band, top: int) -> None:
    """Draw one view."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    lefts = [GAP_PX + i * (TILE_PX + GAP_PX) for i in range(4)]
    for left, picture in zip(lefts, band.pictures, strict=False):
        tile = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
        tile.thumbnail((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
        place = left + (TILE_PX - tile.width) // 2, top + (TILE_PX - tile.height) // 2
        sheet.paste(tile, place)
    captions = [
        f"{band.title}, {word}, one of {n}" for word, n in zip(_WORDS, band.counts, strict=True)
    ]
    first, last = band.looks[0].frequencies[[0, -1]]
    captions += [
        "share of the body over grey, 0 to 1",
        f"log10 power over {first:.0f} to {last:.0f} cycles per width",
    ]
    for left, caption in zip(lefts, captions, strict=True):
        draw.text((left, top + TILE_PX + 3), caption, _INK, font)
    middles = (np.arange(N_BINS) + 0.5) / N_BINS
    greys = [list(zip(middles, look.histogram, strict=True)) for look in band.looks]
    spectra = [
        list(zip(np.log10(look.frequencies), look.log_power, strict=True)) for look in band.looks
    ]
    _draw_curves(draw, (lefts[2], top), greys)
    _draw_curves(draw, (lefts[3], top), spectra)


def _draw_curves(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], curves: list[list[Point]]
) -> None:
    """Draw two curves into a frame, below a key; at its edges the ends of its axes."""
    left, top = corner
    right, bottom, height = left + TILE_PX, top + TILE_PX, TILE_PX - _KEY_PX
    font = ImageFont.load_default(12)
    draw.rectangle((left, top, right, bottom), outline=_FAINT)
    points = np.array([point for curve in curves for point in curve])
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    for curve, colour in zip(curves, _COLOURS, strict=True):
        share = (np.array(curve) - low) / span
        line = [(left + 4 + x * (TILE_PX - 8), bottom - 4 - y * (height - 8)) for x, y in share]
        draw.line(line, fill=colour, width=2)
    for i, (word, colour) in enumerate(zip(_WORDS, _COLOURS, strict=True)):
        draw.text((right - 150 + 60 * i, top + 8), word, colour, font)
    draw.text((left + 6, top + 8), f"{low[1]:.3g} to {high[1]:.3g}", _INK, font)
