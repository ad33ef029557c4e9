"""Runs whose output lies in a real object store, done by processes of their own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import find_program, serve_s3
from toys import ToyTask, make_items
from upath import UPath

from drrgen.errors import InputError, ManifestError
from drrgen.io.stores import check_reachable, list_names, open_place
from drrgen.jobs.locks import lock_shard, lock_whole
from drrgen.jobs.runner import Means, merge, plan, run, run_shard
from drrgen.jobs.status import read_standing

pytestmark = pytest.mark.skipif(find_program() is None, reason="seaweedfs is not installed")

ITEMS = make_items(a="1", b="refuse", c="crash", d="ignore", e="3", f="fail", g="4", h="5")
WORKERS = Means(workers=2, timeout_s=20.0)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UPath]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        place = open_place("s3://bucket")
        assert isinstance(place, UPath)
        place.fs.mkdir("bucket")
        yield place
        place.fs.clear_instance_cache()


def read_bytes(out: Path | UPath) -> dict[str, bytes]:
    kept = [n for n in list_names(out) if n.endswith((".parquet", ".txt")) or n == "manifest.json"]
    return {name: (out / name).read_bytes() for name in kept}


def make_task(folder: Path) -> ToyTask:
    (folder / "log").mkdir()
    return ToyTask(folder, log=folder / "log")


@pytest.mark.slow
def test_workers_on_a_store_write_what_they_write_on_a_disk(bucket: UPath, tmp_path: Path) -> None:
    task, out = make_task(tmp_path), bucket / "workers"
    list(run(task, ITEMS, tmp_path / "out", part_size=3, means=WORKERS))
    list(run(task, ITEMS, out, part_size=3, means=WORKERS))
    assert read_bytes(out) == read_bytes(tmp_path / "out")
    standing = read_standing(out)
    assert standing.done == {"ok": 4, "refused": 1, "failed": 2, "ignored": 1}
    assert standing.reasons == {"not_ct": 1, "crashed": 1, "io_error": 1}
    again = list(run(task, ITEMS, out, part_size=3, means=WORKERS))
    assert (again[0].total, again[0].kept) == (2, 6)


def test_shards_on_a_store_are_merged(bucket: UPath, tmp_path: Path) -> None:
    task, out = make_task(tmp_path), bucket / "shards"
    few = ITEMS[:2] + ITEMS[4:5]
    list(run(task, few, tmp_path / "out", part_size=1))
    plan(task, few, out, part_size=1)
    list(run_shard(task, out, 1, 2))
    with pytest.raises(ManifestError, match="not finished"):
        merge(task, out)
    list(run_shard(task, out, 0, 2))
    merge(task, out)
    assert read_bytes(out) == read_bytes(tmp_path / "out")


def test_a_store_keeps_two_writers_apart(bucket: UPath) -> None:
    out = bucket / "locked"
    with lock_shard(out, 0, 2), lock_shard(out, 1, 2):
        for other in (lock_whole(out), lock_shard(out, 0, 2), lock_shard(out, 0, 3)):
            with pytest.raises(ManifestError, match="another drrgen"):
                other.__enter__()
    assert not list_names(out)


def test_a_store_that_does_not_answer_is_told(
    bucket: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket.fs.clear_instance_cache()
    with pytest.raises(InputError, match="cannot reach s3://nowhere"):
        check_reachable(open_place("s3://nowhere/out"))
    os.environ.pop("AWS_MAX_ATTEMPTS")


@pytest.mark.parametrize("url", ["ftpp://host/x", "nothing://x"])
def test_an_unknown_protocol_is_told(url: str) -> None:
    with pytest.raises(InputError, match="no store speaks"):
        open_place(url)
