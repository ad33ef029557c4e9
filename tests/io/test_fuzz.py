"""Spoiled files of every format: a plain error or a sound volume, never a crash, a hang or nonsense.

More than 20,000 cases, seeded. Warnings are errors here, as everywhere in the tests; a case that
takes long fails by an alarm.
"""

import gzip
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from ct_files import make_small_torso, to_nifti, write_ct
from dicom_files import Storage, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from drrgen.errors import DrrgenError
from drrgen.io.grids import SPACING_RANGE_MM
from drrgen.io.hounsfield import check_hounsfield, is_label_map
from drrgen.io.volumes import read_volume
from drrgen.phantoms import make_torso
from drrgen.volume import CTVolume, check_grid

pytestmark = pytest.mark.slow

CASE_LIMIT_S = 20.0  # a case takes milliseconds; a loaded machine may stand still for seconds
BYTE_CASES = 2200  # a format
DICOM_CASES = 1500  # a storage
HEADER_CASES = 2500  # a format
EXTREMES = (b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7,
            np.float32(np.nan).tobytes() * 2, np.float32(np.inf).tobytes() * 2,
            np.int32(2**31 - 1).tobytes() * 2, b"-1 -1 -1", b"1e308 0 ", b"nan nan ")  # fmt: skip


def slow_down(*_: object) -> None:
    raise AssertionError("a case took too long")


@contextmanager
def alarm() -> Iterator[None]:
    """Fail when the block takes too long."""
    before = signal.signal(signal.SIGALRM, slow_down)
    signal.setitimer(signal.ITIMER_REAL, CASE_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_read(path: Path) -> CTVolume | None:
    """Read; None when it is refused. Anything but a plain error or a sound volume fails."""
    with alarm():
        try:
            volume = read_volume(path)
        except (DrrgenError, OSError):
            return None
        check_sound(volume)
        return volume


def check_sound(volume: CTVolume) -> None:
    """Check what every volume promises."""
    check_grid(volume.patient_from_voxel)
    assert abs(np.linalg.det(volume.patient_from_voxel)) > 0
    low, high = SPACING_RANGE_MM
    assert all(low * 0.99 <= mm <= high * 1.01 for mm in volume.spacing_zyx_mm)
    assert volume.source is not None and len(volume.source.sha256) == 64
    if not is_label_map(volume.hu):
        with suppress(DrrgenError):
            check_hounsfield(volume.hu)


def spoil(data: bytes, rng: random.Random, head: int) -> bytes:
    """Spoil bytes a little, or cut, double or insert some; mostly in the header."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(max(1, min(head, len(out)) if rng.random() < 0.75 else len(out)))
        span = rng.choice((1, 1, 2, 4, 8, 40))
        match rng.randrange(8):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at : at + span] = rng.randbytes(span)
            case 3 | 4:
                extreme = rng.choice(EXTREMES)[:span]
                out[at : at + len(extreme)] = extreme
            case 5:
                del out[at : at + span]
            case 6:
                out[at:at] = out[at : at + span]
            case _ if rng.random() < 0.3:
                del out[at:]
            case _:
                other = rng.randrange(len(out) + 1)
                out[at : at + span] = out[other : other + span]
        out = out or bytearray(b"\0")
    return bytes(out)


def spoil_unpacked(data: bytes, rng: random.Random, head: int) -> bytes:
    """Spoil what is inside a gzip, and pack it again."""
    return gzip.compress(spoil(gzip.decompress(data), rng, head), 1)


HEADS = {".nii": 360, ".nii.gz": 60, ".nrrd": 400, ".mha": 420, ".npz": 200}
CASES: list[tuple[str, Callable[[bytes, random.Random, int], bytes], int]] = [
    *((suffix, spoil, head) for suffix, head in HEADS.items()),
    (".nii.gz", spoil_unpacked, 360),
]


@pytest.mark.parametrize(
    ("suffix", "mutate", "head"), CASES, ids=lambda x: getattr(x, "__name__", x)
)
def test_spoiled_bytes_are_refused_or_read_soundly(
    suffix: str, mutate: Callable[[bytes, random.Random, int], bytes], head: int, tmp_path: Path
) -> None:
    rng = random.Random(f"{suffix} {mutate.__name__}")
    torso = make_small_torso()
    path = tmp_path / f"a{suffix}"
    write_ct(torso, path)
    whole = path.read_bytes()
    right = read_volume(path)
    told: Counter[str] = Counter()
    for _ in range(BYTE_CASES):
        path.write_bytes(mutate(whole, rng, head))
        volume = try_read(path)
        told["read" if volume else "refused"] += 1
        if volume and suffix in (".nii.gz", ".npz") and mutate is spoil:
            # Check sums cover every voxel, so what is read is what was written.
            assert np.array_equal(volume.hu, right.hu)
            if suffix == ".nii.gz":
                assert np.array_equal(volume.patient_from_voxel, right.patient_from_voxel)
    assert min(told["read"], told["refused"]) > BYTE_CASES // 100, told  # both do happen


@pytest.mark.parametrize(
    "storage", [Storage(), Storage(syntax=RLELossless)], ids=["plain", "run-length"]
)
def test_a_spoiled_slice_spoils_no_series(storage: Storage, tmp_path: Path) -> None:
    rng = random.Random(str(storage.syntax))
    torso = make_torso(spacing_mm=40.0, height_mm=240.0)
    write_series(torso, tmp_path, "p", storage=storage)
    files = sorted(tmp_path.iterdir())
    told: Counter[str] = Counter()
    for _ in range(DICOM_CASES):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(spoil(whole, rng, 1200))
        told["read" if try_read(tmp_path) else "refused"] += 1
        path.write_bytes(whole)
    assert told["refused"] > DICOM_CASES // 100, told


NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 12.0, np.nan, np.inf, -np.inf, 1e-30, 1e30, 1e9]),
    st.floats(width=32),
)
SMALL = st.one_of(st.integers(-2, 40), st.integers(-(2**15), 2**15 - 1))
FUZZ = settings(
    max_examples=HEADER_CASES, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
# Offset in the header of NIfTI-1, type, and what may stand there.
FIELDS: list[tuple[int, str, st.SearchStrategy[object]]] = [
    (0, "<i4", st.sampled_from([348, 540, 0, -1])),
    *((40 + 2 * i, "<i2", SMALL) for i in range(8)),
    (
        70,
        "<i2",
        st.sampled_from([2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 0, -1]),
    ),
    (72, "<i2", st.sampled_from([0, 8, 16, 32, 64, -1])),
    *((76 + 4 * i, "<f4", NUMBERS) for i in range(4)),
    (108, "<f4", st.one_of(st.sampled_from([352.0, 353.0, 0.0, 348.5, 1e6]), NUMBERS)),
    (112, "<f4", NUMBERS),
    (116, "<f4", NUMBERS),
    (123, "<u1", st.integers(0, 255)),
    (252, "<i2", st.integers(-1, 5)),
    (254, "<i2", st.integers(-1, 5)),
    *((256 + 4 * i, "<f4", NUMBERS) for i in range(18)),
]


@FUZZ
@given(changes=st.lists(st.sampled_from(FIELDS), min_size=1, max_size=6), data=st.data())
def test_any_header_of_a_nifti(
    changes: list[tuple[int, str, st.SearchStrategy[object]]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    whole = bytearray(NIFTI)
    for at, kind, values in changes:
        new = np.array(data.draw(values)).astype(kind).tobytes()
        whole[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "fuzz.nii"
    path.write_bytes(whole)
    try_read(path)


NIFTI = to_nifti(make_small_torso()).to_bytes()
WORDS = st.one_of(
    st.sampled_from([
        "", "0", "-1", "3", "4", "33 23 12", "33 23", "1 1 1", "99999999999", "9" * 400, "nan", "inf",
        "none", "(1,0,0) (0,1,0) (0,0,1)", "(1,0,0) (0,1,0) none", "(nan,0,0)", "(1,2)", "(0,0,0)",
        "1 0 0 0 1 0 0 0 1", "1e400 0 0", "short", "float", "MET_SHORT", "MET_DOUBLE", "raw", "gzip",
        "hex", "LOCAL", "LIST", "a.raw", "/dev/zero", "..", ".", "True", "False", "little", "big",
        "RAS", "left-posterior-superior", "\0", "\x1b[2J", "%d 1 2 3",
    ]),
    st.text(st.characters(codec="latin-1"), max_size=30),
)  # fmt: skip


def spoil_lines(suffix: str, changes: list[tuple[int, str]], drop: int, folder: Path) -> Path:
    """Give header lines other values, and leave one out."""
    plain = folder / f"plain{suffix}"
    if not plain.exists():
        write_ct(make_small_torso(), plain)
    end, mark = (b"\n\n", ": ") if suffix == ".nrrd" else (b"= LOCAL\n", " = ")
    head, voxels = plain.read_bytes().split(end, 1)
    lines = (head + end).decode("latin-1").splitlines()
    for at, word in changes:
        name = lines[at % len(lines)].split(mark)[0]
        lines[at % len(lines)] = f"{name}{mark}{word}"
    if drop < len(lines):
        del lines[drop]
    path = folder / f"fuzz{suffix}"
    path.write_bytes("\n".join([*lines, ""]).encode("latin-1") + voxels)
    return path


@FUZZ
@given(
    changes=st.lists(st.tuples(st.integers(0, 20), WORDS), min_size=1, max_size=3),
    drop=st.integers(0, 60),
)
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_any_line_of_a_text_header(
    suffix: str,
    changes: list[tuple[int, str]],
    drop: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    try_read(spoil_lines(suffix, changes, drop, tmp_path_factory.getbasetemp()))


def test_there_are_20_000_cases() -> None:
    assert len(CASES) * BYTE_CASES + 3 * HEADER_CASES >= 20_000  # and those of DICOM
