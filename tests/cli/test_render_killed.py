"""What a run that is ended from outside leaves behind, and what the same command makes of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ct_files import write_ct

from drrgen.phantoms import make_torso

N_CT = 12
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    for i in range(N_CT):
        volume = make_torso(spacing_mm=4.0, height_mm=200.0 + 4 * i)
        write_ct(volume, folder / f"ct{i:02d}.nii.gz")
    (folder / "salt.txt").write_text("a salt for tests only, long enough\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert start(folder, out).wait(PATIENCE_S) == 0
    return read_files(out)


def start(folder: Path, out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from drrgen.cli import main; main()", "render", "-q"]
    options = ["--ct-dir", folder, "--out", out, "--salt-file", folder / "salt.txt", "--size", 96]
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            [*command, *map(str, options), "--workers", "2"],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def wait_for_outcomes(out: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(list(out.glob("manifest/.open/*/*.json"))) < count:
        assert time.monotonic() < deadline, "the run did not get going"
        time.sleep(0.01)


def read_files(out: Path) -> dict[str, bytes]:
    kept = [*out.rglob("*.png"), *out.rglob("*.parquet"), out / "manifest.json"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "whole tree"])
def test_a_killed_run_is_completed_to_the_same_bytes(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, victim: str
) -> None:
    out = tmp_path / "out"
    process = start(folder, out)
    wait_for_outcomes(out, 3)
    (os.kill if victim == "driver" else os.killpg)(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
    assert not (out / "manifest.json").exists()
    assert start(folder, out).wait(PATIENCE_S) == 0
    assert read_files(out) == undisturbed
    assert not list(out.rglob("*.trace")) and not list(out.rglob("*.partial-*"))


@pytest.mark.slow
@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_can_be_continued(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, word: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = start(folder, out)
    wait_for_outcomes(out, 3)
    os.killpg(process.pid, word)
    assert process.wait(PATIENCE_S) == 130
    said = out.with_suffix(".log").read_text().strip()
    assert said == "interrupted; the same command goes on where this one stopped"
    assert start(folder, out).wait(PATIENCE_S) == 0
    assert read_files(out) == undisturbed
