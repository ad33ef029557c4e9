"""Container recipes: linted, read, and their install steps run; no image is made here."""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
RECIPE = ROOT / "docker" / "drrgen.def"
SCRIPTS = [*sorted((ROOT / "pipelines" / "slurm").glob("*s*h")), ROOT / ".ci" / "run"]
FOUND_BY_PIP = re.compile(r"No matching distribution|Could not find a version|Connection|timed out")


def read_stages() -> dict[str, list[tuple[str, str]]]:
    """Read the Dockerfile: for each stage its instructions, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    stages: dict[str, list[tuple[str, str]]] = defaultdict(list)
    stage = ""
    for line in text.replace("\\\n", "").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            _, _, stage = rest.partition(" AS ")
        if word:
            stages[stage].append((word, " ".join(rest.split())))
    return stages


def find(stage: str, word: str) -> list[str]:
    return [rest for each, rest in read_stages()[stage] if each == word]


def read_sections() -> dict[str, str]:
    """Read the recipe of Apptainer: its sections by name."""
    parts = re.split(r"^%(\w+)\n", RECIPE.read_text(), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def find_tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [find_tool("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        [find_tool("shellcheck"), *SCRIPTS], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_there_are_targets_for_cpu_and_cuda_that_are_not_root() -> None:
    stages = read_stages()
    assert list(stages) == ["base", "build", "cpu", "cuda"]
    assert find("cpu", "USER") == ["1000:1000"] and not find("cuda", "USER")
    assert find("cuda", "FROM") == ["cpu AS cuda"]
    assert find("cpu", "ENTRYPOINT") == ['["drrgen"]']
    assert find("cpu", "RUN")[-1] == "drrgen doctor"
    assert len(find("cpu", "HEALTHCHECK")) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+ AS base", find("base", "FROM")[0])


def test_no_tool_of_the_build_and_no_source_is_in_the_image() -> None:
    assert find("cpu", "COPY") == ["--from=build /opt/drrgen /opt/drrgen"]


def test_all_that_is_copied_reaches_the_builder_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {name for rest in find("build", "COPY") for name in rest.split()[:-1]}
    assert let_in == copied
    assert all((ROOT / name).exists() for name in copied)
    kept_out = [line for line in lines[1:] if not line.startswith("!")]
    assert any(fnmatch("drrgen/io/__pycache__", pattern) for pattern in kept_out)


def test_apptainer_installs_as_docker_does() -> None:
    sections = read_sections()
    post = " ".join(sections["post"].replace("\\\n", " ").split())
    for step in find("build", "RUN"):
        assert step in post
    copied = {name for rest in find("build", "COPY") for name in rest.split()[:-1]}
    assert {line.split()[0] for line in sections["files"].splitlines() if line.strip()} == copied
    assert f"From: {find('base', 'FROM')[0].split()[0]}\n" in sections[""]
    assert sections["runscript"].strip() == 'exec drrgen "$@"'
    assert sections["test"].strip() == "drrgen doctor"


@pytest.mark.slow
def test_the_install_steps_make_a_drrgen_that_renders(tmp_path: Path) -> None:
    """The RUN lines, in another folder: that they are complete, and the lock with them."""
    source, target = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    for rest in find("build", "COPY"):
        for name in rest.split()[:-1]:
            path = ROOT / name
            (shutil.copytree if path.is_dir() else shutil.copy)(path, source / path.name)
    steps = ["set -eu", f"PATH={target}/drrgen/bin:{Path(sys.executable).parent}:$PATH"]
    steps += [step.replace("/opt/", f"{target}/") for step in find("build", "RUN")]
    steps += find("cpu", "RUN")[-1:]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "TORCH_INDEX": ""}
    done = subprocess.run(
        ["sh", "-c", "\n".join(steps)],
        cwd=source, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    shutil.rmtree(target, ignore_errors=True)  # 3 GB, which pytest would keep
    if done.returncode and FOUND_BY_PIP.search(done.stderr):
        pytest.skip(f"pip has no packages here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rendering works" in done.stdout
