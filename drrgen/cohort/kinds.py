"""What can be planted, what it is called, and which labels it makes true."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A finding that a virtual patient can have; the order is the order of planting."""

    EMPHYSEMA = "emphysema"
    GROUND_GLASS = "ground_glass_opacity"
    CONSOLIDATION = "consolidation"
    ATELECTASIS = "atelectasis"
    PNEUMOTHORAX = "pneumothorax"
    PLEURAL_EFFUSION = "pleural_effusion"
    CARDIOMEGALY = "cardiomegaly"
    PERICARDIAL_EFFUSION = "pericardial_effusion"
    HIATAL_HERNIA = "hiatal_hernia"
    LYMPHADENOPATHY = "lymphadenopathy"
    MASS = "mass"
    NODULE = "nodule"
    CORONARY_CALCIFICATION = "coronary_calcification"
    AORTIC_CALCIFICATION = "aortic_calcification"
    MEDICAL_MATERIAL = "medical_material"


class Side(StrEnum):
    """The patient's side."""

    LEFT = "left"
    RIGHT = "right"


# The 18 labels of CT-RATE in their order, then our own.
CTRATE_LABELS = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema",
    "Atelectasis", "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion",
    "Mosaic attenuation pattern", "Peribronchial thickening", "Consolidation", "Bronchiectasis",
    "Interlobular septal thickening",
)  # fmt: skip
OWN_LABELS = ("Ground-glass opacity", "Lung mass", "Pneumothorax")
# An opacity is any parenchymal density larger than a nodule (Hansell et al., Radiology 246:697).
LABELS_OF: dict[Kind, tuple[str, ...]] = {
    Kind.EMPHYSEMA: ("Emphysema",),
    Kind.GROUND_GLASS: ("Lung opacity", "Ground-glass opacity"),
    Kind.CONSOLIDATION: ("Lung opacity", "Consolidation"),
    Kind.ATELECTASIS: ("Atelectasis",),
    Kind.PNEUMOTHORAX: ("Pneumothorax",),
    Kind.PLEURAL_EFFUSION: ("Pleural effusion",),
    Kind.CARDIOMEGALY: ("Cardiomegaly",),
    Kind.PERICARDIAL_EFFUSION: ("Pericardial effusion",),
    Kind.HIATAL_HERNIA: ("Hiatal hernia",),
    Kind.LYMPHADENOPATHY: ("Lymphadenopathy",),
    Kind.MASS: ("Lung opacity", "Lung mass"),
    Kind.NODULE: ("Lung nodule",),
    Kind.CORONARY_CALCIFICATION: ("Coronary artery wall calcification",),
    Kind.AORTIC_CALCIFICATION: ("Arterial wall calcification",),
    Kind.MEDICAL_MATERIAL: ("Medical material",),
}
MODELED_LABELS = frozenset(label for labels in LABELS_OF.values() for label in labels)
ALL_LABELS = CTRATE_LABELS + OWN_LABELS
MOST_OF_A_KIND = 9


def number_mask(kind: Kind, ordinal: int) -> int:
    """Number a finding in the label maps: the same for every patient.

    Args:
        kind: What it is.
        ordinal: Counted from 1 among those of its kind.

    Example:
        >>> number_mask(Kind.GROUND_GLASS, 2)
        22
    """
    return 10 * (1 + list(Kind).index(kind)) + ordinal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A finding as it is planned, in the anatomy of the real CT.

    Attributes:
        kind: What it is.
        amount: Diameter [mm] of nodules, masses, opacities, nodes, hernias, plates; volume [ml]
            of pleural fluid; thickness [mm] of pericardial fluid; share of the lung or side of
            emphysema, pneumothorax and lost lobes; logarithm of the heart's scale; number of
            plaques.
        side: Which side, where it has one.
        place: Lobe, lymph node station or artery.
        variant: Which form of it.
        seed: Seed of its place and texture.
        course: Factor on the amount at every scan; 0 where it is not there.
    """

    kind: Kind
    amount: float
    side: Side | None = None
    place: str = ""
    variant: str = ""
    seed: int = 0
    course: tuple[float, ...] = (1.0,)
