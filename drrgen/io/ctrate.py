"""File names of CT-RATE: they tell patient, scan and reconstruction, and the official split.

Source: Hamamci et al., arXiv 2403.17834 (CT-RATE), and the data set's own file list.
"""

import re
from dataclasses import dataclass

from drrgen.choices import Split

_NAME = re.compile(r"(train|valid)_(\d+)_([a-z]+)_(\d+)(\.nii(\.gz)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CtRateName:
    """What a file name of CT-RATE tells.

    Attributes:
        patient: Split and number of the patient: ``train_1``.
        scan: Patient and letter of the scan, which has one report: ``train_1_a``.
        reconstruction: Number of the reconstruction, from 1; all of a scan show the same.
        split: The official split; CT-RATE's ``valid`` is its test set.
    """

    patient: str
    scan: str
    reconstruction: int
    split: Split


def parse_ctrate_name(name: str) -> CtRateName | None:
    """Read a file name of CT-RATE, with or without its ending; None when it is no such name.

    Args:
        name: File name without folders.

    Example:
        >>> parse_ctrate_name("train_1_a_2.nii.gz").scan
        'train_1_a'
    """
    found = _NAME.fullmatch(name)
    if not found:
        return None
    split, patient, scan, reconstruction = found.group(1, 2, 3, 4)
    return CtRateName(
        patient=f"{split}_{patient}",
        scan=f"{split}_{patient}_{scan}",
        reconstruction=int(reconstruction),
        split=Split.TRAIN if split == "train" else Split.TEST,
    )
