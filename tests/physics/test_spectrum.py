"""The beam: against SpekPy, the standard radiation qualities, and sums over energies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drrgen.errors import PhysicsError
from drrgen.physics.materials import find_mass_attenuations
from drrgen.physics.spectrum import (
    KEV_TO_JOULE,
    LIGHT_SWANK,
    MIN_ALUMINIUM_MM,
    PATIENT_CM,
    Beam,
    make_beam,
    make_single_energy,
    tabulate,
)

SPEKPY_TOL = 0.005  # other coefficients of aluminium and air, bins of 1 keV instead of 0.25
STANDARD_TOL = 0.02  # tubes differ in anode angle and own filtration
TRANSMISSION_TOL = 1e-3  # what the table promises
KVP = st.floats(50, 150)
FILTER_MM = st.floats(MIN_ALUMINIUM_MM, 10)


def sum_up(beam: Beam, water: np.ndarray, bone: np.ndarray) -> np.ndarray:
    """Transmission of the signal by direct summation over energies."""
    weight = beam.photons * beam.kev * beam.stopped
    mu_water = find_mass_attenuations("water", beam.kev)
    mu_bone = find_mass_attenuations("cortical_bone", beam.kev)
    passed = np.exp(-np.multiply.outer(water, mu_water) - np.multiply.outer(bone, mu_bone))
    return passed @ weight / weight.sum()


def look_up(beam: Beam, water: np.ndarray, bone: np.ndarray) -> np.ndarray:
    areas = [torch.from_numpy(np.atleast_2d(x)).to(torch.float32) for x in (water, bone)]
    return tabulate(beam).look_up(*areas).double().numpy()


def count_photons(beam: Beam) -> float:
    """Photons in a microgray of air kerma [1/(uGy mm2)]."""
    joule_per_g = beam.kev * KEV_TO_JOULE * find_mass_attenuations("air_absorption", beam.kev)
    ugy_cm2 = (beam.photons * joule_per_g).sum() * 1e3 * 1e6
    return float(beam.photons.sum() / ugy_cm2 / 100)


@pytest.mark.parametrize(
    ("kvp", "aluminium_mm", "copper_mm", "layer_mm", "mean_kev"),
    [  # SpekPy 2.5.4, casim, 12 degrees, steps of 0.25 keV
        (70, 2.5, 0.0, 2.397, 39.40),
        (90, 3.0, 0.0, 3.420, 47.13),
        (100, 2.5, 0.0, 3.458, 49.15),
        (120, 2.5, 0.0, 4.219, 54.45),
        (120, 3.0, 0.1, 6.635, 60.36),
        (125, 3.0, 0.0, 4.813, 56.62),
        # Between the tabulated voltages.
        (52.5, 2.5, 0.0, 1.835, 33.18),
        (77, 2.5, 0.0, 2.630, 41.87),
        (117, 2.5, 0.0, 4.107, 53.71),
        (148, 3.0, 0.0, 5.728, 61.90),
    ],
)
def test_half_value_layer_and_mean_energy_are_those_of_spekpy(
    kvp: float, aluminium_mm: float, copper_mm: float, layer_mm: float, mean_kev: float
) -> None:
    beam = make_beam(kvp, aluminium_mm=aluminium_mm, copper_mm=copper_mm)
    assert beam.half_value_layer_mm == pytest.approx(layer_mm, rel=SPEKPY_TOL)
    assert beam.mean_kev == pytest.approx(mean_kev, rel=SPEKPY_TOL)


@pytest.mark.parametrize(
    ("kvp", "added_mm", "layer_mm", "photons"),
    [  # IEC 61267 (RQA 5 to 9: added aluminium, layers), IEC 62220-1 (quanta)
        (74, 21, 7.1, 30174),  # RQA 5; 74 kV is what Samei, Med. Phys. 30:608, 2003, needed for it
        (90, 30, 9.1, 32362),  # RQA 7
        (120, 40, 11.5, 31077),  # RQA 9
    ],
)
def test_standard_radiation_qualities_have_their_layers_and_quanta(
    kvp: float, added_mm: float, layer_mm: float, photons: float
) -> None:
    beam = make_beam(kvp, aluminium_mm=2.5 + added_mm)
    assert beam.half_value_layer_mm == pytest.approx(layer_mm, rel=STANDARD_TOL)
    assert count_photons(beam) == pytest.approx(photons, rel=STANDARD_TOL)


@pytest.mark.parametrize(
    ("kvp", "least_mm"), [(70, 1.5), (80, 2.3), (90, 2.5), (100, 2.7), (120, 3.2), (150, 4.1)]
)
def test_a_usual_tube_is_as_hard_as_the_law_wants_and_not_twice_as_hard(
    kvp: float, least_mm: float
) -> None:
    """21 CFR 1020.30(m), the layers that a tube must have at least."""
    layer = make_beam(kvp, aluminium_mm=2.5).half_value_layer_mm
    assert least_mm < layer < 2 * least_mm


@given(KVP, FILTER_MM)
def test_more_voltage_and_more_filter_make_a_harder_beam(kvp: float, filter_mm: float) -> None:
    beam = make_beam(kvp, aluminium_mm=filter_mm)
    harder = [
        make_beam(kvp, aluminium_mm=filter_mm + 0.5),
        make_beam(kvp, aluminium_mm=filter_mm, copper_mm=0.1),
    ]
    if kvp < 149:
        harder.append(make_beam(kvp + 1, aluminium_mm=filter_mm))
    for other in harder:
        assert other.half_value_layer_mm > beam.half_value_layer_mm
        assert other.mean_kev > beam.mean_kev


@given(KVP)
def test_no_photon_has_more_energy_than_the_tube_gives(kvp: float) -> None:
    beam = make_beam(kvp, aluminium_mm=2.5)
    assert beam.photons[beam.kev > kvp + 2].sum() == 0  # stretched bins of 1 keV
    assert (beam.photons >= 0).all()


@pytest.mark.parametrize("kvp", [49.9, 150.1, 0.0, -70.0, float("nan"), float("inf")])
def test_a_voltage_outside_the_tables_is_refused(kvp: float) -> None:
    with pytest.raises(PhysicsError, match="kvp"):
        make_beam(kvp, aluminium_mm=2.5)


@pytest.mark.parametrize(
    ("aluminium_mm", "copper_mm"),
    [(0.0, 0.0), (-1.0, 0.0), (51.0, 0.0), (2.5, -0.1), (2.5, 6.0), (float("nan"), 0.0)],
)
def test_a_filter_that_no_tube_has_is_refused(aluminium_mm: float, copper_mm: float) -> None:
    with pytest.raises(PhysicsError, match="filters"):
        make_beam(70, aluminium_mm=aluminium_mm, copper_mm=copper_mm)


@pytest.mark.parametrize("kev", [9.9, 151.0, float("nan")])
def test_a_single_energy_outside_the_tables_is_refused(kev: float) -> None:
    with pytest.raises(PhysicsError, match="kev"):
        make_single_energy(kev)


@pytest.mark.parametrize(("kvp", "aluminium_mm"), [(70, 2.5), (90, 3.0), (125, 3.0)])
def test_the_quanta_of_a_microgray_are_those_of_an_independent_sum(
    kvp: float, aluminium_mm: float
) -> None:
    """The detector thins photons by chance and adds up energies: signal^2 / variance of each."""
    beam = make_beam(kvp, aluminium_mm=aluminium_mm)
    signal = variance = kerma = 0.0
    for kev, photons, stopped in zip(beam.kev, beam.photons, beam.stopped, strict=True):
        one = np.array([kev])
        behind = photons * np.exp(-PATIENT_CM * find_mass_attenuations("water", one)[0])
        signal += behind * stopped * kev
        variance += behind * stopped * kev**2
        kerma += behind * kev * find_mass_attenuations("air_absorption", one)[0]
    photons_per_mm2 = signal**2 / variance / 100
    ugy = kerma * KEV_TO_JOULE * 1e3 * 1e6
    assert beam.quanta_per_ugy_mm2 == pytest.approx(LIGHT_SWANK * photons_per_mm2 / ugy, rel=1e-9)


def test_the_detective_quantum_efficiency_is_a_measured_one() -> None:
    """RQA 5: 0.70 in Spahn et al. 2000, 0.78 in Samei 2003, of caesium iodide panels."""
    beam = make_beam(74, aluminium_mm=2.5 + 21)
    stopped = beam.photons * beam.stopped
    swank = (stopped * beam.kev).sum() ** 2 / (stopped * beam.kev**2).sum() / stopped.sum()
    efficiency = LIGHT_SWANK * swank * stopped.sum() / beam.photons.sum()
    assert 0.65 < efficiency < 0.78


def test_a_detector_that_stops_less_collects_fewer_quanta() -> None:
    beam = make_beam(125, aluminium_mm=3.0)
    half = Beam(kev=beam.kev, photons=beam.photons, stopped=beam.stopped / 2)
    assert half.quanta_per_ugy_mm2 == pytest.approx(beam.quanta_per_ugy_mm2 / 2, rel=1e-9)


@given(KVP, FILTER_MM, st.integers(0, 2**32 - 1))
def test_the_table_is_within_a_thousandth_of_the_sum_over_energies(
    kvp: float, filter_mm: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    # Thin ones, where the beam is softest and the table bends most, and thick ones.
    water = np.concatenate([random.uniform(0, top, 300) for top in (0.3, 3, 60)]).astype(np.float32)
    bone = np.concatenate([random.uniform(0, top, 300) for top in (0.06, 1, 20)]).astype(np.float32)
    beam = make_beam(kvp, aluminium_mm=filter_mm)
    found = np.exp(-look_up(beam, water, bone))[0]
    np.testing.assert_allclose(found, sum_up(beam, water, bone), rtol=TRANSMISSION_TOL)


def test_the_softest_beam_that_is_allowed_is_the_tables_hardest_case() -> None:
    beam = make_beam(50, aluminium_mm=MIN_ALUMINIUM_MM)
    water, bone = (x.ravel() for x in np.meshgrid(np.linspace(0, 1, 41), np.linspace(0, 0.3, 61)))
    water, bone = water.astype(np.float32), bone.astype(np.float32)
    found = np.exp(-look_up(beam, water, bone))[0]
    np.testing.assert_allclose(found, sum_up(beam, water, bone), rtol=TRANSMISSION_TOL)


@given(st.floats(20, 140), st.floats(0, 100), st.floats(0, 40))
def test_one_energy_gives_its_line_integral(kev: float, water: float, bone: float) -> None:
    mu = [find_mass_attenuations(m, np.array([kev]))[0] for m in ("water", "cortical_bone")]
    found = look_up(make_single_energy(kev), np.array([water]), np.array([bone]))
    # float32: of the table and of the place in it.
    assert found.item() == pytest.approx(mu[0] * water + mu[1] * bone, rel=2e-6, abs=2e-5)


def test_nothing_in_the_way_takes_nothing() -> None:
    beam = make_beam(125, aluminium_mm=3.0)
    assert look_up(beam, np.zeros(1), np.zeros(1)).item() == pytest.approx(0, abs=1e-6)


def test_beyond_the_end_of_the_table_its_end_holds() -> None:
    beam = make_beam(125, aluminium_mm=3.0)
    end = look_up(beam, np.array([100.0]), np.array([40.0]))
    assert look_up(beam, np.array([250.0]), np.array([90.0])) == end
    assert look_up(beam, np.array([-1.0]), np.array([0.0])) == look_up(
        beam, np.zeros(1), np.zeros(1)
    )


def test_a_thicker_body_hardens_the_beam() -> None:
    beam = make_beam(125, aluminium_mm=3.0)
    water = np.arange(0.0, 60.0)
    slopes = np.diff(look_up(beam, water, np.zeros_like(water))[0])
    assert (np.diff(slopes) < 1e-5).all()  # float32
    assert slopes[0] > 1.2 * slopes[-1]
