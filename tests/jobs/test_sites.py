"""Site files: read, refused with the right word, and turned into jobs."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from toys import ToyTask

from drrgen.choices import ClusterKind
from drrgen.config import RunConfig
from drrgen.errors import ConfigError, EngineError
from drrgen.jobs import cuda
from drrgen.jobs.cluster import describe_cluster, open_cluster
from drrgen.jobs.sites import (
    CudaSite,
    KubernetesSite,
    Site,
    SlurmSite,
    make_cluster,
    make_site,
    read_cluster,
    read_site,
    read_walltime,
)
from drrgen.jobs.slurm import count_jobs, write_job_script

PIPELINES = Path(__file__).parents[2] / "pipelines"
GPU_SITE = {
    "queue": "gpu", "account": "p123", "gpus": 2, "cores": 16, "memory": "64GB", "gres": "gpu:a100",
    "walltime": "1-00:00:00", "job_extra_directives": ["--constraint=x"], "interface": "ib0",
    "job_script_prologue": ["module load python", "source venv/bin/activate"],
    "python": "/opt/my venv/bin/python", "log_directory": "logs",
}  # fmt: skip


@pytest.mark.parametrize(
    ("word", "kind"),
    [("local", "local"), ("slurm", "slurm"), ("kubernetes", "kubernetes"), ("cuda", "cuda"),
     ("tcp://login1:8786", "tcp"), ("tls://[::1]:8786", "tcp")],
)  # fmt: skip
def test_a_cluster_is_a_word_or_an_address(word: str, kind: str) -> None:
    found = make_cluster(word)
    assert found.kind is ClusterKind(kind)
    assert found.address == (word if "://" in word else None)


@pytest.mark.parametrize("word", ["slurn", "tcp://host", "http://host:80", "tcp://host:1/x", ""])
def test_another_word_is_no_cluster(word: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster: got .*wanted local, slurm, .*tcp://HOST:PORT"):
        make_cluster(word)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"slurn": {}}, "unknown section slurn; did you mean slurm?"),
        ({"slurm": {"partition": "x"}}, "unknown key partition; known: jobs, queue"),
        ({"slurm": {"wall_time": "x"}}, "unknown key wall_time; did you mean walltime?"),
        ({"slurm": {"walltime": "4 hours"}}, "walltime: got 4 hours, wanted 5 minutes or more"),
        ({"slurm": {"walltime": "4"}}, "walltime: got 4, wanted 5 minutes or more"),
        ({"slurm": {"memory": "much"}}, "memory: got 'much', wanted a size such as 16GB"),
        ({"slurm": {"memory": "2GB", "cores": 4}}, "at least 1 GB for each of 4 workers"),
        ({"slurm": {"jobs": 0}}, "jobs: got 0, wanted 1 or more"),
        ({"slurm": {"gpus": -1}}, "gpus: got -1, wanted 0 or more"),
        ({"slurm": {"queue": "a\n#SBATCH -A b"}}, "wanted one line of text"),
        ({"slurm": {"job_script_prologue": "module load x"}}, "wanted a list"),
        ({"slurm": 3}, "wanted a [section] with keys"),
        ({"kubernetes": {"gpus": 2}}, "gpus: got 2, wanted 0 or 1"),
        ({"kubernetes": {"name": "Mine!"}}, "name: got Mine!, wanted small letters"),
        ({"kubernetes": {"mount": "data"}}, "mount: got data, wanted an absolute path"),
        ({"kubernetes": {"tolerations": ["spot"]}}, "wanted pairs as key=value"),
        ({"cuda": {"devices": []}}, "devices: got []"),
        ({"cuda": {"memory": "1MB"}}, "at least 1 GB"),
        ({"tcp": {"patience_s": 0}}, "patience_s: got 0.0, wanted a positive number"),
    ],
)
def test_what_a_site_cannot_be_is_refused_with_its_key(
    tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_site(tables)


def test_a_file_that_is_no_site_is_named(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    with pytest.raises(ConfigError, match="cannot read the site file"):
        read_site(path)
    path.write_text("[slurm")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_site(path)
    path.write_text("[slurm]\njobs = 0\n")
    with pytest.raises(ConfigError, match=r"site\.toml: jobs: got 0"):
        read_cluster(RunConfig(cluster="slurm", site=str(path)))


@pytest.mark.parametrize(("name", "kind"), [("slurm", SlurmSite), ("kubernetes", KubernetesSite)])
def test_the_examples_show_every_key_with_its_default(name: str, kind: type) -> None:
    text = (PIPELINES / name / "site.toml").read_text()
    assert make_site(tomllib.loads(text)) == Site()
    named = re.findall(r"^(?:# )?(\w+) +=", text, re.MULTILINE)
    assert sorted(named) == sorted(f.name for f in dataclasses.fields(kind))
    make_site(tomllib.loads(re.sub(r"^# (\w+ +=)", r"\1", text, flags=re.MULTILINE)))


@pytest.mark.parametrize("text", ["00:05:00", "10", "30:00", "04:00:00", "2-00", "1-06:30"])
def test_workers_leave_well_inside_the_time_of_their_job(text: str) -> None:
    site = SlurmSite(walltime=text)
    latest = site.lifetime_s + site.stagger_s
    assert 0.5 * site.walltime_s < latest <= site.walltime_s - 60


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("10:30", 630), ("04:00:00", 14400), ("2-00", 172800), ("1-06:30", 109800),
     ("1-00:00:01", 86401), ("x", 0), ("", 0), ("1:2:3:4", 0)],
)  # fmt: skip
def test_a_walltime_is_read_as_slurm_reads_it(text: str, seconds: float) -> None:
    assert read_walltime(text) == seconds


def test_the_script_of_a_job_says_what_the_site_says() -> None:
    script = write_job_script(make_site({"slurm": GPU_SITE}).slurm)
    head, _, worker = script.partition("export OMP_NUM_THREADS=8\n")
    for line in ("-p gpu", "-A p123", "-t 1-00:00:00", "--cpus-per-task=16", "--gres=gpu:a100:2",
                 "--constraint=x", "--output=logs/drrgen-%j.log"):  # fmt: skip
        assert f"#SBATCH {line}\n" in head
    assert (
        worker.index("module load python") < worker.index("source venv") < worker.index("'/opt/my")
    )
    for words in ("'/opt/my venv/bin/python' -m", "--nthreads 1 ", "--nworkers 2", "--nanny",
                  "--resources GPU=1", "--lifetime 85800s", "--lifetime-stagger 300s",
                  "--interface ib0", "--memory-limit 29.80GiB"):  # fmt: skip
        assert words in worker


def test_a_site_without_cards_has_a_worker_for_each_core_and_may_leave_lines_out() -> None:
    script = write_job_script(SlurmSite(cores=8, memory="32GB", job_directives_skip=("--mem",)))
    assert "--nworkers 8" in script and "--nthreads 1 " in script
    assert "GPU" not in script and "--gres" not in script and "#SBATCH --mem" not in script


def test_a_dry_run_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    site = make_site({"slurm": GPU_SITE})
    assert describe_cluster(make_cluster("slurm", site)) == write_job_script(site.slurm)
    assert "replicas: 7\n" in describe_cluster(make_cluster("kubernetes"), workers=7)
    assert describe_cluster(make_cluster("local")) == describe_cluster(make_cluster("cuda")) == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("workers", "items", "jobs"), [(None, 1000, 4), (None, 3, 1), (9, 1000, 3), (None, 0, 1)]
)
def test_no_more_jobs_than_there_is_work(workers: int | None, items: int, jobs: int) -> None:
    assert count_jobs(SlurmSite(), workers, items) == jobs


def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("dask_jobqueue", "dask_kubernetes.operator"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    for word in ("slurm", "kubernetes"):
        with (
            pytest.raises(EngineError, match=rf"pip install 'drrgen\[{word}\]'"),
            open_cluster(ToyTask(Path()), make_cluster(word)),
        ):
            pass


def test_without_a_card_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(EngineError, match="no CUDA card here; this torch has none: pip install"):
        cuda.find_cards(CudaSite())
    monkeypatch.setattr("torch.version.cuda", "12.8")
    with pytest.raises(EngineError, match="look at the driver with nvidia-smi"):
        cuda.find_cards(CudaSite())


def test_cards_are_those_that_the_batch_system_left_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
    assert cuda.find_cards(CudaSite()) == ["4", "GPU-abc"]
    assert cuda.find_cards(CudaSite(devices=(1,))) == ["GPU-abc"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert cuda.find_cards(CudaSite()) == ["0", "1"]
    with pytest.raises(EngineError, match="found 2 cards, and the site file wants number 2"):
        cuda.find_cards(CudaSite(devices=(2,)))
