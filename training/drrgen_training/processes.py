"""Which device, and which of the processes that train together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from drrgen.errors import EngineError
from drrgen_training.losses import count_processes


def find_device(name: str) -> torch.device:
    """Find the device; of several processes each takes its own GPU.

    Raises:
        EngineError: There is no CUDA device.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EngineError(f"device {name} is not there: torch sees no CUDA device; use cpu or auto")
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if ":" not in name else name)


def find_rank() -> int:
    """Number of this process among those that train together."""
    return dist.get_rank() if count_processes() > 1 else 0


def is_first() -> bool:
    """Say whether this process is the one that writes."""
    return find_rank() == 0


@contextmanager
def joined_processes() -> Iterator[None]:
    """Join the processes that torchrun started, if it did."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
