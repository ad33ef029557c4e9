"""Compare the CUDA engines on one card: ratios of time, error against a formula, peak memory.

The engines take turns in one process; every time is taken between two synchronisations of the card.
Without a card nothing is measured, and it says so. Prints Markdown.

    python benchmarks/render_gpu.py
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from _peers import to_mu
from _scene import Case, find_exact, make_case, make_phantom
from render_cpu import print_machine

from drrgen.renderer.render import render
from drrgen.volume import CTVolume

OURS, MAIN = "drrgen triton", "PA 512"
CASES = (MAIN, "PA 1024", "PA 512 two", "PA 512 tilt", "LL 512")
DEVICE = "cuda"

Run = Callable[[Case], torch.Tensor]


def prepare_drrgen(volume: CTVolume) -> Run:
    """Our kernel; every call sends the volume to the card anew, as int16."""

    def run(case: Case) -> torch.Tensor:
        poses = [case.pose]
        return render(volume, case.detector, poses, basis=case.basis, engine="triton")[0, 0]

    return run


def prepare_nanodrr(volume: CTVolume) -> Run:
    """The fused kernel of nanodrr, its default on CUDA, 500 samples a ray; volume on the card."""
    from nanodrr.camera import make_k_inv
    from nanodrr.data import Subject
    from nanodrr.drr import render as nanodrr_render
    from torchio import ScalarImage

    mu = torch.from_numpy(to_mu(volume)).permute(2, 1, 0)[None]
    image = ScalarImage(tensor=mu, affine=volume.patient_from_voxel)
    subject = Subject.from_images(image, convert_to_mu=False).to(DEVICE)

    def run(case: Case) -> torch.Tensor:
        panel = case.detector
        k_inv = make_k_inv(
            panel.sid_mm, panel.pitch_mm, panel.pitch_mm, 0.0, 0.0, panel.rows, panel.columns
        ).to(DEVICE)
        pose = case.pose.patient_from_camera[None].to(DEVICE, torch.float32)
        distance = torch.tensor([panel.sid_mm], device=DEVICE)
        with torch.no_grad():
            picture = nanodrr_render(subject, k_inv, pose, distance, panel.rows, panel.columns)
        return picture[0, 0]

    return run


def _prepare_diffdrr(volume: CTVolume, renderer: str) -> Run:
    """The package diffdrr; in patches, because a whole picture needs more than a card has."""
    from diffdrr.drr import DRR
    from diffdrr.pose import RigidTransform
    from torchio import ScalarImage, Subject

    mu = torch.from_numpy(to_mu(volume)).permute(2, 1, 0)[None]
    image = ScalarImage(tensor=mu, affine=volume.patient_from_voxel)
    subject = Subject(volume=image, density=image, reorient=torch.eye(4), mask=None)
    flip = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64))  # its y points up
    made: dict[int, torch.nn.Module] = {}

    def run(case: Case) -> torch.Tensor:
        panel = case.detector
        if panel.rows not in made:
            made[panel.rows] = DRR(
                subject, sdd=panel.sid_mm, height=panel.rows, delx=panel.pitch_mm,
                renderer=renderer, reverse_x_axis=False, patch_size=128,
            ).to(DEVICE)  # fmt: skip
        pose = (case.pose.patient_from_camera @ flip)[None].to(DEVICE, torch.float32)
        with torch.no_grad():
            return made[panel.rows](RigidTransform(pose))[0, 0]

    return run


ENGINES: dict[str, Callable[[CTVolume], Run]] = {
    OURS: prepare_drrgen,
    "nanodrr fused": prepare_nanodrr,
    "diffdrr trilinear": lambda volume: _prepare_diffdrr(volume, "trilinear"),
    "diffdrr Siddon": lambda volume: _prepare_diffdrr(volume, "siddon"),
}


def measure(run: Run, case: Case) -> tuple[float, torch.Tensor]:
    """Render once; the time lies between two synchronisations [s]."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    image = run(case)
    torch.cuda.synchronize()
    return time.perf_counter() - start, image


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="interleaved runs an engine")
    options = parser.parse_args()
    print_machine()
    if not torch.cuda.is_available():
        print("\nNot measured: torch sees no CUDA device here.")
        return
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}.\n")
    volume, truth = make_phantom(), find_exact(make_case(MAIN))
    runs, skipped = {}, {}
    for name, prepare in ENGINES.items():
        try:
            runs[name] = prepare(volume)
        except ImportError as error:
            skipped[name] = str(error)
    times: dict[tuple[str, str], list[float]] = {}
    errors, peaks = {}, {}
    turns = [(k, name, case) for k in range(options.rounds + 1) for case in CASES for name in runs]
    for index, name, words in turns:
        if name != OURS and words not in (MAIN, "PA 1024"):
            continue
        torch.cuda.reset_peak_memory_stats()
        seconds, image = measure(runs[name], make_case(words))
        if index == 0 and words == MAIN:  # the first round is for compilers and caches
            errors[name] = float(np.sqrt(np.mean((image.cpu().numpy() - truth) ** 2)))
        elif index:
            times.setdefault((name, words), []).append(seconds)
            peaks[name] = torch.cuda.max_memory_allocated() / 1e6
    print("| engine | case | median | times ours | RMSE | peak memory on the card |")
    print("| --- " * 6 + "|")
    for (name, words), found in times.items():
        median, ours = statistics.median(found), statistics.median(times[OURS, words])
        rmse = f"{errors[name]:.5f}" if words == MAIN else "-"
        print(
            f"| {name} | {words} | {1000 * median:.2f} ms | {median / ours:.1f} | {rmse} "
            f"| {peaks[name]:.0f} MB |"
        )
    for name, reason in skipped.items():
        print(f"| {name} | not available here: {reason} | | | | |")


if __name__ == "__main__":
    main()
