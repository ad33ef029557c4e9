"""The presets: how far the tube stands, and which preset belongs to which view."""

from dataclasses import dataclass

from drrgen.choices import AcquisitionName, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """Distances of a usual way to take a chest radiograph.

    Attributes:
        sid_mm: Source to detector [mm].
        sod_mm: Source to isocenter [mm]; the rest is the patient's half thickness and the gap
            between the skin and the detector.
    """

    sid_mm: float
    sod_mm: float


# Source: Bontrager's Handbook of Radiographic Positioning and Techniques: erect chest at 72 in
# (1800 mm), mobile AP at 40 to 50 in. The middle of a chest lies 150 to 200 mm before the detector.
ACQUISITIONS = {
    AcquisitionName.PA_ERECT: Acquisition(sid_mm=1800.0, sod_mm=1630.0),
    AcquisitionName.LATERAL_ERECT: Acquisition(sid_mm=1800.0, sod_mm=1600.0),
    AcquisitionName.AP_MOBILE: Acquisition(sid_mm=1100.0, sod_mm=940.0),
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
