"""One worker for each CUDA card of this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dask.utils import parse_bytes
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.system import MEMORY_LIMIT

from drrgen.errors import EngineError
from drrgen.jobs.sites import CudaSite

INSTALL = (
    "pip install --force-reinstall torch --index-url URL, with the URL that pytorch.org names for "
    "your CUDA"
)
MEMORY_SHARE = 0.9


def find_cards(site: CudaSite) -> list[str]:
    """Name the cards to use, as CUDA_VISIBLE_DEVICES does.

    Raises:
        EngineError: There is no CUDA here, or not such a card.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        built = torch.version.cuda
        raise EngineError(
            "--cluster cuda found no CUDA card here; "
            + ("look at the driver with nvidia-smi" if built else f"this torch has none: {INSTALL}")
        )
    wanted = range(count) if site.devices is None else site.devices
    if max(wanted) >= count:
        raise EngineError(
            f"--cluster cuda found {count} cards, and the site file wants number {max(wanted)}; "
            "mend devices in [cuda]"
        )
    # A batch system may have given us cards 4 and 6 of the machine, which torch counts from 0.
    visible = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    return [visible[number] if visible else str(number) for number in wanted]


@contextmanager
def open_cuda(site: CudaSite, cards: list[str]) -> Iterator[Client]:
    """Start a worker for each card, by dask-cuda where that is installed.

    Args:
        site: Memory of a worker.
        cards: What ``find_cards`` found, or fewer.
    """
    share = int(MEMORY_LIMIT * MEMORY_SHARE / len(cards))
    limit = parse_bytes(site.memory) if site.memory else share
    with _make_cluster(cards, limit) as cluster, Client(cluster) as client:
        yield client


def _make_cluster(cards: list[str], limit: int) -> Any:
    """Make the cluster, of dask-cuda or of our own."""
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError:
        scheduler = {
            "cls": Scheduler,
            "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
        }
        return SpecCluster(
            workers={i: _describe_worker(card, limit) for i, card in enumerate(cards)},
            scheduler=scheduler, silence_logs="CRITICAL",
        )  # fmt: skip
    return LocalCUDACluster(
        CUDA_VISIBLE_DEVICES=",".join(cards), threads_per_worker=1, resources={"GPU": 1},
        memory_limit=limit, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL",
    )  # fmt: skip


def _describe_worker(card: str, limit: int) -> dict[str, Any]:
    """Describe the worker of a card."""
    options = {
        "nthreads": 1,
        "host": "127.0.0.1",
        "memory_limit": limit,
        "resources": {"GPU": 1},
        "env": {"CUDA_VISIBLE_DEVICES": card},
        "dashboard_address": None,
    }
    return {"cls": Nanny, "options": options}
