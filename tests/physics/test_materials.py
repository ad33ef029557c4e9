"""From HU to attenuation: published numbers, air that is nothing, and a table that only rises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drrgen.errors import PhysicsError
from drrgen.physics.materials import (
    CT_KEV,
    Basis,
    find_mass_attenuation,
    find_mass_attenuations,
    find_mu,
    make_attenuation_basis,
    make_material_basis,
)

PUBLISHED_TOL = 1e-6  # the published tables have four digits, and are shipped as they are
OTHER_SOURCE_TOL = 0.003  # two evaluations of the same cross-sections; straight lines miss by 4 %
KEV = st.floats(10, 150)


def make_basis(**changes: object) -> Basis:
    settings = {
        "names": ("mu",),
        "knots_hu": np.array([-1000.0, 0.0]),
        "amounts": np.array([[0.0, 0.02]]),
        **changes,
    }
    return Basis(**settings)  # type: ignore[arg-type]


def look_up(basis: Basis, hu: int) -> float:
    return float(basis.tabulate()[0, hu + 32768])


@pytest.mark.parametrize(
    ("material", "kev", "published"),
    [  # NISTIR 5632, table 4, mu/rho [cm2/g]
        ("water", 10.0, 5.329),
        ("water", 30.0, 0.3756),
        ("water", 60.0, 0.2059),
        ("water", 80.0, 0.1837),
        ("water", 150.0, 0.1505),
        ("cortical_bone", 10.0, 28.51),
        ("cortical_bone", 40.0, 0.6655),
        ("cortical_bone", 60.0, 0.3148),
        ("cortical_bone", 100.0, 0.1855),
        ("cortical_bone", 150.0, 0.1480),
    ],
)
def test_mass_attenuation_is_the_published_one(material: str, kev: float, published: float) -> None:
    assert find_mass_attenuation(material, kev) == pytest.approx(published, rel=PUBLISHED_TOL)


@pytest.mark.parametrize(
    ("material", "kev", "elsewhere"),
    [  # xraydb 4.5.8: Elam, Ravel and Sieber, Radiation Physics and Chemistry 63:121-128, 2002
        ("water", 25.0, 0.5082),
        ("water", 35.0, 0.3075),
        ("water", 70.0, 0.1929),
        ("water", 125.0, 0.1593),
        ("aluminium", 25.0, 1.836),
        ("aluminium", 35.0, 0.7696),
        ("aluminium", 70.0, 0.2301),
        ("aluminium", 125.0, 0.1502),
        ("copper", 25.0, 18.2),
        ("copper", 70.0, 1.064),
    ],
)
def test_between_the_tabulated_energies_attenuation_agrees_with_another_source(
    material: str, kev: float, elsewhere: float
) -> None:
    assert find_mass_attenuation(material, kev) == pytest.approx(elsewhere, rel=OTHER_SOURCE_TOL)


def test_linear_attenuation_is_per_millimetre() -> None:
    assert find_mu("water", 60.0) == pytest.approx(0.02059, rel=PUBLISHED_TOL)
    # Cortical bone weighs 1.92 g/cm3.
    assert find_mu("cortical_bone", 60.0) == pytest.approx(0.3148 * 1.92 / 10, rel=PUBLISHED_TOL)


@settings(max_examples=30, deadline=None)
@given(KEV, KEV)
def test_attenuation_never_rises_with_energy(a: float, b: float) -> None:
    low, high = sorted((a, b))
    for material in ("water", "cortical_bone"):
        assert find_mu(material, high) <= find_mu(material, low)


@pytest.mark.parametrize("material", ["adamantium", "kev", ""])
def test_an_unknown_material_is_refused(material: str) -> None:
    with pytest.raises(PhysicsError, match="unknown material"):
        find_mass_attenuation(material, 60.0)
    with pytest.raises(PhysicsError, match="unknown material"):
        find_mu(material, 60.0)


@pytest.mark.parametrize("kev", [9.9, 150.1, 0.0, -60.0, float("nan"), float("inf")])
def test_an_energy_outside_the_tables_is_refused(kev: float) -> None:
    with pytest.raises(PhysicsError, match="kev"):
        make_attenuation_basis(kev)


@settings(max_examples=10, deadline=None)
@given(KEV)
def test_water_is_zero_hu_and_air_and_all_below_is_exactly_nothing(kev: float) -> None:
    basis = make_attenuation_basis(kev)
    assert look_up(basis, 0) == pytest.approx(find_mu("water", kev), rel=1e-6)  # float32
    assert look_up(basis, -500) == pytest.approx(find_mu("water", kev) / 2, rel=1e-6)
    for hu in (-1000, -1001, -1024, -2048, -32768):
        assert look_up(basis, hu) == 0.0


@settings(max_examples=10, deadline=None)
@given(KEV)
def test_attenuation_rises_from_air_to_metal_without_a_step(kev: float) -> None:
    row = make_attenuation_basis(kev).tabulate()[0].astype(np.float64)
    tissue = row[-1000 + 32768 : 3000 + 32768 + 1]
    steps = np.diff(tissue)
    # At any energy of the table bone attenuates more than water, so the upper slope rises too.
    assert (steps > 0).all()
    assert steps.max() < 0.02 * tissue[-1]


def test_cortical_bone_stands_at_the_hu_that_its_attenuation_in_a_ct_gives() -> None:
    """HU are defined by attenuation at the CT's energy, so at that energy the scale is one line."""
    ct_kev = 70.0
    basis = make_attenuation_basis(ct_kev)
    water, bone = find_mu("water", ct_kev), find_mu("cortical_bone", ct_kev)
    bone_hu = round(1000 * (bone / water - 1))
    assert look_up(basis, bone_hu) == pytest.approx(bone, rel=1e-3)  # HU are whole numbers
    assert look_up(basis, 1000) == pytest.approx(2 * water, rel=1e-5)


def test_bone_stands_out_more_at_a_low_energy() -> None:
    contrast = {
        kev: look_up(make_attenuation_basis(kev), 1000) / look_up(make_attenuation_basis(kev), 0)
        for kev in (40.0, 60.0, 100.0)
    }
    assert contrast[40.0] > contrast[60.0] > contrast[100.0] > 1


def test_metal_is_clamped_at_3000_hu() -> None:
    basis = make_attenuation_basis(60.0)
    assert look_up(basis, 2999) < look_up(basis, 3000)
    assert look_up(basis, 3000) == look_up(basis, 3001) == look_up(basis, 32767)


def test_the_table_has_an_entry_for_every_int16_in_order() -> None:
    basis = make_basis(
        names=("a", "b"),
        knots_hu=np.array([-32768.0, 32767.0]),
        amounts=np.array([[-32768.0, 32767.0], [0.0, 65535.0]]),
    )
    table = basis.tabulate()
    assert table.shape == (2, 65536)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table[0], np.arange(-32768, 32768), rtol=1e-6)
    np.testing.assert_allclose(table[1], np.arange(65536), rtol=1e-6)


def test_outside_its_knots_a_basis_holds_its_end_values() -> None:
    basis = make_basis(knots_hu=np.array([-10.0, 10.0]), amounts=np.array([[3.0, 5.0]]))
    values = [look_up(basis, hu) for hu in (-32768, -11, -10, 0, 10, 11, 32767)]
    assert values == pytest.approx([3, 3, 3, 4, 5, 5, 5])


def test_a_single_knot_is_a_constant() -> None:
    basis = make_basis(knots_hu=np.array([7.0]), amounts=np.array([[0.5]]))
    assert (basis.tabulate() == 0.5).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"names": ()},
        {"names": ("a", "b")},
        {"amounts": np.array([[0.0, np.nan]])},
        {"knots_hu": np.array([-np.inf, 0.0])},
        {"knots_hu": np.array([0.0, -1000.0])},
        {"knots_hu": np.array([0.0, 0.0])},
        {"knots_hu": np.empty(0), "amounts": np.empty((1, 0))},
    ],
)
def test_a_table_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PhysicsError):
        make_basis(**changes)


FLOAT32_TOL = 1e-6  # the table is stored as float32


def attenuate(kev: float) -> np.ndarray:
    """What the material basis makes of every int16 HU at one energy [1/mm]."""
    energy = np.array([kev])
    mass = [find_mass_attenuations(m, energy)[0] for m in ("water", "cortical_bone")]
    return np.array(mass) @ make_material_basis().tabulate().astype(np.float64)


def at(hu: int) -> int:
    return hu + 32768


def test_the_material_basis_is_exact_at_the_energy_of_the_ct() -> None:
    """HU are defined by attenuation there, so both must agree for every HU up to metal."""
    mu = attenuate(CT_KEV)[at(-1000) : at(3000) + 1]
    wanted = find_mu("water", CT_KEV) * (1 + np.arange(-1000, 3001) / 1000)
    np.testing.assert_allclose(mu, wanted, rtol=FLOAT32_TOL, atol=1e-12)


@pytest.mark.parametrize("kev", range(20, 141, 10))
def test_the_material_basis_rises_without_a_step_at_every_energy(kev: int) -> None:
    mu = attenuate(float(kev))[at(-1000) : at(3000) + 1]
    steps = np.diff(mu)
    assert (steps > 0).all()
    # From bone upwards a HU is worth more than below, at 20 keV some ten times as much.
    assert steps.max() < 0.02 * find_mu("water", float(kev))


def test_the_material_basis_makes_nothing_of_air_and_holds_metal() -> None:
    table = make_material_basis().tabulate()
    assert (table[:, : at(-1000) + 1] == 0).all()
    assert (table[:, at(3000) :] == table[:, [at(3000)]]).all()
    assert (table >= 0).all()


def test_soft_tissue_up_to_100_hu_holds_no_bone_and_cortical_bone_no_water() -> None:
    soft, bone = make_material_basis().tabulate()
    assert (bone[: at(100) + 1] == 0).all()
    assert soft[at(40)] == pytest.approx(0.104, rel=FLOAT32_TOL)  # g/cm2 in a millimetre
    cortical = at(round(1000 * (find_mu("cortical_bone", CT_KEV) / find_mu("water", CT_KEV) - 1)))
    assert soft[cortical] == pytest.approx(0, abs=1e-4)  # HU are whole numbers
    assert bone[cortical] == pytest.approx(0.192, rel=1e-3)
