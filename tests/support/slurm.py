"""A whole SLURM of one node, in one temporary folder, with a munge of its own."""

import os
import platform
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleets import wait_for
from ports import find_ports

DAEMONS = ("munged", "slurmctld", "slurmd")
CORES = 4  # on paper; a test's jobs mostly wait
CONFIGURATION = """\
ClusterName=drrgen
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={control_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """Where it is, and how to speak with it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *words: str) -> str:
        asked = subprocess.run(
            words, env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 0, asked.stderr
        return asked.stdout

    def list_jobs(self, *which: str) -> list[str]:
        """Number the jobs that are not done."""
        return self.ask("squeue", "--noheader", "--format=%i", *which).split()


def _find_hindrance() -> str:
    """Say why there can be no SLURM here; empty when there can."""
    missing = [name for name in DAEMONS if shutil.which(name, path=_search_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "SLURM's node daemon starts jobs as root only"


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _start(folder: Path) -> None:
    host = platform.node().split(".")[0]
    control_port, node_port = find_ports(2)
    text = CONFIGURATION.format(
        folder=folder, host=host, cores=CORES, control_port=control_port, node_port=node_port
    )
    (folder / "slurm.conf").write_text(text)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    munge = [f"--{n}={folder}/munge.{s}" for n, s in (("key-file", "key"), ("socket", "sock"))]
    munge += [f"--{n}={folder}/munged.{s}" for n, s in (("pid-file", "pid"), ("log-file", "log"),
                                                       ("seed-file", "seed"))]  # fmt: skip
    for command in (["munged", *munge], ["slurmctld"], ["slurmd", "-N", host]):
        with (folder / f"{command[0]}.out").open("wb") as out:
            subprocess.run(
                command, check=True, stdout=out, stderr=out, timeout=30,
                env=os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": _search_path()},
            )  # fmt: skip


def _stop(folder: Path) -> None:
    for name in reversed(DAEMONS):
        with suppress(OSError, ValueError):
            os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
            time.sleep(0.5)  # slurmd tells slurmctld that it goes


@contextmanager
def start_slurm() -> Iterator[Slurm]:
    """Start SLURM; end its jobs, daemons and folder. Skip, with the reason, where it cannot be."""
    if hindrance := _find_hindrance():
        pytest.skip(hindrance)
    # munge wants a folder that everyone may pass, up to the root; pytest's are closed.
    folder = Path(tempfile.mkdtemp(prefix="drrgen-slurm-"))
    folder.chmod(0o711)
    slurm = Slurm(folder)
    try:
        try:
            _start(folder)
            wait_for(lambda: "idle" in slurm.ask("sinfo", "--noheader", "--format=%T"), 30)
        except (OSError, subprocess.SubprocessError, AssertionError) as error:
            pytest.skip(f"SLURM does not start here: {error}")
        yield slurm
        subprocess.run(["scancel", "--user=root"], env=os.environ | slurm.environment, check=False)
        wait_for(lambda: not slurm.list_jobs(), 30)
    finally:
        _stop(folder)
        shutil.rmtree(folder, ignore_errors=True)
