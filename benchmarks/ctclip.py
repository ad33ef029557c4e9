"""Time and memory of one CT through the CT-CLIP tower, on random weights of its shapes.

python benchmarks/ctclip.py
"""

import resource
import time

import torch
from drrgen_training.ctclip.vit import CTTower


def main() -> None:
    """Run one volume twice: the first also makes the position bias."""
    tower = CTTower()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    volume = torch.rand(1, 1, 240, 480, 480) * 2 - 1
    for name in ("first", "second"):
        start = time.perf_counter()
        tower(volume)
        print(
            f"{name} volume: {time.perf_counter() - start:.1f} s, {torch.get_num_threads()} threads"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory: weights and torch {before / 2**20:.2f} GB, at most {peak / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
