"""Exact retrieval among many scans: time and memory, beside the plainest float32 search.

    python benchmarks/retrieval.py              # 50,000 queries x 50,000 items, 512 dimensions
    python benchmarks/retrieval.py --n 10000 --threads 1

The plain search does no more than count the items that score higher than the match, in float32 and
in the same chunks; ours is exact in ties, whatever the chunk. Each measure lives in a process of
its own, so that its peak memory is its own. Linux only: peak memory is read from `/proc`.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch
from drrgen_training.evaluation.retrieval import (
    Search,
    average_precision_at_k,
    find_ranks,
    find_top,
    label_average_precision_at_k,
    label_jaccard_at_k,
)
from render_cpu import read_memory

KS = (1, 5, 10, 50, 100)
LABELS, POSITIVE = 18, 0.15
NOISE = 0.3  # a component: a match scores about 0.15


def make_vectors(n: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make unit vectors of queries and items that belong together, and labels."""
    rng = np.random.default_rng(0)
    items = rng.standard_normal((n, dim), dtype=np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    queries = items + NOISE * rng.standard_normal((n, dim), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries, items, (rng.random((n, LABELS)) < POSITIVE).astype(np.int64)


def count_plainly(search: Search) -> float:
    """Find the median rank as one would at first."""
    items = torch.from_numpy(search.gallery).T
    ranks = []
    for start in range(0, len(search.queries), search.chunk):
        scores = torch.from_numpy(search.queries[start : start + search.chunk]) @ items
        own = torch.arange(start, start + len(scores))[:, None]
        ranks.append(1 + (scores > scores.gather(1, own)).sum(1))
    return float(torch.cat(ranks).double().median())


def list_measures(search: Search, labels: np.ndarray) -> dict[str, Callable[[], float]]:
    """List what is measured, each with a number that it gives."""
    key = np.arange(len(labels))
    same = {"query_key": key, "gallery_key": key}
    shared = {"query_labels": labels, "gallery_labels": labels, "ks": KS}
    return {
        "plain float32, median rank": lambda: count_plainly(search),
        "ranks, exact: Recall@K, median rank": lambda: (
            find_ranks(search, **same).recall().mean()[1]
        ),
        "mAP@K": lambda: average_precision_at_k(search, **same, ks=KS).mean()[100],
        "label mAP@K": lambda: label_average_precision_at_k(search, **shared).mean()[100],
        "label Jaccard@K": lambda: label_jaccard_at_k(search, **shared).mean()[100],
        "the 10 best of each": lambda: float(find_top(search, 10).scores[:, 0].mean()),
    }


def measure(pipe: Connection, name: str, asked: argparse.Namespace) -> None:
    """Measure one in this process; send seconds, MB of peak and before, and the number."""
    torch.set_num_threads(asked.threads)
    queries, items, labels = make_vectors(asked.n, asked.dim)
    search = Search(queries=queries, gallery=items, chunk=asked.chunk)
    run = list_measures(search, labels)[name]
    before = read_memory("VmRSS")
    start = time.perf_counter()
    value = run()
    pipe.send((time.perf_counter() - start, read_memory("VmHWM"), before, value))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    names = list_measures(Search(queries=np.eye(1), gallery=np.eye(1)), np.ones((1, 1), np.int64))
    print(f"{asked.n} x {asked.n}, {asked.dim} dimensions, chunk {asked.chunk}, "
          f"{asked.threads} threads")  # fmt: skip
    print("| measure | time | times the plain one | peak memory | of which before | value |")
    print("| --- | --- | --- | --- | --- | --- |")
    plain = 0.0
    for name in names:
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=measure, args=(theirs, name, asked))
        process.start()
        seconds, peak, before, value = ours.recv()
        process.join()
        plain = plain or seconds
        print(f"| {name} | {seconds:.1f} s | {seconds / plain:.2f} | {peak:,.0f} MB | "
              f"{before:,.0f} MB | {value:.4g} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
