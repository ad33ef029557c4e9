"""Names of CT-RATE, as its file list has them."""

import pytest

from drrgen.choices import Split
from drrgen.io.ctrate import CtRateName, parse_ctrate_name


@pytest.mark.hazard(36, "CT-RATE: patient, scan and reconstruction are told apart by the name")
@pytest.mark.parametrize("ending", ["", ".nii", ".nii.gz"])
def test_a_name_tells_patient_scan_reconstruction_and_split(ending: str) -> None:
    assert parse_ctrate_name(f"train_1_a_1{ending}") == CtRateName(
        patient="train_1", scan="train_1_a", reconstruction=1, split=Split.TRAIN
    )
    assert parse_ctrate_name(f"valid_1304_b_2{ending}") == CtRateName(
        patient="valid_1304", scan="valid_1304_b", reconstruction=2, split=Split.TEST
    )


@pytest.mark.parametrize(
    "name", ["", "train_1_a", "train_a_1_1", "test_1_a_1.nii.gz", "train_1_a_1.nrrd", "train_1_a_1_2",
             "xtrain_1_a_1.nii.gz", "train_1_a_1.nii.gz\n"]
)  # fmt: skip
def test_other_names_are_none(name: str) -> None:
    assert parse_ctrate_name(name) is None
