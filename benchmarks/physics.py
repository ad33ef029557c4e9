"""Processor time of beam, exposure and display for a 1024 x 1024 view, and of body and table.

Run on a quiet machine: python benchmarks/physics.py. Prints a Markdown table of medians of 7.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from drrgen.anatomy.body import find_body, remove_surroundings
from drrgen.phantoms import make_grid, make_torso
from drrgen.physics.acquisitions import ACQUISITIONS
from drrgen.physics.display import to_radiograph
from drrgen.physics.exposure import Exposure, Panel, expose
from drrgen.physics.materials import make_material_basis
from drrgen.physics.spectrum import make_beam, tabulate
from drrgen.volume import CTVolume

REPEATS, SIDE, PITCH_MM = 7, 1024, 0.38


def measure(work: Callable[[], object]) -> float:
    """Median processor time of some work [s]; once before, to warm up."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def enlarge(torso: CTVolume) -> CTVolume:
    """Repeat a phantom's voxels to 512 x 512 x 300."""
    z, y, x = (
        np.linspace(0, n - 1, m).astype(int)
        for n, m in zip(torso.hu.shape, (300, 512, 512), strict=True)
    )
    hu = torso.hu[np.ix_(z, y, x)]
    return CTVolume(hu=hu, patient_from_voxel=make_grid(hu.shape, (0.8, 0.8, 1.0)))


def project_along_y(torso: CTVolume) -> torch.Tensor:
    """Area densities of the phantom, parallel rays, 1024 x 1024 [g/cm2]."""
    areas = make_material_basis().tabulate()[:, torso.hu.astype(int) + 32768].sum(2) * 2.0
    return torch.nn.functional.interpolate(
        torch.from_numpy(areas)[None].float(), size=(SIDE, SIDE), mode="bilinear"
    )[0].contiguous()


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torso = make_torso(spacing_mm=2.0, height_mm=300.0)
    areas, volume = project_along_y(torso), enlarge(torso)
    preset = next(iter(ACQUISITIONS.values()))
    beam = make_beam(preset.kvp, aluminium_mm=preset.aluminium_mm)
    table, chance = tabulate(beam), torch.Generator().manual_seed(0)
    exposure = Exposure(
        dose_ugy=preset.dose_ugy,
        quanta_per_ugy_mm2=beam.quanta_per_ugy_mm2,
        scatter=True,
        grid=preset.grid,
        focal_spot_mm=preset.focal_spot_mm,
        detector_blur=True,
    )
    panel = Panel(
        pitch_mm=PITCH_MM,
        sid_mm=preset.sid_mm,
        sod_mm=preset.sod_mm,
        center_uv=(SIDE / 2, SIDE / 2),
    )
    line_integral = table.look_up(*areas)
    signal = expose(line_integral, exposure, panel, generator=chance)
    body = find_body(volume)
    rows = {
        "look-up": measure(lambda: table.look_up(*areas)),
        "exposure": measure(lambda: expose(line_integral, exposure, panel, generator=chance)),
        "display": measure(lambda: to_radiograph(signal)),
        "find_body": measure(lambda: find_body(volume)),
        "remove_surroundings": measure(lambda: remove_surroundings(volume, body)),
        "table of a beam (once)": measure(lambda: tabulate(beam)),
    }
    view = sum(rows[name] for name in ("look-up", "exposure", "display"))
    table_removal = rows["find_body"] + rows["remove_surroundings"]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}, numpy {np.__version__}; one thread, medians of {REPEATS}\n"
    )
    print("| step | processor time [s] | goal [s] |\n| --- | --- | --- |")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.3f} | |")
    print(f"| **look-up + exposure + display, 1024 x 1024** | {view:.3f} | 0.1 |")
    print(f"| **body and table, 512 x 512 x 300** | {table_removal:.3f} | 0.15 |")


if __name__ == "__main__":
    main()
