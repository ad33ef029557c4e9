"""The presets: where the tube stands, what it sends, and which preset belongs to which view."""

from dataclasses import dataclass, replace

from drrgen.choices import AcquisitionName, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """A usual way to take a chest radiograph.

    Attributes:
        sid_mm: Source to detector [mm].
        sod_mm: Source to isocenter [mm]; the rest is the patient's half thickness and the gap
            between the skin and the detector.
        kvp: Tube voltage [kV].
        aluminium_mm: Total filtration [mm].
        copper_mm: Added copper [mm].
        grid: Whether an anti-scatter grid stands before the detector.
        focal_spot_mm: Width of the focal spot [mm].
        dose_ugy: Mean air kerma at the detector behind the body [uGy].
    """

    sid_mm: float
    sod_mm: float
    kvp: float
    aluminium_mm: float
    copper_mm: float
    grid: bool
    focal_spot_mm: float
    dose_ugy: float


# Source: European guidelines on quality criteria for diagnostic radiographic images, EUR 16260
# (chest, PA and lateral: 125 kV, 3.0 mm Al, 1800 mm, grid of ratio 10, focal spot 1.3 mm at most,
# speed class 400, which is 2.5 uGy); Bontrager's Handbook of Radiographic Positioning and
# Techniques (mobile AP: 40 to 50 in, no grid, lower voltage). The middle of a chest lies 150 to
# 200 mm before the detector.
_ERECT = Acquisition(
    sid_mm=1800.0, sod_mm=1630.0, kvp=125.0, aluminium_mm=3.0, copper_mm=0.0, grid=True,
    focal_spot_mm=1.2, dose_ugy=2.5,
)  # fmt: skip
ACQUISITIONS = {
    AcquisitionName.PA_ERECT: _ERECT,
    AcquisitionName.LATERAL_ERECT: replace(_ERECT, sod_mm=1600.0),
    AcquisitionName.AP_MOBILE: replace(
        _ERECT, sid_mm=1100.0, sod_mm=940.0, kvp=90.0, grid=False, focal_spot_mm=0.8
    ),
    # The baseline has no source and no beam (see renderer.mean_projection); no number is used.
    AcquisitionName.MEAN_PROJECTION: _ERECT,
}

_BY_VIEW = {
    View.PA: AcquisitionName.PA_ERECT,
    View.AP: AcquisitionName.AP_MOBILE,
    View.LL: AcquisitionName.LATERAL_ERECT,
    View.RL: AcquisitionName.LATERAL_ERECT,
}


def find_acquisition(view: View) -> AcquisitionName:
    """Name the preset that a view is usually taken with.

    Args:
        view: The named view.

    Example:
        >>> find_acquisition(View.PA).value
        'pa-erect'
    """
    return _BY_VIEW[view]
