"""What a CT costs from file to row, beside decompressing it and beside X2CT-CLIP's recipe.

    python benchmarks/end_to_end.py [--slices 300] [--rounds 5]    # one CT, all in one run
    python benchmarks/end_to_end.py --workers 24                   # so many CT, by 1 and 2 workers
    python benchmarks/end_to_end.py --planned 1000000              # bookkeeping, in one process
    python benchmarks/end_to_end.py --planned 20000 --workers 2    # and with Dask

One CT: everything is measured in turns in one process, as processor time (the sum over threads),
so that what else the machine does hardly counts; medians. A study is read, freed of its table,
rendered PA and LL with physics and display, written as PNG, and told in rows. X2CT-CLIP's recipe
is written here anew from its description (nibabel as float64, resampled by trilinear interpolation
once for the picture and once for the CT encoder, mean projection, one PNG).
"""

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from _stub import StubTask, list_items
from drrgen_pipelines.build import make_task
from drrgen_pipelines.discover import find_studies
from drrgen_pipelines.task import make_item
from isal import isal_zlib
from PIL import Image
from read_nifti import write_ct

from drrgen.config import Config, RenderConfig
from drrgen.jobs import cluster
from drrgen.jobs.plan import choose_part_size
from drrgen.jobs.runner import Means, run

SALT = b"a public salt for benchmarks only"
LIMITS = {512: 3.0, 1024: 5.0}  # times isal
RECIPE_LIMIT, WORKERS_LIMIT, PLANNED_MB = 5.0, 1.8, 1500


def inflate(path: Path) -> None:
    """Decompress with isal in one go: what no reader can do without."""
    packed = path.read_bytes()
    size = int.from_bytes(packed[-4:], "little")
    isal_zlib.decompress(packed, wbits=31, bufsize=size)


def make_baseline(path: Path, out: Path) -> None:
    """Do what X2CT-CLIP's preprocessing does to a CT."""
    image = nib.load(path)
    hu = np.clip(image.get_fdata(), -1000, 1000) / 1000
    spacing = image.header.get_zooms()[:3]
    volume = torch.from_numpy(hu.astype(np.float32)).permute(2, 0, 1)[None, None]
    old = [volume.shape[2] * spacing[2], volume.shape[3] * spacing[0], volume.shape[4] * spacing[1]]
    for wanted in ((1.0, 1.0, 1.0), (1.5, 0.75, 0.75)):
        size = [int(length / step) for length, step in zip(old, wanted, strict=True)]
        resampled = torch.nn.functional.interpolate(volume, size=size, mode="trilinear")
        if wanted[0] == 1.0:
            mean = resampled[0, 0].mean(2).numpy() * 1000
            grey = (mean - mean.min()) / (mean.max() - mean.min()) * 255
            Image.fromarray(np.rot90(grey, 2).astype(np.uint8)).convert("RGB").save(out)


def take_cpu(work: Callable[[], object]) -> float:
    """Processor time of a call, of all threads [s]."""
    before = time.process_time()
    work()
    return time.process_time() - before


def measure_one(slices: int, rounds: int) -> None:
    """Print what one CT costs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ct.nii.gz")
        write_ct(path, slices)
        works: dict[str, Callable[[], object]] = {"isal alone": lambda: inflate(path)}
        for size in LIMITS:
            task = replace(
                make_task(Config(render=RenderConfig(size=size))), out=Path(folder, f"out{size}")
            )
            study = next(iter(find_studies(path, dataset="bench", salt=SALT).studies))
            item = make_item(study)
            works[f"drrgen, PA and LL, {size}"] = lambda task=task, item=item: task(item)
        works["X2CT-CLIP's recipe, one view"] = lambda: make_baseline(
            path, Path(folder, "mean.png")
        )
        times: dict[str, list[float]] = {name: [] for name in works}
        for round_ in range(rounds + 1):
            for name, work in works.items():
                taken = take_cpu(work)
                if round_:  # the first one compiles and warms up
                    times[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    base = medians["isal alone"]
    print("| | processor time | times isal |\n| --- | --- | --- |")
    for name, taken in medians.items():
        print(f"| {name} | {taken:.2f} s | {taken / base:.1f} |")
    recipe = medians["X2CT-CLIP's recipe, one view"]
    for size, limit in LIMITS.items():
        ours = medians[f"drrgen, PA and LL, {size}"]
        print(f"\nsize {size}: {ours / base:.2f} x isal, {limit} wanted", end="")
        print(f"; X2CT-CLIP's recipe takes {recipe / ours:.1f} x as long, {RECIPE_LIMIT} wanted")


def measure_workers(count: int, slices: int) -> None:
    """Print how much faster two workers are than one; a worker has one thread, so one core."""
    cluster.CPU_COUNT = 1
    with tempfile.TemporaryDirectory() as folder:
        ct = Path(folder, "ct")
        ct.mkdir()
        write_ct(ct / "0.nii.gz", slices)
        for i in range(1, count):
            shutil.copy(ct / "0.nii.gz", ct / f"{i}.nii.gz")
        task = make_task(Config(render=RenderConfig(size=512)))
        studies = find_studies(ct, dataset="bench", salt=SALT)
        rates = {}
        for workers in (1, 2):
            out = Path(folder, f"out{workers}")
            began = time.time()
            for _ in run(task, map(make_item, studies.studies), out, means=Means(workers=workers)):
                pass
            took = time.time() - began
            times, busy = read_item_times(out)
            rates[workers] = (len(times) - workers) / (times[-1] - times[workers - 1])
            print(
                f"{workers} workers: {rates[workers]:.2f} CT/s in the steady state, {took:.1f} s "
                f"in all, {busy / took / workers:.0%} of it in the CT themselves"
            )
    print(f"2 workers: {rates[2] / rates[1]:.2f} x one, {WORKERS_LIMIT} wanted")


def read_item_times(out: Path) -> tuple[list[float], float]:
    """Read when each item was done [s], and what they took together [s]."""
    (log,) = (out.with_name(out.name + ".private") / "events").glob("*.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    items = [event for event in events if event["event"] == "item"]
    return sorted(e["time"] for e in items), sum(e["seconds"] for e in items)


def measure_bookkeeping(count: int, workers: int | None) -> None:
    """Print what a study costs beside its own work, and the memory of the driver."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        for turn in ("first run", "same command again"):
            began, cpu = time.perf_counter(), time.process_time()
            task = StubTask(out)
            steps = run(
                task, list_items(count), out, part_size=choose_part_size(count),
                means=Means(workers=workers or 0),
            )  # fmt: skip
            first = next(steps)
            planned = time.perf_counter() - began
            for _ in steps:
                pass
            took, used = time.perf_counter() - began, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{turn}: {first.total} to do of {count}; planned in {planned:.1f} s, all in "
                f"{took:.1f} s, {1000 * took / count:.2f} ms a study, {1000 * used / count:.2f} ms "
                f"of this process; peak {peak:.0f} MB, {PLANNED_MB} wanted"
            )


def main() -> None:
    """Choose what to measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--planned", type=int)
    args = parser.parse_args()
    if args.planned:
        measure_bookkeeping(args.planned, args.workers)
    elif args.workers:
        measure_workers(args.workers, args.slices)
    else:
        measure_one(args.slices, args.rounds)


if __name__ == "__main__":
    main()
