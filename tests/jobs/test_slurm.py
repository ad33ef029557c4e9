"""A real SLURM of one node: jobs of Dask's workers, and job arrays without Dask."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ct_files import write_ct
from fleets import ROOT, SlowTask, environment, read_pid, wait_for
from slurm import Slurm, start_slurm
from toys import make_items

from drrgen.errors import EngineError
from drrgen.jobs import slurm as backend
from drrgen.jobs.cluster import open_cluster, work_on_cluster
from drrgen.jobs.sites import Cluster, SlurmSite, make_cluster, make_site
from drrgen.jobs.work import Job
from drrgen.phantoms import make_torso

pytestmark = pytest.mark.cluster

TEMPLATES = ROOT / "pipelines" / "slurm"
N_CT, N_SHARDS = 6, 3


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with start_slurm() as slurm:
        yield slurm


@pytest.fixture(autouse=True)
def here(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit from, and a command drrgen that is this one."""
    command = 'exec "$PYTHON" -c "from drrgen.cli import main; main()" "$@"'
    write_command(tmp_path / "bin" / "drrgen", command)
    changed = environment() | slurm.environment | {
        "PYTHON": sys.executable,
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
    }  # fmt: skip
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_command(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def make_slurm(**keys: object) -> Cluster:
    usual = {"cores": 1, "memory": "1GB", "walltime": "00:10:00", "log_directory": "logs"}
    return make_cluster("slurm", make_site({"slurm": usual | keys}))


def do(where: Cluster, task: SlowTask, keys: str) -> dict[str, str]:
    jobs = [Job(item=item, part=0) for item in make_items(**dict.fromkeys(keys, "x"))]
    with open_cluster(task, where) as fleet:
        done = list(work_on_cluster(fleet, task, iter(jobs), task.out, timeout_s=60.0))
    return {each.key: each.status for each in done}


def test_jobs_of_two_workers_do_the_items_and_are_gone_afterwards(
    slurm: Slurm, tmp_path: Path
) -> None:
    where = make_slurm(jobs=2, cores=2, memory="2GB", tls=True, local_directory="/tmp")
    assert set(do(where, SlowTask(tmp_path), "abcdefgh").values()) == {"ok"}
    assert len(list(tmp_path.glob("prepared-*"))) >= 2
    assert list((tmp_path / "logs").glob("drrgen-*.log"))
    wait_for(lambda: not slurm.list_jobs())


@pytest.mark.parametrize("how", [("--signal=KILL", "--full"), ()], ids=["killed", "asked to go"])
def test_a_job_that_is_cancelled_is_submitted_again_and_blames_no_study(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    monkeypatch.setattr(backend, "RESUBMIT_S", 0.5)

    def cancel() -> None:
        wait_for(lambda: read_pid(tmp_path, "b") is not None)
        slurm.ask("scancel", *how, *slurm.list_jobs())

    canceller = threading.Thread(target=cancel)
    canceller.start()
    found = do(make_slurm(jobs=1), SlowTask(tmp_path, nap_s=1.0), "abc")
    canceller.join()
    assert found == {"a": "ok", "b": "ok", "c": "ok"}
    assert len(list((tmp_path / "logs").glob("drrgen-*.log"))) >= 2


def test_workers_that_leave_at_the_end_of_their_time_are_replaced_and_blame_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "RESUBMIT_S", 0.5)
    monkeypatch.setattr(SlurmSite, "lifetime_s", 4.0)
    monkeypatch.setattr(SlurmSite, "stagger_s", 0.0)
    found = do(make_slurm(jobs=1), SlowTask(tmp_path, nap_s=1.0), "abcdef")
    assert set(found.values()) == {"ok"} and len(found) == 6
    assert len(list((tmp_path / "logs").glob("drrgen-*.log"))) >= 2


def test_a_job_that_slurm_refuses_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="invalid partition specified: nope"):
        do(make_slurm(queue="nope"), SlowTask(tmp_path), "a")


def test_the_array_hands_every_task_its_shard_and_the_merge_waits_for_all(
    slurm: Slurm, here: Path
) -> None:
    """Against the command line that is documented, with a drrgen that only writes it down."""
    write_command(here / "bin" / "drrgen", f'echo "$@" >> {here}/calls; [[ $1 != run ]] || exit 3')
    submit(here / "OUT", "--ct-dir", "CT")
    wait_for(lambda: not slurm.list_jobs())
    calls = (here / "calls").read_text().splitlines()
    assert calls[0] == f"plan --out {here}/OUT --ct-dir CT"
    shards = sorted(calls[1 : 1 + N_SHARDS])
    assert shards == [f"run {here}/OUT --shard {i}/{N_SHARDS}" for i in range(N_SHARDS)]
    assert calls[1 + N_SHARDS :] == [f"merge {here}/OUT"]


def submit(out: Path, *options: str) -> str:
    done = subprocess.run(
        [TEMPLATES / "submit.sh", out, str(N_SHARDS), *options],
        check=True, capture_output=True, text=True,
        env=os.environ | {"SBATCH_MEM_PER_NODE": "2G"},
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def cts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    for i in range(N_CT):
        volume = make_torso(spacing_mm=4.0, height_mm=200.0 + 4 * i)
        write_ct(volume, folder / f"ct{i:02d}.nii.gz")
    (folder / "salt.txt").write_text("a salt for tests only, long enough\n")
    (folder / "config.toml").write_text(f"[run]\nshard_size = {N_CT // N_SHARDS}\n")
    return folder


def name_options(cts: Path) -> list[str]:
    return ["--ct-dir", f"{cts}", "--salt-file", f"{cts}/salt.txt", "--config",
            f"{cts}/config.toml", "--size", "96"]  # fmt: skip


def start_render(cts: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = ["drrgen", "render", "-q", "--out", str(out), *name_options(cts), *more]
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def read_files(out: Path) -> dict[str, bytes]:
    kept = [*out.rglob("*.png"), *out.rglob("*.parquet"), *out.glob("manifest.json")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


@pytest.fixture
def undisturbed(cts: Path, here: Path) -> dict[str, bytes]:
    out = here / "undisturbed"
    assert start_render(cts, out).wait(120) == 0
    return read_files(out)


def test_a_build_whose_job_is_cancelled_and_whose_driver_is_killed_gives_the_same_bytes(
    slurm: Slurm, cts: Path, here: Path, undisturbed: dict[str, bytes]
) -> None:
    (here / "site.toml").write_text(
        '[slurm]\njobs = 2\ncores = 1\nmemory = "2GB"\nlog_directory = "logs"\n'
    )
    out, more = here / "out", ("--cluster", "slurm", "--site", "site.toml")
    driver = start_render(cts, out, *more)
    wait_for(lambda: list(out.rglob("*.trace")))
    slurm.ask("scancel", "--signal=KILL", "--full", slurm.list_jobs()[0])
    wait_for(lambda: list(out.rglob("*.png")))
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(60)
    slurm.ask("scancel", "--user=root")
    wait_for(lambda: not slurm.list_jobs())
    assert start_render(cts, out, *more).wait(240) == 0
    assert read_files(out) == undisturbed


def test_an_array_whose_task_is_cancelled_gives_the_same_bytes_when_it_is_submitted_again(
    slurm: Slurm, cts: Path, here: Path, undisturbed: dict[str, bytes]
) -> None:
    out = here / "out"
    submit(out, *name_options(cts))
    wait_for(lambda: list(out.parent.rglob("*.trace")))
    slurm.ask("scancel", slurm.list_jobs("--states=RUNNING")[0])
    wait_for(lambda: not slurm.list_jobs(), 240)
    assert read_files(out) != undisturbed
    submit(out, *name_options(cts))
    wait_for(lambda: not slurm.list_jobs(), 240)
    assert read_files(out) == undisturbed
