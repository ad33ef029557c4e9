"""A Dask scheduler and workers in processes of their own, as on other machines, and a slow task."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toys import ToyTask

from drrgen.jobs.task import Item
from drrgen.manifest import Row

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT, ROOT / "pipelines", ROOT / "training", ROOT / "tests" / "support")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class SlowTask(ToyTask):
    """Takes a while for each item, tells when it gets ready, and logs."""

    nap_s: float = 0.2

    def prepare(self) -> None:
        (self.out / f"prepared-{os.getpid()}").touch()

    def __call__(self, item: Item) -> list[Row]:
        time.sleep(self.nap_s)
        logging.getLogger("drrgen.toys").warning("did %s", item.key)
        return super().__call__(item)


def environment() -> dict[str, str]:
    """What a process needs to import drrgen and the toys, and a scheduler that forgives nothing."""
    paths = [*map(str, FOLDERS), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        "OMP_NUM_THREADS": "1",
    }


def wait_for(what: Any, seconds: float = PATIENCE_S) -> Any:
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
    return answer


@dataclass
class Dask:
    """Processes that were started, by a test, on the loopback alone."""

    folder: Path
    address: str = ""
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{words[0]}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words, "--no-dashboard"],
                env=environment(), cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def add_worker(self, *more: str) -> None:
        self.start("worker", self.address, "--host", "127.0.0.1", "--nthreads", "1",
                   "--local-directory", str(self.folder), *more)  # fmt: skip

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)


@contextmanager
def start_dask(folder: Path, workers: int) -> Iterator[Dask]:
    """Start a scheduler and workers; end them and what they started."""
    folder.mkdir(exist_ok=True)
    dask = Dask(folder)
    try:
        found = folder / "scheduler.json"
        dask.start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(found)
        )
        wait_for(lambda: found.is_file() and '"address"' in found.read_text())
        dask.address = found.read_text().split('"address": "')[1].split('"')[0]
        for _ in range(workers):
            dask.add_worker()
        yield dask
    finally:
        dask.close()


def read_pid(out: Path, key: str) -> int | None:
    """Number the process that has an item in work, by the trace that it leaves."""
    for trace in out.rglob(f"{key}.trace"):
        with suppress(OSError, ValueError, IndexError):
            return int(trace.read_text().split()[0])
    return None
