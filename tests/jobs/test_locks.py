import fcntl
import json
import threading
from pathlib import Path

import pytest
from upath import UPath

from drrgen.errors import ManifestError
from drrgen.io.stores import Place
from drrgen.jobs import locks
from drrgen.jobs.locks import is_locked, lock_shard, lock_whole


@pytest.fixture(params=["disk", "store"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return tmp_path / "out" if request.param == "disk" else UPath(f"memory://{tmp_path.name}/out")


def test_two_shards_of_one_count_work_side_by_side(out: Place) -> None:
    with lock_shard(out, 0, 2), lock_shard(out, 1, 2):
        assert is_locked(out)
    assert not is_locked(out)


def test_one_shard_is_done_by_one_at_a_time(out: Place) -> None:
    with lock_shard(out, 0, 2), pytest.raises(ManifestError, match="another drrgen"):
        lock_shard(out, 0, 2).__enter__()


def test_shards_of_different_counts_exclude_each_other(out: Place) -> None:
    with lock_shard(out, 0, 2), pytest.raises(ManifestError, match="another drrgen"):
        lock_shard(out, 1, 3).__enter__()


def test_the_whole_excludes_shards_and_shards_the_whole(out: Place) -> None:
    with lock_whole(out), pytest.raises(ManifestError, match="another drrgen"):
        lock_shard(out, 0, 2).__enter__()
    with lock_shard(out, 0, 2), pytest.raises(ManifestError, match="another drrgen"):
        lock_whole(out).__enter__()
    with lock_whole(out):
        pass


def test_a_lock_in_a_store_whose_owner_died_is_taken_over() -> None:
    out = UPath("memory://died/out")
    old = {"host": "gone", "pid": 1, "time": 0.0}
    (out / ".locks").mkdir(parents=True)
    (out / ".locks" / "lock").write_bytes(json.dumps(old).encode())
    with lock_whole(out):
        assert is_locked(out)
    assert not list((out / ".locks").glob("*"))


def test_a_lock_in_a_store_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.01)
    out = UPath("memory://renewed/out")
    with lock_whole(out):
        path = out / ".locks" / "lock"
        first = path.read_bytes()
        for _ in range(1000):
            if path.read_bytes() != first:
                return
            locks.time.sleep(0.005)
        pytest.fail("the lock was not renewed")


def test_looking_whether_an_output_is_locked_makes_nothing_there(out: Place) -> None:
    assert not is_locked(out)
    assert not out.exists()
    with lock_whole(out):
        assert is_locked(out)


def test_who_only_looks_keeps_no_other_out(tmp_path: Path) -> None:
    with lock_whole(tmp_path):
        pass
    looking = (tmp_path / ".lock").open("rb")
    fcntl.flock(looking, fcntl.LOCK_EX)
    threading.Timer(0.1, looking.close).start()
    with lock_shard(tmp_path, 0, 2):
        pass


def test_a_store_that_fails_for_a_moment_does_not_lose_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.01)
    renewed = threading.Semaphore(0)

    def fail(*_: object) -> None:
        renewed.release()
        raise OSError

    monkeypatch.setattr(locks, "write_bytes", fail)
    with lock_whole(UPath("memory://shaky/out")):
        assert renewed.acquire(timeout=5)
        assert renewed.acquire(timeout=5)


@pytest.mark.parametrize("text", ["[]", "7", '{"time": "now"}', '{"time": 1e12}', ""])
def test_an_object_that_is_no_lock_of_a_living_drrgen_keeps_nobody_out(text: str) -> None:
    out = UPath("memory://no-lock/out")
    (out / ".locks").mkdir(parents=True, exist_ok=True)
    (out / ".locks" / "lock").write_text(text)
    with lock_whole(out):
        pass
