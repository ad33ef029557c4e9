"""The promises of a data set, each broken on purpose: kills, a full disk, a flipped byte.

What costs a study (a crash, a hang, hunger) is in ``tests/jobs``, what is kept apart by locks too.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ct_files import write_ct

from drrgen.phantoms import make_torso

pytestmark = pytest.mark.slow

N_CT = 10
KILLS = 30
PATIENCE_S = 240.0
LONGEST_S = 9.0  # of a run, on a slow machine with time to spare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    for i in range(N_CT):
        volume = make_torso(spacing_mm=4.0, height_mm=200.0 + 4 * i)
        write_ct(volume, folder / f"ct{i:02d}.nii.gz")
    (folder / "salt.txt").write_text("a salt for tests only, long enough\n")
    (folder / "small.toml").write_text("[run]\nshard_size = 3\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert start(folder, out).wait(PATIENCE_S) == 0
    return read_files(out)


def start(folder: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from drrgen.cli import main; main()", "render", "-q"]
    options = ["--ct-dir", folder, "--out", out, "--salt-file", folder / "salt.txt", "--size", 96,
               "--config", folder / "small.toml", "--workers", 2, *more]  # fmt: skip
    with out.with_name(f"{out.name}.log").open("a") as log:
        return subprocess.Popen(
            [*command, *map(str, options)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def read_files(out: Path) -> dict[str, bytes]:
    kept = [*out.rglob("*.png"), *out.rglob("*.parquet"), out / "manifest.json"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


def find_workers(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [each for each in children if "spawn_main" in " ".join(each.cmdline())]
    except psutil.NoSuchProcess:
        return []


def kill(process: "subprocess.Popen[bytes]", victim: str, chance: random.Random) -> bool:
    """Kill as told; False when there was nothing left to kill."""
    if process.poll() is not None:
        return False
    if victim == "worker":
        workers = find_workers(process)
        if not workers:
            return False
        try:
            chance.choice(workers).kill()
        except psutil.NoSuchProcess:
            return False
        return True
    (os.killpg if victim == "tree" else os.kill)(process.pid, signal.SIGKILL)
    return True


def sweep(process: "subprocess.Popen[bytes]") -> None:
    """End what a killed driver left behind: its workers end by themselves, only later."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("seed", range(3))
def test_thirty_kills_at_random_moments_change_no_byte(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    kills = finished = 0
    out = tmp_path / "out0"
    deadline = time.monotonic() + 3 * PATIENCE_S
    while kills < KILLS // 3 and time.monotonic() < deadline:
        process = start(folder, out)
        victim = chance.choice(["worker", "driver", "tree"])
        time.sleep(chance.uniform(0.5, LONGEST_S))
        struck = kill(process, victim, chance)
        kills += struck
        if struck and victim != "worker":
            process.wait(PATIENCE_S)
            sweep(process)
            continue
        assert process.wait(PATIENCE_S) == 0, out.with_name(f"{out.name}.log").read_text()
        assert read_files(out) == undisturbed
        finished += 1
        out = tmp_path / f"out{finished}"
    assert kills >= KILLS // 3
    assert start(folder, out).wait(PATIENCE_S) == 0
    assert read_files(out) == undisturbed
    assert not list(out.rglob("*.trace")) and not list(out.rglob("*.partial-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_stops_the_build_and_more_room_completes_it(
    folder: Path, undisturbed: dict[str, bytes], small_disk: Path
) -> None:
    process = start(folder, small_disk / "out", "--log-file", str(folder / "full.log"))
    assert process.wait(PATIENCE_S) == 1
    assert "No space left" in (small_disk.parent / "disk" / "out.log").read_text() or (
        not (small_disk / "out" / "manifest.json").exists()
    )
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert start(folder, small_disk / "out").wait(PATIENCE_S) == 0
    assert read_files(small_disk / "out") == undisturbed
    assert not list((small_disk / "out").rglob("*.partial-*"))


def test_eight_shards_that_are_merged_give_the_bytes_of_one_build(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = [sys.executable, "-c", "from drrgen.cli import main; main()"]
    options = ["--ct-dir", folder, "--out", out, "--salt-file", folder / "salt.txt", "--size", 96,
               "--config", folder / "small.toml"]  # fmt: skip
    subprocess.run([*run, "plan", *map(str, options)], check=True, capture_output=True)
    with in_parallel(2) as pool:
        for index in range(8):
            pool.append([*run, "run", "-q", str(out), "--shard", f"{index}/8"])
    subprocess.run([*run, "merge", "-q", str(out)], check=True, capture_output=True)
    assert read_files(out) == undisturbed


@contextmanager
def in_parallel(count: int) -> Iterator[list[list[str]]]:
    """Collect commands, and run so many of them at once."""
    commands: list[list[str]] = []
    yield commands
    for first in range(0, len(commands), count):
        batch = [subprocess.Popen(command) for command in commands[first : first + count]]
        assert [process.wait(PATIENCE_S) for process in batch] == [0] * len(batch)


def test_a_flipped_byte_of_a_picture_is_found(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from drrgen.cli import app

    out = tmp_path / "out"
    for name, data in undisturbed.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    shutil.copytree(folder, tmp_path / "ct")
    assert start(tmp_path / "ct", out).wait(PATIENCE_S) == 0
    assert CliRunner().invoke(app, ["check", str(out)]).exit_code == 0
    picture = next((out / "images").rglob("*.png"))
    data = bytearray(picture.read_bytes())
    data[len(data) // 2] ^= 1
    picture.write_bytes(data)
    checked = CliRunner().invoke(app, ["check", str(out), "--json"])
    assert checked.exit_code == 1
    assert "file_changed" in checked.output
