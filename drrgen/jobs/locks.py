"""One writer at a time: a second drrgen is kept out of an output, on this machine or another.

On a file system a lock of the kernel ends with its process, however that dies. It reaches other
machines where the file system carries ``flock`` (NFS 4, Lustre, GPFS). In a store an object stands
for the lock; its owner renews it, and one that is not renewed for a while is dead.
"""

import errno
import fcntl
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from upath import UPath

from drrgen.errors import ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.io.stores import Place, list_files

log = logging.getLogger(__name__)

RENEW_S = 20.0  # how often the owner of a lock in a store shows that it lives
GLANCES, GLANCE_S = 10, 0.05  # tries to take a lock that another one may only be looking at
_HELD = {errno.EWOULDBLOCK, errno.EACCES}  # what a lock that is held answers; all else is an error
DEAD_S = 120.0  # after which it is taken for dead


@contextmanager
def lock_whole(out: Place) -> Iterator[None]:
    """Keep every other drrgen out of an output.

    Raises:
        ManifestError: Another one writes there now.
    """
    if not isinstance(out, Path):
        with _lock_object(out, "lock"):
            yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with _open_lock(out / ".lock", fcntl.LOCK_EX, out):
        yield


@contextmanager
def lock_shard(out: Place, index: int, count: int) -> Iterator[None]:
    """Keep out whoever writes the whole output, this shard of it, or shards of another count.

    Raises:
        ManifestError: Another drrgen does so now.
    """
    name = f"shard-{index}-of-{count}"
    if not isinstance(out, Path):
        with _lock_object(out, name):
            yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        held.enter_context(_open_lock(out / ".lock", fcntl.LOCK_SH, out))
        folder = out / ".shards"
        folder.mkdir(exist_ok=True)
        for path in folder.glob("shard-*"):
            if not path.name.endswith(f"-of-{count}"):
                with _open_lock(path, fcntl.LOCK_EX, out):
                    pass
        held.enter_context(_open_lock(folder / name, fcntl.LOCK_EX, out))
        yield


def is_locked(out: Place) -> bool:
    """Say whether some drrgen writes to an output now; makes nothing there."""
    if not isinstance(out, Path):
        out.fs.invalidate_cache()
        return any(_is_alive(path) for path in list_files(out / ".locks", "*"))
    try:
        with (out / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return True
    return False


@contextmanager
def _open_lock(path: Path, kind: int, out: Path) -> Iterator[IO[str]]:
    """Hold a lock of the kernel; who only looks whether one is held has it for a moment."""
    with path.open("a", encoding="utf-8") as file:
        for left in reversed(range(GLANCES)):
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD:
                    raise
                if not left:
                    raise _busy(out) from error
                time.sleep(GLANCE_S)
            else:
                break
        yield file


@contextmanager
def _lock_object(out: UPath, name: str) -> Iterator[None]:
    """Hold an object that stands for a lock, and renew it as long as this process lives."""
    path = out / ".locks" / name
    _take(out, path)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(RENEW_S):
            try:
                write_bytes(path, _sign())
            except Exception as error:  # noqa: BLE001  a store that comes back finds us alive
                log.warning("cannot renew the lock %s: %s", path, type(error).__name__)

    thread = threading.Thread(target=renew, daemon=True, name="drrgen-lock")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(FileNotFoundError):
            path.unlink()


def _take(out: UPath, path: UPath) -> None:
    """Make the object, unless a living drrgen holds one that excludes it."""
    out.fs.invalidate_cache()
    for other in list_files(out / ".locks", "*"):
        if not _excludes(other.name, path.name):
            continue
        if _is_alive(other):
            raise _busy(out)
        other.unlink(missing_ok=True)
    try:
        out.fs.pipe_file(path.path, _sign(), mode="create")
    except OSError as error:  # another one was faster; each store says it in its own way
        if path.exists():
            raise _busy(out) from error
        raise


def _excludes(held: str, wanted: str) -> bool:
    """Say whether two locks cannot be held at once: all but two shards of one count."""
    shards = held.startswith("shard") and wanted.startswith("shard")
    return held == wanted or not shards or held.split("-of-")[1] != wanted.split("-of-")[1]


def _sign() -> bytes:
    """Say who holds a lock, and when it was renewed."""
    owner = {"host": platform.node(), "pid": os.getpid(), "time": time.time()}
    return json.dumps(owner).encode()


def _is_alive(path: Place) -> bool:
    """Say whether the owner of a lock has renewed it of late."""
    try:
        age_s = time.time() - json.loads(path.read_bytes())["time"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(abs(age_s) < DEAD_S)  # one of the future was signed by a clock that was wrong


def _busy(out: Place) -> ManifestError:
    """Say that another drrgen is there."""
    return ManifestError(
        f"another drrgen is writing to {out}; wait for it, or use another output folder"
    )
