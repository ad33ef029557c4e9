"""Pictures written and read back by programs that are not ours."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from drrgen.choices import ImageFormat
from drrgen.errors import InputError
from drrgen.io.radiographs import digest_pixels, encode_png, write_radiograph

PITCH_TOL = 1e-3  # relative: PNG stores whole pixels a metre
SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def make_grey(rows: int = 7, columns: int = 11) -> torch.Tensor:
    return torch.linspace(0, 1, rows * columns).reshape(rows, columns)


@given(pixels=hnp.arrays(np.uint16, SIDES) | hnp.arrays(np.uint8, SIDES))
def test_any_grey_picture_survives_png(
    pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(encode_png(pixels, pitch_mm=None, text={}))
    with Image.open(path) as image:
        assert image.mode in ("L", "I;16")
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("chosen", "white", "kind"),
    [(ImageFormat.PNG16, 65535, np.uint16), (ImageFormat.PNG8, 255, np.uint8)],
)
def test_png_holds_grey_rounded_to_its_bits(
    chosen: ImageFormat, white: int, kind: type, tmp_path: Path
) -> None:
    grey = make_grey()
    digest = write_radiograph(tmp_path / "a.png", grey, format=chosen)
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image)
    assert pixels.dtype == kind
    assert np.array_equal(pixels, np.rint(grey.numpy() * white))
    assert digest == digest_pixels(pixels.astype(kind))


def test_grey_outside_0_to_1_is_clipped(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "a.png", torch.tensor([[-0.5, 1.5]]))
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).tolist() == [[0, 65535]]


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".tiff"])
def test_line_integrals_are_stored_as_they_are(suffix: str, tmp_path: Path) -> None:
    values = 12 * make_grey() - 1
    path = tmp_path / f"a{suffix}"
    digest = write_radiograph(path, values)
    read = np.load(path, allow_pickle=False) if suffix == ".npy" else tifffile.imread(path)
    assert read.dtype == np.float32
    assert np.array_equal(read, values.numpy())
    assert digest == digest_pixels(read)


def test_settings_are_the_text_chunks_of_a_png(tmp_path: Path) -> None:
    settings = {"drrgen:view": "PA", "drrgen:settings": json.dumps({"size": 7, "a": [1.5, None]})}
    write_radiograph(tmp_path / "a.png", make_grey(), settings=settings, pitch_mm=0.42)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.text == {"Software": "drrgen", **settings}  # type: ignore[attr-defined]
        assert image.info["dpi"] == pytest.approx([25.4 / 0.42] * 2, rel=PITCH_TOL)


@given(text=st.text(st.characters(blacklist_characters="\0", max_codepoint=255), max_size=40))
def test_any_latin_text_comes_back(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "text.png"
    data = encode_png(np.zeros((1, 1), np.uint8), pitch_mm=None, text={"key": text})
    path.write_bytes(data)
    with Image.open(path) as image:
        image.load()
        assert image.text == {"key": text}  # type: ignore[attr-defined]


def test_text_beyond_latin_is_escaped_and_breaks_nothing(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "a.png", make_grey(), settings={"dataset": "胸 µ"})
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.text == {"Software": "drrgen", "dataset": "\\u80f8 µ"}  # type: ignore[attr-defined]


def test_settings_and_pitch_are_in_a_tiff(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "a.tiff", make_grey(), settings={"view": "LL"}, pitch_mm=0.5)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        tags = file.pages[0].tags
        assert json.loads(tags["ImageDescription"].value) == {"view": "LL"}
        across, per = tags["XResolution"].value
        assert across / per == pytest.approx(20)  # pixels a centimetre
        assert tags["ResolutionUnit"].value == 3


def test_the_digest_tells_pixels_shapes_and_types_apart_and_nothing_else() -> None:
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3)
    digest = digest_pixels(pixels)
    assert digest == digest_pixels(pixels.astype(">u2"))
    assert digest == digest_pixels(np.asfortranarray(pixels))
    others = [pixels.reshape(3, 2), pixels.astype(np.uint8), pixels + np.uint16(1)]
    assert len({digest, *map(digest_pixels, others)}) == 4


def test_the_same_picture_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_radiograph(tmp_path / name, make_grey(), settings={"view": "PA"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_every_checksum_of_a_png_is_right(tmp_path: Path) -> None:
    """Pillow forgives a wrong checksum in some chunks; a strict reader does not."""
    import zlib

    data = encode_png(np.ones((3, 5), np.uint16), pitch_mm=0.4, text={"a": "b"})
    at, names = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        assert checksum == zlib.crc32(body)
        names.append(body[:4])
        at += 12 + length
    assert names == [b"IHDR", b"pHYs", b"tEXt", b"IDAT", b"IEND"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_is_refused_and_leaves_no_file(
    value: float, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="finite"):
        write_radiograph(tmp_path / "a.png", torch.tensor([[value]]))
    assert not list(tmp_path.iterdir())


def test_an_empty_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pixels"):
        write_radiograph(tmp_path / "a.png", torch.zeros(0, 3))


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.jpg.*\.png"):
        write_radiograph(tmp_path / "a.jpg", make_grey())
