"""Workers that somebody else has started: they come, go, and are killed."""

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleets import Dask, SlowTask, read_pid, start_dask, wait_for
from toys import make_items

from drrgen.errors import EngineError
from drrgen.jobs import cluster
from drrgen.jobs.cluster import choose_card, open_cluster, work_on_cluster
from drrgen.jobs.sites import Cluster, make_cluster, make_site
from drrgen.jobs.work import Job

EVICTABLE = make_site({"tcp": {"preemptible": True}})


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    with start_dask(tmp_path_factory.mktemp("fleet"), workers=2) as dask:
        yield dask


def make_jobs(**payloads: str) -> list[Job]:
    return [Job(item=item, part=0) for item in make_items(**payloads)]


def do(where: Cluster, task: SlowTask, jobs: list[Job]) -> dict[str, str]:
    """Do jobs, and say what became of each."""
    with open_cluster(task, where) as fleet:
        done = list(work_on_cluster(fleet, task, iter(jobs), task.out, timeout_s=30.0))
    return {each.key: each.status for each in done}


def kill(out: Path, key: str, times: int, *, ended: threading.Event) -> None:
    """Take away the process that has an item in work, again and again."""
    killed: set[int] = set()
    while len(killed) < times and not ended.is_set():
        if (pid := read_pid(out, key)) not in (None, *killed):
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


@pytest.fixture
def killer() -> Iterator[Callable[[Path, str, int], None]]:
    ended = threading.Event()
    threads = []

    def start(out: Path, key: str, times: int) -> None:
        threads.append(
            threading.Thread(target=kill, args=(out, key, times), kwargs={"ended": ended})
        )
        threads[-1].start()

    yield start
    ended.set()
    for thread in threads:
        thread.join()


def test_workers_of_another_process_do_the_items_and_no_more_are_taken_than_they_need(
    fleet: Dask, tmp_path: Path
) -> None:
    task = SlowTask(tmp_path, nap_s=0.0)
    jobs = make_jobs(**{f"k{i:02d}": "x" for i in range(20)})
    taken: list[Job] = []

    def hand_out() -> Iterator[Job]:
        for job in jobs:
            taken.append(job)
            yield job

    with open_cluster(task, make_cluster(fleet.address)) as ready:
        wait_for(lambda: len(ready.client.nthreads()) == 2)
        for n, _ in enumerate(work_on_cluster(ready, task, hand_out(), tmp_path, timeout_s=30)):
            assert len(taken) - n <= 2 * cluster.QUEUED_PER_WORKER
    assert len(taken) == len(list(tmp_path.rglob("*.txt"))) == 20


def test_an_item_whose_worker_is_killed_once_is_done_by_another(
    fleet: Dask, tmp_path: Path, killer: Callable[..., None]
) -> None:
    killer(tmp_path, "b", 1)
    found = do(make_cluster(fleet.address), SlowTask(tmp_path), make_jobs(a="1", b="2", c="3"))
    assert found == {"a": "ok", "b": "ok", "c": "ok"}


def test_an_item_that_is_always_killed_is_blamed_unless_machines_are_taken_away(
    fleet: Dask, tmp_path: Path, killer: Callable[..., None]
) -> None:
    fixed, moving = SlowTask(tmp_path / "fixed"), SlowTask(tmp_path / "moving")
    for task in (fixed, moving):
        task.out.mkdir()
        killer(task.out, "b", 2)
    assert do(make_cluster(fleet.address), fixed, make_jobs(b="2")) == {"b": "failed"}
    assert do(make_cluster(fleet.address, EVICTABLE), moving, make_jobs(b="2")) == {"b": "ok"}


def test_a_crash_is_blamed_at_once_even_where_machines_are_taken_away(
    fleet: Dask, tmp_path: Path
) -> None:
    task = SlowTask(tmp_path, nap_s=0.0)
    found = do(make_cluster(fleet.address, EVICTABLE), task, make_jobs(a="1", b="crash"))
    assert found == {"a": "ok", "b": "failed"}
    assert (tmp_path / "calls.log").read_text().split().count("b") == 2


def test_a_worker_that_comes_late_is_made_ready_works_and_is_heard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = SlowTask(tmp_path, nap_s=0.0)
    with start_dask(tmp_path / "fleet", workers=0) as dask, caplog.at_level(logging.INFO, "drrgen"):
        late = threading.Timer(0.5, dask.add_worker)
        late.start()
        assert do(make_cluster(dask.address), task, make_jobs(a="1")) == {"a": "ok"}
        late.join()
        assert len(list(tmp_path.glob("prepared-*"))) == 1
        wait_for(lambda: "did a" in caplog.text)


@pytest.mark.slow
def test_a_worker_of_many_threads_does_one_item_at_a_time(tmp_path: Path) -> None:
    task = SlowTask(tmp_path, nap_s=0.1)
    with start_dask(tmp_path / "fleet", workers=0) as dask:
        dask.add_worker("--nthreads", "4")
        assert set(
            do(make_cluster(dask.address), task, make_jobs(**dict.fromkeys("abcd", "x")))
        ) == set("abcd")
    ends = sorted(path.stat().st_mtime for path in (tmp_path / "images").iterdir())
    assert all(b - a >= 0.09 for a, b in itertools.pairwise(ends))


@pytest.mark.slow
def test_a_scheduler_that_is_killed_ends_the_run_with_a_word(tmp_path: Path) -> None:
    task = SlowTask(tmp_path, nap_s=1.0)
    with start_dask(tmp_path / "fleet", workers=1) as dask:

        def end() -> None:
            wait_for(lambda: read_pid(tmp_path, "b") is not None)
            os.killpg(dask.processes[0].pid, signal.SIGKILL)

        ender = threading.Thread(target=end)
        ender.start()
        with pytest.raises(EngineError, match="scheduler of the workers has gone; the same comm"):
            do(make_cluster(dask.address), task, make_jobs(a="1", b="2", c="3"))
        ender.join()


def test_a_worker_that_does_not_see_the_output_says_so(fleet: Dask, tmp_path: Path) -> None:
    task = SlowTask(tmp_path)
    with (
        open_cluster(task, make_cluster(fleet.address)) as ready,
        pytest.raises(FileNotFoundError, match="does not see the output folder"),
    ):
        list(work_on_cluster(ready, task, make_jobs(a="1"), tmp_path / "no", timeout_s=9))
    assert not (tmp_path / "no").exists()


def test_a_scheduler_that_does_not_answer_is_told() -> None:
    site = make_site({"tcp": {"patience_s": 0.3}})
    with pytest.raises(EngineError, match="no Dask scheduler answers at tcp:"):
        do(make_cluster("tcp://127.0.0.1:9", site), SlowTask(Path()), [])


def test_each_worker_of_a_job_takes_its_own_card() -> None:
    assert [choose_card(f"job-3-{i}", "4,6", 2) for i in range(3)] == ["4", "6", "4"]
    assert choose_card("job-3-1", "", 2) == "1"
    assert choose_card("a name", "4,6", 2) == "4"


def test_items_are_told_from_their_traces() -> None:
    assert cluster._tells_why("12\nFatal Python error: x", set())
    assert cluster._tells_why("12\n", {12})
    assert not cluster._tells_why("12\n", {13})
    assert not cluster._tells_why("", {13})


def test_workers_that_are_lost_while_they_start_are_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = []

    def start(**_: object) -> str:
        tries.append(1)
        if len(tries) < cluster.STARTS:
            raise RuntimeError("Nanny failed to start.")
        return "a cluster"

    monkeypatch.setattr(cluster, "LocalCluster", start)
    assert cluster._start_local(2) == "a cluster"


def test_workers_that_never_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(cluster, "LocalCluster", fail)
    with pytest.raises(EngineError, match="cannot start 2 worker processes"):
        cluster._start_local(2)
