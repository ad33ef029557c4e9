import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from ct_files import write_ct
from drrgen_pipelines.estimate import estimate
from typer.testing import CliRunner
from upath import UPath

from drrgen.choices import ImageFormat, Pair, View
from drrgen.cli import app
from drrgen.config import Config, RenderConfig, RunConfig
from drrgen.jobs.runner import Forecast
from drrgen.phantoms import make_torso

AHEAD = Forecast(todo=10, kept=2, todo_bytes=800_000_000)
Usage = namedtuple("Usage", "total used free")
MARGIN = 2  # a phantom packs better than a patient


def make_config(**more: object) -> Config:
    return Config(render=RenderConfig(**more), run=RunConfig(workers=1))  # type: ignore[arg-type]


def test_pictures_are_counted_by_view_and_draw(tmp_path: Path) -> None:
    config = make_config(view=(View.PA, View.LL, View.AP), views_per_ct=4)
    assert estimate(AHEAD, config, tmp_path).pictures == 10 * 3 * 4


def test_larger_pictures_more_formats_and_pairs_take_more_room(tmp_path: Path) -> None:
    sizes = [
        estimate(AHEAD, make_config(**more), tmp_path).bytes_to_write
        for more in (
            {"size": 512},
            {"size": 1024},
            {"size": 1024, "pairs": (Pair.BONE,)},
            {"size": 1024, "pairs": (Pair.BONE,), "format": (ImageFormat.PNG16, ImageFormat.NPY)},
        )
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def test_more_workers_take_less_time(tmp_path: Path) -> None:
    one = estimate(AHEAD, make_config(), tmp_path)
    two = estimate(AHEAD, Config(run=RunConfig(workers=2)), tmp_path)
    assert two.seconds == pytest.approx(one.seconds / 2)


def test_a_store_is_not_asked_for_its_room() -> None:
    cost = estimate(AHEAD, make_config(), UPath("memory://room/out"))
    assert cost.bytes_free is None
    cost.check_room()


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    write_ct(make_torso(spacing_mm=4.0, height_mm=200.0), tmp_path / "ct.nii.gz")
    (tmp_path / "salt.txt").write_text("a salt for tests only, long enough\n")
    return tmp_path / "ct.nii.gz"


def call(command: str, ct: Path, *more: object) -> tuple[int, str]:
    words = [command, "--ct-dir", ct, "--out", ct.parent / "out", "--salt-file",
             ct.parent / "salt.txt", "--size", 512, *more]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


def test_no_more_is_written_than_was_said_and_not_much_less(ct: Path) -> None:
    assert call("render", ct)[0] == 0
    out = ct.parent / "out"
    written = sum(path.stat().st_size for path in out.rglob("images/*/*"))
    said = estimate(Forecast(todo=1, kept=0, todo_bytes=0), make_config(size=512), out)
    assert written < said.bytes_to_write < MARGIN * written
    assert said.is_measured  # by the study that is there


def test_a_plan_that_cannot_fit_is_refused_and_not_written(
    ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    code, said = call("plan", ct)
    assert code == 2
    assert "make room" in said
    assert not (ct.parent / "out.private").exists()


def test_a_plan_says_what_it_costs(ct: Path) -> None:
    code, said = call("plan", ct)
    assert code == 0
    assert "1 study found, 1 to render" in said
    assert "2 radiographs" in said
    assert (ct.parent / "out.private" / "plan" / "plan.json").exists()
