"""How fast pictures come to training: a pack beside PNG files, and whether a step ever waits.

    python benchmarks/loader.py            # 1,000 pictures of 1024 x 1024, as drrgen writes them
    python benchmarks/loader.py --n 200 --side 512

Goal: a pack gives 20 times as many pictures a second as the files; waiting takes less than 5 % of a
step of the tiny encoder.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from drrgen_training.loop import Job, fit
from drrgen_training.pictures import (
    PackSettings,
    PictureFiles,
    PicturePack,
    Pictures,
    augment,
    describe_pictures,
)
from drrgen_training.samples import Samples, read_samples
from drrgen_training.settings import read_settings
from drrgen_training.shards import write_shards

from drrgen.io.radiographs import write_radiograph
from drrgen.jobs.shards import Outcome, write_part, write_summary
from drrgen.manifest import Row, make_row, to_table

BATCH = 64
SIZE = 160  # of a packed picture; the tiny encoder sees 128


class Table:
    """What writing a part of a manifest needs."""

    fingerprint = "benchmark"

    def to_table(self, rows: list[Row]) -> object:
        """Make the table."""
        return to_table(rows, fingerprint=self.fingerprint)


def write_data(root: Path, n: int, side: int) -> Samples:
    """Write smooth pictures with noise, of 16 bits, and their manifest."""
    outcomes = {}
    for i in range(n):
        generator = torch.Generator().manual_seed(i)
        coarse = torch.rand(1, 1, 12, 12, generator=generator)
        grey = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[0, 0]
        grey = (0.1 + 0.8 * grey + 0.01 * torch.randn(side, side, generator=generator)).clamp(0, 1)
        name = f"images/{i:05d}.png"
        row = make_row(
            sample_id=f"{i:05d}", view="PA", draw=0, status="ok", split="train", cxr_path=name,
            patient_id=f"p{i}", study_id=f"e{i}", report_findings=f"Finding number {i % 50}.",
            cxr_sha256=write_radiograph(root / name, grey),
        )  # fmt: skip
        outcomes[row["sample_id"]] = Outcome(rows=[row], identity=(0, 0, ""))
    write_part(root, 0, outcomes, Table())  # type: ignore[arg-type]
    write_summary(root, Table.fingerprint, [0])
    return read_samples(root)


def measure(pictures: Pictures, n: int, seconds: float) -> float:
    """Pictures a second, read in random batches and varied as training does."""
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        read = pictures.read(random.integers(0, n, BATCH))
        done += len(read)
    plain = done / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(5):
        augment(read, 128, crop=0.15, brightness=0.1, contrast=0.2, generator=generator)
    print(f"  varying a batch of {BATCH}: {(time.perf_counter() - start) / 5 * 1e3:.0f} ms")
    return plain


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        samples = write_data(root / "CXR", options.n, options.side)
        settings = PackSettings(size=SIZE)
        start = time.perf_counter()
        list(write_shards(describe_pictures(samples, settings), root / "PACK"))
        took = time.perf_counter() - start
        print(
            f"packing {options.n} of {options.side} px to {SIZE}: {options.n / took:.0f} a second"
        )
        files = measure(PictureFiles(samples, settings), options.n, options.seconds)
        pack = measure(PicturePack(root / "PACK", samples), options.n, options.seconds)
        print(f"PNG files {files:.0f}, pack {pack:.0f} pictures a second: {pack / files:.0f} times")
        recipe = read_settings(None, (
            "model.cxr=tiny", "model.report=hashed", "model.ct=none", "loss.gamma=0",
            "loss.scale=learned", "model.dim=2048", f"data.batch={BATCH}", "optim.epochs=4",
        ))  # fmt: skip
        for name, where in (("pack", root / "PACK"), ("files", None)):
            job = Job(dataset=root / "CXR", out=root / name, settings=recipe, pack=where)
            steps = list(fit(job))[2:]
            waited, whole = sum(s.data_s for s in steps), sum(s.step_s for s in steps)
            print(f"training from {name}: {1e3 * whole / len(steps):.0f} ms a step of {BATCH}, "
                  f"waiting {waited / whole:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
