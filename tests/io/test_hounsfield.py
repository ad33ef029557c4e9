"""Numbers become HU: whole ones exactly, doubtful ones not at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drrgen.errors import Reason, VolumeError
from drrgen.io.hounsfield import check_hounsfield, is_label_map, to_hu
from drrgen.phantoms import make_torso

KINDS = st.sampled_from(["<i2", ">i2", "<u2", ">u2", "u1", "i1", "<i4", ">u4", "<i8", ">u8"])


@given(
    stored=KINDS.flatmap(lambda kind: hnp.arrays(kind, (2, 3, 4))),
    slope=st.integers(1, 4),
    intercept=st.integers(-5000, 5000),
)
def test_whole_numbers_are_exact_or_clipped_with_a_warning(
    stored: np.ndarray, slope: int, intercept: int
) -> None:
    hu, words = to_hu(stored, slope=slope, intercept=intercept)
    exact = np.array([int(v) * slope + intercept for v in stored.ravel()], dtype=object)
    assert hu.ravel().tolist() == np.clip(exact, -32768, 32767).tolist()
    fits = exact.min() >= -32768 and exact.max() <= 32767
    assert words == (() if fits else ("hu_clipped",))
    assert hu.flags.c_contiguous and hu.dtype == np.int16


@pytest.mark.parametrize("kind", ["i8", "u8"])
def test_the_largest_numbers_of_64_bits_are_clipped_and_do_not_wrap(kind: str) -> None:
    stored = np.full((1, 1, 2), np.iinfo(kind).max, kind)
    stored[0, 0, 0] = np.iinfo(kind).min
    hu, words = to_hu(stored, slope=4, intercept=-1024)
    assert hu.ravel().tolist() == [-32768 if kind == "i8" else -1024, 32767]
    assert words == ("hu_clipped",)


def test_int16_without_a_scale_is_not_copied() -> None:
    stored = np.zeros((2, 3, 4), np.int16)
    assert np.shares_memory(to_hu(stored)[0], stored)


def test_fractions_are_rounded_to_the_nearest() -> None:
    stored = np.array([[[-1000.6, -0.4, 0.4, 99.7]]])
    assert to_hu(stored)[0].ravel().tolist() == [-1001, 0, 0, 100]


def test_a_ct_is_no_label_map_with_or_without_an_offset() -> None:
    hu = make_torso(spacing_mm=8.0).hu
    assert not is_label_map(hu)
    noise = np.random.default_rng(0).integers(0, 200, (20, 20, 20)).astype(np.int16)
    assert not is_label_map(noise)


def test_structures_are_a_label_map() -> None:
    labels = np.zeros((20, 20, 20), np.int16)
    labels[5:10, 5:10, 5:10] = 3
    assert is_label_map(labels)
    labels[0, 0, 1] = -1  # between the voxels of the first glance
    assert not is_label_map(labels)


def test_values_without_air_are_refused_and_an_offset_is_named() -> None:
    check_hounsfield(make_torso(spacing_mm=8.0).hu)
    with pytest.raises(VolumeError, match=r"HU \+ 1024") as caught:
        check_hounsfield((make_torso(spacing_mm=8.0).hu + 1024).astype(np.int16))
    assert caught.value.code is Reason.HU_SUSPECT
