"""Draws: chance that can be repeated, within its bounds, and told in every row."""

import dataclasses
import json
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from ct_files import write_ct
from drrgen_pipelines.draws import Draw, list_draws
from drrgen_pipelines.projection import find_setup
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from drrgen.choices import View
from drrgen.cli import app
from drrgen.config import AugmentConfig, RenderConfig
from drrgen.phantoms import make_torso

COUNT = 6


def draw(
    render: RenderConfig, augment: AugmentConfig | None = None, sample: str = "abc"
) -> list[Draw]:
    presets = {view: find_setup(view, render).acquisition for view in render.view}
    return list_draws(render, augment or AugmentConfig(), presets, sample)


def test_the_first_draw_is_plain_and_the_others_are_not() -> None:
    render = RenderConfig(views_per_ct=COUNT)
    draws = draw(render)
    assert [(d.view, d.number) for d in draws] == [
        (v, n) for v in render.view for n in range(COUNT)
    ]
    for one in draws:
        assert (one.config == render) is (one.number == 0)
        assert (one.shift_mm == (0, 0, 0)) is (one.number == 0)


@given(st.integers(0, 2**63 - 1), st.text(max_size=8))
def test_a_draw_hangs_on_nothing_but_seed_sample_view_and_number(seed: int, sample: str) -> None:
    render = RenderConfig(seed=seed, views_per_ct=4)
    first = {(d.view, d.number): d for d in draw(render, sample=sample)}
    other = dataclasses.replace(render, view=(View.LL, View.AP, View.PA), views_per_ct=3)
    for d in draw(other, sample=sample):
        if (d.view, d.number) in first:
            same = first[d.view, d.number]
            assert (d.seed, d.shift_mm) == (same.seed, same.shift_mm)
            assert d.config.rotation_deg == same.config.rotation_deg
            assert d.config.kvp == same.config.kvp


def test_every_picture_has_chance_of_its_own() -> None:
    seeds = [
        d.seed
        for seed in (0, 1)
        for sample in ("a", "b")
        for d in draw(RenderConfig(seed=seed, views_per_ct=COUNT), sample=sample)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_draws_stay_within_their_bounds(seed: int) -> None:
    render, augment = RenderConfig(seed=seed, views_per_ct=COUNT), AugmentConfig()
    for d in draw(render, augment):
        preset = find_setup(d.view, render).acquisition
        if d.number == 0:
            continue
        for angle, reach in zip(d.config.rotation_deg, augment.rotation_deg, strict=True):
            assert abs(angle) <= reach
        assert all(abs(x) <= augment.shift_mm for x in d.shift_mm)
        assert d.config.sid_mm and d.config.kvp and d.config.dose_ugy
        assert abs(d.config.sid_mm / preset.sid_mm - 1) <= augment.sid_share + 1e-9
        assert abs(d.config.kvp / preset.kvp - 1) <= augment.kvp_share + 1e-9
        assert 50 <= d.config.kvp <= 150
        assert 1 / 2.0001 <= d.config.dose_ugy / preset.dose_ugy <= 2.0001
        assert abs(d.config.brightness) <= augment.brightness
        assert abs(d.config.contrast - 1) <= augment.contrast_share + 1e-9
        find_setup(d.view, d.config)  # must be an acquisition that can be made


def test_a_single_energy_stays_one() -> None:
    for d in draw(RenderConfig(kev=70.0, views_per_ct=3)):
        assert d.config.kvp is None and d.config.kev == 70.0


def test_without_any_reach_draws_differ_in_noise_alone() -> None:
    still = AugmentConfig(
        rotation_deg=(0.0, 0.0, 0.0), shift_mm=0.0, sid_share=0.0, kvp_share=0.0, dose_factor=1.0,
        brightness=0.0, contrast_share=0.0,
    )  # fmt: skip
    plain, *others = draw(RenderConfig(view=(View.PA,), views_per_ct=3), still)
    for d in others:
        assert d.seed != plain.seed
        assert find_setup(d.view, d.config) == find_setup(plain.view, plain.config)


def run(ct: Path, out: Path, *more: object) -> dict[str, bytes]:
    salt = out.parent / "salt.txt"
    salt.write_text("a salt for tests only, long enough\n")
    arguments = ["render", "--ct-dir", ct, "--out", out, "--salt-file", salt, "--size", 96, *more]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    kept = [*(out / "images").rglob("*.png"), *out.rglob("*.parquet")]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in kept}


@pytest.fixture(scope="module")
def two_torsos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    for name, height_mm in (("a", 200.0), ("b", 160.0)):
        volume = make_torso(spacing_mm=4.0, height_mm=height_mm)
        write_ct(volume, folder / f"{name}.nii.gz")
    return folder


def test_three_views_per_ct_are_three_files_each_and_told_in_their_rows(
    two_torsos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    files = run(two_torsos, out, "--views-per-ct", 3, "--seed", 7)
    assert sum(name.endswith(".png") for name in files) == 2 * 2 * 3
    rows = ds.dataset(sorted((out / "manifest").glob("*.parquet"))).to_table().to_pylist()
    assert len({(r["sample_id"], r["view"], r["draw"]) for r in rows}) == 12
    drawn = ("rotation_deg", "isocenter_mm", "sid_mm", "kvp", "dose_ugy", "seed")
    for row in rows:
        with Image.open(out / row["cxr_path"]) as image:
            settings = json.loads(image.text["drrgen:settings"])  # type: ignore[attr-defined]
        assert all(row[name] is not None for name in drawn)
        for name in ("rotation_deg", "sid_mm", "kvp", "dose_ugy"):
            if row["draw"]:
                assert settings[name] == pytest.approx(row[name], rel=1e-6)
        assert (settings["brightness"] != 0) is (row["draw"] > 0)
    for name in drawn:
        values = {str(r[name]) for r in rows if r["draw"]}
        assert len(values) == 8, f"{name} is not drawn anew for each picture"


@pytest.mark.slow
def test_one_and_two_workers_write_the_same_bytes(two_torsos: Path, tmp_path: Path) -> None:
    more = ("--views-per-ct", 3, "--seed", 7, "--workers")
    assert run(two_torsos, tmp_path / "one", *more, 1) == run(
        two_torsos, tmp_path / "two", *more, 2
    )
