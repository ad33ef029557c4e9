"""Numbers become HU: whole ones exactly, doubtful ones not at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drrgen.errors import Reason, VolumeError
from drrgen.io.hounsfield import (
    PADDING_HU,
    PADDING_TO_AIR,
    HuScale,
    check_hounsfield,
    clean_hu,
    is_label_map,
    judge_hounsfield,
    to_hu,
)
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


# Hazards 13, 14, 16, 25 and 35: what the histogram tells.


def add_noise(hu: np.ndarray, sigma: float = 20.0) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, hu.shape)
    return np.clip(hu + noise, -1024, 3071).astype(np.int16)


def make_chest() -> np.ndarray:
    return add_noise(make_torso(spacing_mm=8.0).hu)


@pytest.mark.hazard(13, "HU + 1024, whose rescale was never applied: hu_suspect, with what to do")
@pytest.mark.hazard(14, "CT-RATE's first files, HU + 8192: hu_suspect, pointing at the CSV")
@pytest.mark.parametrize("offset", [1024, 1000, 8192])
@pytest.mark.parametrize("padding", [None, -2000, -1024, 0])
def test_a_missing_rescale_is_told_by_where_air_and_tissue_lie(
    offset: int, padding: int | None
) -> None:
    hu = make_chest() + np.int16(offset)
    if padding is not None:
        hu[:, :6] = hu[:, -6:] = padding
    verdict = judge_hounsfield(hu)
    assert verdict.scale is HuScale.OFFSET and abs(verdict.offset - offset) <= 24
    assert clean_hu(hu) == ()
    with pytest.raises(VolumeError, match="metadata CSV") as caught:
        check_hounsfield(hu)
    assert caught.value.code is Reason.HU_SUSPECT


@pytest.mark.hazard(14, "CT-RATE's fixed files with the CSV's rescale on top: hu_double_rescaled")
@pytest.mark.parametrize("offset", [-1024, -1000, -8192])
def test_a_rescale_applied_twice_is_told_from_padding(offset: int) -> None:
    hu = make_chest() + np.int16(offset)
    before = hu.copy()
    assert clean_hu(hu) == () and np.array_equal(hu, before)
    with pytest.raises(VolumeError, match="twice") as caught:
        check_hounsfield(hu)
    assert caught.value.code is Reason.HU_DOUBLE_RESCALED


def make_other(kind: str) -> np.ndarray:
    chest = make_chest().astype(np.float32)
    rng = np.random.default_rng(2)
    match kind:
        case "normalized":
            return np.rint(np.clip((chest + 1000) / 2000, 0, 1)).astype(np.int16)
        case "8 bits":
            return (np.clip((chest + 1000) / 2000, 0, 1) * 255).astype(np.int16)
        case "PET":
            return rng.exponential(400, chest.shape).astype(np.int16)
        case "noise":
            return rng.integers(-32768, 32767, chest.shape).astype(np.int16)
        case "wrong byte order":
            return make_chest().byteswap()
        case "inverted":
            return (-chest).astype(np.int16)
        case "water":
            return np.zeros(chest.shape, np.int16)
        case "air":
            return np.full(chest.shape, -1000, np.int16)
        case _:
            return np.full(chest.shape, 32767, np.int16)


@pytest.mark.hazard(25, "what is no CT at all, in a format without a modality: hu_suspect")
@pytest.mark.hazard(35, "NRRD and MetaImage have no rescale: the histogram decides")
@pytest.mark.parametrize(
    "kind",
    ["normalized", "8 bits", "PET", "noise", "wrong byte order", "inverted", "water", "air", "top"],
)
def test_other_values_are_refused(kind: str) -> None:
    with pytest.raises(VolumeError) as caught:
        check_hounsfield(make_other(kind))
    assert caught.value.code is Reason.HU_SUSPECT


@pytest.mark.hazard(26, "contrast, metal and thick bone are honest CT")
@pytest.mark.parametrize("extra", [(400, 0.08), (3071, 0.01), (20000, 0.002), (1200, 0.04)])
def test_contrast_and_metal_are_honest(extra: tuple[int, float]) -> None:
    hu = make_chest()
    value, share = extra
    inside = np.flatnonzero(hu > -100)
    hu.reshape(-1)[inside[: int(share * hu.size)]] = value
    check_hounsfield(hu)
    assert clean_hu(hu) == ()


@pytest.mark.parametrize("spacing_mm", [16.0, 8.0, 4.0])
def test_the_phantom_is_an_honest_ct_at_any_spacing(spacing_mm: float) -> None:
    check_hounsfield(make_torso(spacing_mm=spacing_mm).hu)


def test_a_chest_cut_to_its_lungs_and_one_in_a_wide_field_are_honest() -> None:
    hu = make_chest()
    check_hounsfield(hu[:, 5:-5, 8:-8])
    check_hounsfield(np.pad(hu, ((0, 0), (40, 40), (40, 40)), constant_values=-2048))


@pytest.mark.hazard(34, "HU clipped to [-1000, 1000]: hu_clipped, bone is flat there")
@pytest.mark.parametrize("top", [1000, 1023, 1024])
def test_bone_cut_off_at_a_round_number_is_a_warning(top: int) -> None:
    hu = make_chest()
    inside = np.flatnonzero(hu > 300)
    hu.reshape(-1)[inside] = 300 + np.random.default_rng(3).integers(0, 1500, len(inside))
    assert clean_hu(hu.copy()) == ()
    assert clean_hu(np.clip(hu, -1000, top)) == ("hu_clipped",)


@pytest.mark.hazard(16, "padding: to air where the values are HU beyond doubt, and counted")
def test_noise_of_air_stays_and_padding_goes(caplog: pytest.LogCaptureFixture) -> None:
    hu = make_chest()
    assert clean_hu(hu) == ()
    hu[:, 0] = -3024
    with caplog.at_level("DEBUG", logger="drrgen"):
        assert clean_hu(hu) == (PADDING_TO_AIR,)
    assert f"turned {hu[:, 0].size} voxels" in caplog.text
    assert (hu[:, 0] == PADDING_HU).all()


def test_a_label_map_passes_through_untouched() -> None:
    labels = np.zeros((20, 20, 20), np.int16)
    labels[5:10, 5:10, 5:10] = 90
    before = labels.copy()
    assert clean_hu(labels) == () and np.array_equal(labels, before)


def test_blocks_cover_every_slice() -> None:
    stored = np.arange(3 * 1100 * 1000, dtype=np.int32).reshape(3, 1100, 1000) % 5000
    assert np.array_equal(to_hu(stored)[0], stored)
