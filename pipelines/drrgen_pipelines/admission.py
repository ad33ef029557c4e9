"""What every CT must pass before it is rendered, whatever its format."""

from drrgen.anatomy.body import Body, find_body
from drrgen.anatomy.coverage import check_height
from drrgen.choices import OnTilt
from drrgen.errors import Reason, VolumeError
from drrgen.io.hounsfield import check_hounsfield
from drrgen.volume import CTVolume


def admit(volume: CTVolume, on_tilt: OnTilt = OnTilt.REGRID) -> Body:
    """Refuse a CT that cannot be rendered; find the patient in one that can.

    Args:
        volume: The CT.
        on_tilt: What to do with a gantry that was tilted.

    Raises:
        VolumeError: ``hu_suspect``, ``coverage_short``, ``tilt_refused`` or ``empty_body``.
    """
    check_height(volume)
    check_hounsfield(volume.hu)
    tilt = volume.source.tilt_deg if volume.source else None
    if tilt is not None and on_tilt is OnTilt.REFUSE:
        raise VolumeError(
            Reason.TILT_REFUSED,
            "",
            f"the gantry was tilted by {tilt:.1f} degrees, and on_tilt is refuse",
            remedy="set on_tilt = regrid to have it straightened",
        )
    return find_body(volume)
