"""The exposure: each effect against its formula, and none of them when none is asked for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drrgen.errors import PhysicsError
from drrgen.physics import exposure as module
from drrgen.physics.exposure import (
    ELECTRONIC_QUANTA,
    GRID_PRIMARY,
    GRID_SCATTER,
    MIN_SIGNAL,
    PANEL_PITCH_MM,
    SCATTER_SIGMA_MM,
    Exposure,
    Panel,
    expose,
    find_field,
    find_focal_sigma_mm,
    find_quanta,
    find_scatter,
    transmit,
)

FLOAT32_TOL = 1e-6  # relative
SUM_TOL = 1e-4  # relative, float32 over the many taps of a wide blur
VARIANCE_TOL = 0.02  # of 512 x 512 pixels: five standard errors of 0.4 %, and the logarithm's bend
HEEL_TOL = 0.025  # one exponential for a whole spectrum
MODULATION_TOL = 0.01
SIDE = 512


def make_panel(**changes: object) -> Panel:
    return Panel(
        **{
            "pitch_mm": 0.4,
            "sid_mm": 1800.0,
            "sod_mm": 1630.0,
            "center_uv": (256.0, 256.0),
            **changes,
        }  # type: ignore[arg-type]
    )


def make_slab(line_integral: float = 2.0, side: int = SIDE) -> Tensor:
    return torch.full((side, side), line_integral)


def make_noisy(quanta: float, panel: Panel, **changes: object) -> Exposure:
    """An exposure with so many quanta a pixel."""
    per_ugy = 15_000.0
    dose = quanta / per_ugy / panel.pitch_mm**2
    return Exposure(**{"dose_ugy": dose, "quanta_per_ugy_mm2": per_ugy, **changes})  # type: ignore[arg-type]


def shoot(line_integral: Tensor, exposure: Exposure, panel: Panel, seed: int = 0) -> Tensor:
    """The signal, in units of the open beam's."""
    chance = torch.Generator().manual_seed(seed)
    return torch.exp(-expose(line_integral, exposure, panel, generator=chance))


# Beer-Lambert


def test_air_lets_everything_through() -> None:
    assert transmit(torch.zeros(2, 3)).tolist() == [[1.0] * 3] * 2


def test_a_half_value_layer_lets_half_through() -> None:
    layers = torch.tensor([[1.0, 2.0, 3.0]]) * math.log(2)
    assert transmit(layers).tolist()[0] == pytest.approx([0.5, 0.25, 0.125], rel=FLOAT32_TOL)


def test_a_batch_keeps_its_shape_and_type() -> None:
    transmission = transmit(torch.ones(2, 1, 3, 4))
    assert transmission.shape == (2, 1, 3, 4)
    assert transmission.dtype == torch.float32


@given(st.lists(st.floats(0, 12), min_size=1, max_size=8))
def test_without_any_effect_the_line_integral_comes_back(values: list[float]) -> None:
    line_integral = torch.tensor([values], dtype=torch.float64)
    back = expose(line_integral, Exposure(), make_panel())
    assert torch.allclose(back, line_integral, atol=1e-12)


def test_the_darkest_that_a_panel_tells_is_held() -> None:
    assert expose(make_slab(40.0, 2), Exposure(), make_panel()).max() == pytest.approx(
        -math.log(MIN_SIGNAL), rel=FLOAT32_TOL
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_line_integrals_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(PhysicsError, match="finite"):
        expose(torch.tensor([[0.0, bad]]), Exposure(), make_panel())


@pytest.mark.parametrize(
    "changes",
    [
        {"dose_ugy": 0.0, "quanta_per_ugy_mm2": 1.0},
        {"dose_ugy": -1.0, "quanta_per_ugy_mm2": 1.0},
        {"dose_ugy": math.nan, "quanta_per_ugy_mm2": 1.0},
        {"dose_ugy": math.inf, "quanta_per_ugy_mm2": 1.0},
        {"dose_ugy": 1.0},
        {"dose_ugy": 1.0, "quanta_per_ugy_mm2": -1.0},
        {"dose_ugy": 1.0, "quanta_per_ugy_mm2": math.nan},
        {"focal_spot_mm": 0.0},
        {"focal_spot_mm": math.nan},
        {"focal_spot_mm": -1.2},
    ],
)
def test_an_impossible_exposure_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(PhysicsError):
        Exposure(**changes)  # type: ignore[arg-type]


# Noise


@pytest.mark.parametrize("quanta", [1e2, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("pitch_mm", [PANEL_PITCH_MM, 0.4])
def test_relative_variance_is_one_over_the_quanta(quanta: float, pitch_mm: float) -> None:
    """And that of the amplifiers, whose quanta grow with the side of a pixel."""
    panel = make_panel(pitch_mm=pitch_mm)
    signal = shoot(make_slab(), make_noisy(quanta, panel), panel) / math.exp(-2)
    electronic = ELECTRONIC_QUANTA * pitch_mm / PANEL_PITCH_MM
    assert float(signal.var()) == pytest.approx(
        1 / quanta + (electronic / quanta) ** 2, rel=VARIANCE_TOL
    )
    # Five standard errors of the mean.
    assert float(signal.mean()) == pytest.approx(1, abs=5 * (2 / quanta) ** 0.5 / SIDE + 1e-5)


def test_electronic_noise_does_not_hang_on_the_signal() -> None:
    panel = make_panel(pitch_mm=PANEL_PITCH_MM)
    for quanta in (40.0, 100.0, 400.0):
        counts = shoot(make_slab(), make_noisy(quanta, panel), panel) / math.exp(-2) * quanta
        # The noise of the quanta is known, and its own uncertainty is what limits this.
        spread = 5 * math.sqrt(2) / SIDE * (quanta + ELECTRONIC_QUANTA**2)
        assert float(counts.var()) - quanta == pytest.approx(ELECTRONIC_QUANTA**2, abs=spread)


def test_few_quanta_come_in_whole_numbers_as_poisson_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ELECTRONIC_QUANTA", 0.0)
    panel, quanta = make_panel(), 3.0
    counts = shoot(make_slab(), make_noisy(quanta, panel), panel) / math.exp(-2) * quanta
    assert float((counts - counts.round()).abs().max()) < 1e-3
    for k in range(8):
        share = float((counts.round() == k).float().mean())
        wanted = math.exp(-quanta) * quanta**k / math.factorial(k)
        assert share == pytest.approx(wanted, abs=5 * math.sqrt(wanted) / SIDE)
    assert float(counts.var()) == pytest.approx(quanta, rel=VARIANCE_TOL)


def test_where_poisson_turns_normal_nothing_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ELECTRONIC_QUANTA", 0.0)
    panel = make_panel()
    for quanta in (29.9, 30.1):
        signal = shoot(make_slab(), make_noisy(quanta, panel), panel) / math.exp(-2)
        assert float(signal.mean()) == pytest.approx(1, abs=5 / math.sqrt(quanta) / SIDE)
        assert float(signal.var()) == pytest.approx(1 / quanta, rel=VARIANCE_TOL)


def test_the_dose_is_that_behind_the_body_and_not_beside_it() -> None:
    panel = make_panel()
    halves = make_slab(3.0)
    halves[:, : SIDE // 2] = 0.0  # air
    signal = shoot(halves, make_noisy(1e4, panel), panel)
    behind, beside = signal[:, SIDE // 2 :], signal[:, : SIDE // 2]
    electronic = (ELECTRONIC_QUANTA * 0.4 / PANEL_PITCH_MM / 1e4) ** 2
    relative = float(behind.var()) / math.exp(-6)
    assert relative == pytest.approx(1e-4 + electronic, rel=VARIANCE_TOL)
    assert float(beside.var()) == pytest.approx(1e-4 * math.exp(-3), rel=VARIANCE_TOL)


def test_scattered_quanta_count_for_the_dose() -> None:
    panel = make_panel(pitch_mm=2.0)
    signal = shoot(make_slab(2.0), make_noisy(1e4, panel, scatter=True), panel)
    assert float(signal.mean()) == pytest.approx(3 * math.exp(-2), rel=1e-4)
    electronic = (ELECTRONIC_QUANTA * 2 / PANEL_PITCH_MM / 1e4) ** 2
    assert float((signal / signal.mean()).var()) == pytest.approx(
        1e-4 + electronic, rel=VARIANCE_TOL
    )


def test_the_same_seed_gives_the_same_noise_and_another_one_other_noise() -> None:
    panel = make_panel()
    for quanta in (20.0, 1e4):
        noisy = make_noisy(quanta, panel, scatter=True, detector_blur=True, focal_spot_mm=1.2)
        first = shoot(make_slab(), noisy, panel, seed=1)
        assert torch.equal(first, shoot(make_slab(), noisy, panel, seed=1))
        assert not torch.equal(first, shoot(make_slab(), noisy, panel, seed=2))


def test_quanta_grow_with_dose_and_with_the_pixels_area() -> None:
    one = find_quanta(Exposure(dose_ugy=2.5, quanta_per_ugy_mm2=15_000), make_panel(pitch_mm=0.2))
    assert one == pytest.approx(2.5 * 15_000 * 0.04)
    assert find_quanta(Exposure(), make_panel()) == 0


def test_the_detectors_light_smooths_the_noise_and_keeps_the_mean() -> None:
    panel = make_panel(pitch_mm=PANEL_PITCH_MM)
    sharp = shoot(make_slab(), make_noisy(1e4, panel), panel)
    soft = shoot(make_slab(), make_noisy(1e4, panel, detector_blur=True), panel)
    assert float(soft.std()) < 0.6 * float(sharp.std())
    assert float(soft.mean()) == pytest.approx(float(sharp.mean()), rel=1e-4)


# Scatter


@pytest.mark.parametrize("line_integral", [0.5, 2.0, 5.0])
def test_behind_an_even_slab_the_scatter_ratio_is_the_line_integral(line_integral: float) -> None:
    slab = make_slab(line_integral)
    primary = transmit(slab)
    ratio = find_scatter(primary, slab, Exposure(scatter=True), make_panel()) / primary
    assert torch.allclose(ratio, slab, rtol=SUM_TOL)
    grid = find_scatter(primary, slab, Exposure(scatter=True, grid=True), make_panel()) / primary
    assert torch.allclose(grid, slab * GRID_SCATTER / GRID_PRIMARY, rtol=SUM_TOL)
    assert pytest.approx(1 / 7) == GRID_SCATTER / GRID_PRIMARY
    signal = expose(slab, Exposure(scatter=True), make_panel())
    assert torch.allclose(signal, slab - math.log(1 + line_integral), atol=1e-5)


def test_without_scatter_there_is_none() -> None:
    slab = make_slab(side=8)
    assert not find_scatter(transmit(slab), slab, Exposure(grid=True), make_panel()).any()


def test_scatter_is_smooth_and_none_is_lost_away_from_the_edge() -> None:
    panel = make_panel(pitch_mm=1.0)
    line_integral = torch.zeros(SIDE, SIDE)
    line_integral[236:276, 226:286] = 1.5
    primary = transmit(line_integral)
    scatter = find_scatter(primary, line_integral, Exposure(scatter=True), panel)
    made = float((primary * line_integral).sum())
    assert float(scatter.sum()) == pytest.approx(made, rel=1e-3)
    # A Gaussian's answer to a step rises by no more than this from pixel to pixel.
    steepest = float((primary * line_integral).max()) / (SCATTER_SIGMA_MM * math.sqrt(2 * math.pi))
    assert float(scatter.diff(dim=0).abs().max()) < 1.1 * steepest
    assert float(scatter.min()) >= 0


# Sharpness


def find_modulation(sigma_mm_switches: Exposure, panel: Panel, frequency_per_mm: float) -> float:
    """Modulation of an edge: Fourier transform of the derivative of its answer."""
    line_integral = torch.zeros(16, 1024, dtype=torch.float64)
    line_integral[:, 512:] = 0.2
    signal = torch.exp(-expose(line_integral, sigma_mm_switches, panel))[8]
    line = signal.diff()
    x_mm = torch.arange(len(line), dtype=torch.float64) * panel.pitch_mm
    wave = torch.exp(-2j * math.pi * frequency_per_mm * x_mm)
    return float((line * wave).sum().abs() / line.sum().abs())


@pytest.mark.parametrize(
    ("frequency_per_mm", "modulation"), [(1.0, 0.77), (1.64, 0.50), (2.5, 0.20)]
)
def test_an_edge_has_the_modulation_that_is_stated_of_the_detector(
    frequency_per_mm: float, modulation: float
) -> None:
    panel = make_panel(pitch_mm=0.02)
    found = find_modulation(Exposure(detector_blur=True), panel, frequency_per_mm)
    assert found == pytest.approx(modulation, abs=MODULATION_TOL)


def test_a_panel_of_the_usual_pitch_has_half_modulation_at_the_stated_frequency() -> None:
    panel = make_panel(pitch_mm=PANEL_PITCH_MM)
    found = find_modulation(Exposure(detector_blur=True), panel, 1.64)
    assert found == pytest.approx(0.5, abs=MODULATION_TOL)


def test_the_focal_spot_casts_the_penumbra_of_the_formula() -> None:
    panel = make_panel(sid_mm=1100.0, sod_mm=940.0)
    penumbra_mm = 0.8 * (1100 - 940) / 940  # similar triangles
    sigma = find_focal_sigma_mm(Exposure(focal_spot_mm=0.8), panel)
    assert sigma == pytest.approx(penumbra_mm / math.sqrt(12))
    touching = make_panel(sid_mm=1000.0, sod_mm=1000.0)
    assert find_focal_sigma_mm(Exposure(focal_spot_mm=0.8), touching) == 0


def test_a_larger_focal_spot_blurs_an_edge_as_the_penumbra_says() -> None:
    panel = make_panel(pitch_mm=0.02, sid_mm=1100.0, sod_mm=940.0)
    sigma = find_focal_sigma_mm(Exposure(focal_spot_mm=3.0), panel)
    found = find_modulation(Exposure(focal_spot_mm=3.0), panel, 1.0)
    assert found == pytest.approx(math.exp(-2 * math.pi**2 * sigma**2), abs=MODULATION_TOL)


# The open field


def test_the_open_field_falls_as_the_cube_of_the_cosine() -> None:
    panel = make_panel(pitch_mm=10.0, sid_mm=1000.0, center_uv=(20.5, 30.5))
    field = find_field(Exposure(inverse_square=True), panel, (61, 41))
    assert float(field[30, 20]) == pytest.approx(1, rel=FLOAT32_TOL)
    for row, column in ((0, 0), (60, 40), (30, 5), (12, 20)):
        radius = 10 * math.hypot(row - 30, column - 20)
        cosine = math.cos(math.atan(radius / 1000))
        # 1/r^2, and the pixel's area seen aslant.
        wanted = (1000 / math.hypot(1000, radius)) ** 2 * cosine
        assert float(field[row, column]) == pytest.approx(wanted, rel=1e-5)
        assert wanted == pytest.approx(cosine**3)


@pytest.mark.parametrize(
    ("v_mm", "share"),
    [(-215, 0.7465), (-150, 0.8509), (-100, 0.9112), (-50, 0.9600), (0, 1), (50, 1.0332),
     (100, 1.0610), (150, 1.0843), (215, 1.1089)],
)  # fmt: skip
def test_the_heel_effect_is_that_of_spekpy(v_mm: float, share: float) -> None:
    """SpekPy 2.5.4, 125 kV, 3 mm Al, 12 degrees, 1800 mm: air kerma over that on the axis, the
    inverse square taken out. The anode lies cranial.
    """
    panel = make_panel(pitch_mm=1.0, center_uv=(0.5, 215.5))
    field = find_field(Exposure(heel=True), panel, (431, 3))
    assert float(field[215 + round(v_mm), 1]) == pytest.approx(share, rel=HEEL_TOL)


def test_the_heel_effect_rises_towards_the_feet_and_is_one_on_the_axis() -> None:
    panel = make_panel(pitch_mm=1.0, center_uv=(0.5, 215.5))
    field = find_field(Exposure(heel=True), panel, (431, 3))
    assert (field.diff(dim=0) > 0).all()
    assert (field == field[:, :1]).all()
    assert float(field[215, 0]) == pytest.approx(1, rel=FLOAT32_TOL)


def test_beyond_the_anodes_horizon_nothing_breaks() -> None:
    panel = make_panel(pitch_mm=10.0, sid_mm=400.0, center_uv=(0.5, 50.5))
    field = find_field(Exposure(heel=True, inverse_square=True), panel, (101, 3))
    assert torch.isfinite(field).all() and (field >= 0).all()
    assert float(field[0, 0]) < 0.1


def test_the_field_multiplies_the_beam() -> None:
    panel = make_panel(pitch_mm=1.0)
    switches = Exposure(heel=True, inverse_square=True)
    signal = expose(make_slab(2.0), switches, panel)
    wanted = 2 - torch.log(find_field(switches, panel, (SIDE, SIDE)))
    assert torch.allclose(signal, wanted, atol=1e-5)
