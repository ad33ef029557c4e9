"""How long a DICOM series takes to become a CTVolume, beside SimpleITK's series reader.

    python benchmarks/read_dicom.py [SLICES] [ROUNDS]

Both read the same uncompressed series of 512 x 512 slices from the page cache, turn by turn in one
process. Ours finds the series, makes every check and hashes every byte; SimpleITK sorts the names
and reads. Printed are the times of each round and the ratio of the medians.
"""

import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk  # noqa: N813  the name its own documentation uses

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from dicom_files import write_series

from drrgen.io.volumes import read_volume
from drrgen.phantoms import make_grid
from drrgen.volume import CTVolume


def make_series(folder: Path, slices: int) -> None:
    shape = (slices, 512, 512)
    hu = np.random.default_rng(0).normal(-300, 400, shape).clip(-1024, 3000).astype(np.int16)
    grid = make_grid(shape, (0.7, 0.8, 1.0))
    write_series(CTVolume(hu=hu, patient_from_voxel=grid), folder, "a")


def read_with_sitk(folder: Path) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def measure(call: object, folder: Path) -> float:
    start = time.perf_counter()
    call(folder)
    return time.perf_counter() - start


def main() -> None:
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_series(folder, slices)
        assert np.array_equal(read_volume(folder).hu, read_with_sitk(folder))
        ours, theirs = [], []
        for _ in range(rounds):
            theirs.append(measure(read_with_sitk, folder))
            ours.append(measure(read_volume, folder))
            print(f"drrgen {ours[-1]:.3f} s  SimpleITK {theirs[-1]:.3f} s")
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"ratio of the medians {ratio:.2f}, of the best {min(ours) / min(theirs):.2f}")


if __name__ == "__main__":
    main()
