import json
from pathlib import Path

import numpy as np
import pytest
import torch
from drrgen_training.pictures import (
    Fit,
    PackSettings,
    PictureFiles,
    PicturePack,
    augment,
    describe_pictures,
    make_square,
    open_pictures,
    shrink,
)
from drrgen_training.samples import Samples, read_samples
from drrgen_training.shards import Packed, read_head, write_shards
from drrgen_training.volumes import (
    CTPlaces,
    describe_volumes,
    find_places,
    shift_volumes,
)
from trainable import write_trainable

from drrgen.errors import InputError, ManifestError, VolumeError

SMALL = PackSettings(size=32)
SHARD = 32 * 32 * 5  # five pictures


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("d")
    write_trainable(root, n=12, with_ct=True)
    return root


@pytest.fixture(scope="module")
def samples(root: Path) -> Samples:
    return read_samples(root / "CXR")


def pack(samples: Samples, to: Path, settings: PackSettings = SMALL) -> list[Packed]:
    return list(write_shards(describe_pictures(samples, settings), to, shard_bytes=SHARD))


def test_a_pack_holds_what_reading_the_files_gives(samples: Samples, tmp_path: Path) -> None:
    last = pack(samples, tmp_path)[-1]
    assert (last.done, last.kept, last.total) == (12, 0, 12)
    assert len(list(tmp_path.glob("pictures-*.npy"))) == 3
    rows = np.array([11, 0, 5, 5])
    found = PicturePack(tmp_path, samples).read(rows)
    assert found.dtype == torch.uint8 and found.float().std() > 10
    assert torch.equal(found, PictureFiles(samples, SMALL).read(rows))


def test_a_part_of_the_samples_finds_its_own_pictures(samples: Samples, tmp_path: Path) -> None:
    pack(samples, tmp_path)
    part = samples.take(np.array([7, 2]))
    whole = PicturePack(tmp_path, samples).read(np.array([7, 2]))
    assert torch.equal(open_pictures(part, tmp_path, 99).read(np.arange(2)), whole)


def test_packing_goes_on_where_it_was_interrupted(samples: Samples, tmp_path: Path) -> None:
    steps = write_shards(describe_pictures(samples, SMALL), tmp_path, shard_bytes=SHARD)
    next(steps)
    next(steps)
    steps.close()  # in the middle: the first shard is whole, there is no pack yet
    with pytest.raises(ManifestError, match="no finished pack of pictures; run drrgen pack"):
        PicturePack(tmp_path, samples)
    first = (tmp_path / "pictures-00000.npy").stat().st_mtime_ns
    last = pack(samples, tmp_path)[-1]
    assert last.kept >= 5 and last.kept + last.done == 12
    assert (tmp_path / "pictures-00000.npy").stat().st_mtime_ns == first
    assert pack(samples, tmp_path)[-1].kept == 12
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["pictures.json", "pictures.parquet", "pictures-00000.npy"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"version": 1}'])
def test_a_damaged_pack_is_refused(
    samples: Samples, tmp_path: Path, name: str, content: bytes | None
) -> None:
    list(write_shards(describe_pictures(samples, PackSettings(size=32)), tmp_path))
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match="run drrgen pack"):
        open_pictures(samples, tmp_path, 32)


def test_a_changed_picture_is_packed_again(samples: Samples, tmp_path: Path) -> None:
    pack(samples, tmp_path)
    rows = tuple(
        row | {"cxr_sha256": "other"} if i == 6 else row for i, row in enumerate(samples.rows)
    )
    fields = {name: getattr(samples, name) for name in Samples.__slots__}
    changed = Samples(**fields | {"rows": rows})
    with pytest.raises(
        ManifestError, match="lacks 1 of 12 pictures, or has older ones, such as s006"
    ):
        PicturePack(tmp_path, changed)
    assert pack(changed, tmp_path)[-1].done == 5  # its shard
    PicturePack(tmp_path, changed)


def test_another_size_is_refused_and_fewer_shards_leave_none_behind(
    samples: Samples, tmp_path: Path
) -> None:
    pack(samples, tmp_path)
    with pytest.raises(ManifestError, match="give another folder, or remove it"):
        pack(samples, tmp_path, PackSettings(size=64))
    pack(samples.take(np.arange(5)), tmp_path)
    assert [p.name for p in sorted(tmp_path.glob("pictures-*"))] == [
        "pictures-00000.json", "pictures-00000.npy"
    ]  # fmt: skip
    head = json.loads((tmp_path / "pictures.json").read_text())
    (tmp_path / "pictures.json").write_text(json.dumps(head | {"version": 0}))
    with pytest.raises(ManifestError, match="pack of version 0, wanted 1"):
        read_head(tmp_path, "pictures")


def test_a_picture_becomes_a_square_with_all_of_it_or_its_middle() -> None:
    grey = torch.zeros(40, 80)
    grey[:, 30:50] = 1.0
    padded = make_square(grey, PackSettings(size=32))
    assert not padded[:8].any() and not padded[24:].any()
    assert (padded[9:23, 14:18] == 255).all()
    cut = make_square(grey, PackSettings(size=32, fit=Fit.CROP))
    assert (cut[:, 12:20] == 255).all() and not cut[:, :4].any()
    with pytest.raises(InputError, match="wanted 16 to 4096"):
        PackSettings(size=8)


def test_a_path_out_of_the_data_set_is_refused(samples: Samples) -> None:
    rows = (samples.rows[0] | {"cxr_path": "../secret.png"},)
    fields = {name: getattr(samples.take(np.array([0])), name) for name in Samples.__slots__}
    with pytest.raises(ManifestError, match="wanted a path under its own folder"):
        PictureFiles(Samples(**fields | {"rows": rows}), SMALL)


def test_augmentation_is_repeatable_and_never_mirrors() -> None:
    picture = torch.zeros(1, 64, 64, dtype=torch.uint8)
    picture[:, :, 40:60] = 200  # right of the middle
    batch = picture.repeat(64, 1, 1)

    def vary(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return augment(batch, 48, crop=0.3, brightness=0.1, contrast=0.2, generator=generator)

    made = vary(0)
    assert made.shape == (64, 48, 48) and made.dtype == torch.uint8
    assert torch.equal(made, vary(0)) and not torch.equal(made, vary(1))
    assert not torch.equal(made[0], made[1])
    assert (made[:, :, 24:].float().mean((1, 2)) > made[:, :, :24].float().mean((1, 2))).all()


def test_without_chance_augmentation_only_resamples() -> None:
    batch = torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8)
    still = augment(
        batch, 32, crop=0, brightness=0, contrast=0, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(still, batch)
    assert shrink(batch, 32) is batch
    assert shrink(batch, 16).shape == (3, 16, 16)


def test_packed_ct_are_what_the_encoder_prepares(
    root: Path, samples: Samples, tmp_path: Path
) -> None:
    places = find_places(samples.root, root / "CT")
    content = describe_volumes(samples.volumes, places, "tiny3d")
    assert list(write_shards(content, tmp_path))[-1].done == 12
    made = content.read(3)
    assert made.shape == content.shape and made.max() > 150 > 50 > np.median(made)
    assert read_head(tmp_path, "volumes")["settings"]["encoder"] == "tiny3d"


def test_shifted_ct_keep_their_voxels_and_take_in_air() -> None:
    volumes = torch.full((40, 8, 10, 20), 9, dtype=torch.uint8)
    made = shift_volumes(volumes, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(made, shift_volumes(volumes, 0.25, torch.Generator().manual_seed(0)))
    filled = [(each == 9).nonzero() for each in made]
    spans = torch.stack([f.max(0).values - f.min(0).values + 1 for f in filled])
    assert all(len(f) == span.prod() for f, span in zip(filled, spans, strict=True))  # still boxes
    assert spans.min(0).values.tolist() == [6, 8, 15]  # up to a quarter of 8, 10 and 20 is lost
    assert spans.max(0).values.tolist() == [8, 10, 20]
    still = shift_volumes(volumes, 0.01, torch.Generator().manual_seed(0))
    assert torch.equal(still, volumes)


def test_a_ct_whose_place_or_scale_nobody_tells_is_told(root: Path, samples: Samples) -> None:
    with pytest.raises(InputError, match="give the folder that drrgen render read with --ct-dir"):
        CTPlaces(root=None).find(samples.rows[0])
    with pytest.raises(InputError, match="s000 has no CT"):
        CTPlaces(root=root).find(samples.rows[0] | {"ct_ref": None})
    blank = samples.rows[0] | {"hu_source": "csv"}
    with pytest.raises(VolumeError, match="give the metadata CSV with --metadata"):
        CTPlaces(root=root / "CT").read(blank)
    table = root / "metadata.csv"
    table.write_text(
        "VolumeName,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing\n"
        's000.nii.gz,1,0,"[8.0, 8.0]",8.0\n'
    )
    told = find_places(samples.root, root / "CT", table)
    assert told.read(blank).spacing_zyx_mm == pytest.approx((8, 8, 8))
    table.write_text("VolumeName,Slope\na,1\n")
    with pytest.raises(InputError, match="has the columns VolumeName, Slope; wanted"):
        find_places(samples.root, root / "CT", table)
