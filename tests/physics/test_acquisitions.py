"""The presets: every view has one, and its distances are those of a radiology department."""

import pytest

from drrgen.choices import AcquisitionName, View
from drrgen.physics.acquisitions import ACQUISITIONS, find_acquisition

# Contract: erect views at 1800 mm; mobile AP at 1000 to 1270 mm; the middle of the chest 150 to
# 200 mm before the detector.
SID_RANGE = {
    AcquisitionName.PA_ERECT: (1800, 1800),
    AcquisitionName.LATERAL_ERECT: (1800, 1800),
    AcquisitionName.AP_MOBILE: (1000, 1270),
}


def test_every_named_acquisition_has_its_distances() -> None:
    assert set(ACQUISITIONS) == set(AcquisitionName)


@pytest.mark.parametrize("name", SID_RANGE)
def test_the_patient_stands_against_the_detector(name: AcquisitionName) -> None:
    acquisition = ACQUISITIONS[name]
    low, high = SID_RANGE[name]
    assert low <= acquisition.sid_mm <= high
    assert 150 <= acquisition.sid_mm - acquisition.sod_mm <= 200


@pytest.mark.parametrize(
    ("view", "name"),
    [("PA", "pa-erect"), ("AP", "ap-mobile"), ("LL", "lateral-erect"), ("RL", "lateral-erect")],
)
def test_every_view_has_its_usual_preset(view: str, name: str) -> None:
    assert find_acquisition(View(view)) == name


@pytest.mark.parametrize("name", ["pa-erect", "lateral-erect"])
def test_erect_views_are_those_of_the_european_guidelines(name: str) -> None:
    """EUR 16260: 125 kV, 3 mm Al at least, a grid, a spot of 1.3 mm at most, speed class 400."""
    acquisition = ACQUISITIONS[AcquisitionName(name)]
    assert acquisition.kvp == 125 and acquisition.grid
    assert acquisition.aluminium_mm >= 3.0
    assert acquisition.focal_spot_mm <= 1.3
    # A system of speed S needs 1000 uGy / S.
    assert acquisition.dose_ugy == pytest.approx(1000 / 400)


def test_a_mobile_view_has_no_grid_and_less_voltage() -> None:
    mobile = ACQUISITIONS[AcquisitionName.AP_MOBILE]
    assert not mobile.grid
    assert mobile.kvp < ACQUISITIONS[AcquisitionName.PA_ERECT].kvp
