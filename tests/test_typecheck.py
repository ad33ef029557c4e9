"""The hints of drrgen are checked while tests run; this proves that the check is on."""

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from drrgen.geometry.detector import Detector
from drrgen.geometry.frames import transform_points
from drrgen.io.hounsfield import is_label_map

WRONG = (TypeCheckError, BeartypeCallHintViolation)


def test_a_wrong_shape_is_found() -> None:
    with pytest.raises(WRONG):
        transform_points(torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64))


def test_a_wrong_type_of_number_is_found() -> None:
    with pytest.raises(WRONG):
        is_label_map(np.zeros((2, 2, 2), dtype=np.float32))


def test_a_field_of_a_record_is_checked() -> None:
    with pytest.raises(WRONG):
        Detector(sid_mm="1800", pitch_mm=1.0, rows=1, columns=1)  # type: ignore[arg-type]


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert Detector(sid_mm=1800, pitch_mm=1, rows=1, columns=1).sid_mm == 1800
