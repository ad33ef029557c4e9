"""How long a .nii.gz takes to become a CTVolume, beside decompressing it with isal alone.

    python benchmarks/read_nifti.py [--slices 300] [--rounds 5]

Both are measured in turns in one run, so that what else the machine does hits both alike. The CT
is made: a torso with noise, tiled along z, so that it packs about as well as a real one.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from drrgen.io.hounsfield import check_hounsfield, is_label_map
from drrgen.io.volumes import read_volume
from drrgen.phantoms import make_torso

SIDE = 512
LIMIT = 1.25


def write_ct(path: Path, slices: int) -> None:
    """Write a noisy torso of 512 x 512 x N with a round field of view."""
    torso = make_torso(spacing_mm=4.0, height_mm=40.0).hu
    rng = np.random.default_rng(0)
    z, y, x = (
        np.linspace(0, n - 1, size).round().astype(int)
        for n, size in zip(torso.shape, (40, SIDE, SIDE), strict=True)
    )
    base = torso[np.ix_(z, y, x)]
    block = np.maximum(base + rng.normal(0, 25, base.shape).astype(np.int16), -1024)
    v, u = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    block[:, np.hypot(v, u) > SIDE / 2] = -2048
    hu = np.concatenate([block] * -(-slices // len(block)))[:slices]
    image = nib.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-0.7, -0.7, 1.0, 1.0]))
    with igzip.open(path, "wb", compresslevel=3) as file:
        file.write(image.to_bytes())


def read_checked(path: Path) -> None:
    """Read a CT as a rendering does, with every check."""
    volume = read_volume(path)
    if is_label_map(volume.hu):
        raise SystemExit("a label map?")
    check_hounsfield(volume.hu)


def inflate(path: Path) -> None:
    """Decompress with isal in one go, told the size beforehand: the fastest that it does."""
    packed = path.read_bytes()
    size = int.from_bytes(packed[-4:], "little")
    isal_zlib.decompress(packed, wbits=31, bufsize=size)


def take_time(work: Callable[[Path], None], path: Path) -> float:
    """Time one call [s]."""
    start = time.perf_counter()
    work(path)
    return time.perf_counter() - start


def main() -> None:
    """Print the times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ct.nii.gz")
        write_ct(path, args.slices)
        works = {"isal alone": inflate, "read_volume": read_checked}
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(args.rounds):
            for name, work in works.items():
                times[name].append(take_time(work, path))
        print(f"{path.stat().st_size / 2**20:.0f} MiB packed, {SIDE}x{SIDE}x{args.slices}")
    for name, found in times.items():
        print(f"{name:12} median {statistics.median(found):.3f} s, fastest {min(found):.3f} s")
    pairs = [b / a for a, b in zip(times["isal alone"], times["read_volume"], strict=True)]
    fastest = min(times["read_volume"]) / min(times["isal alone"])
    print(
        f"read_volume / isal alone: median {statistics.median(pairs):.2f}, fastest by fastest "
        f"{fastest:.2f}, wanted at most {LIMIT}"
    )


if __name__ == "__main__":
    main()
