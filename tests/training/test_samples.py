from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drrgen_training.reports import Template
from drrgen_training.samples import (
    Samples,
    plan_epoch,
    read_samples,
    replace_pictures,
    split_samples,
)
from drrgen_training.settings import KeyKind
from trainable import write_trainable

from drrgen.choices import View
from drrgen.errors import InputError, ManifestError


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return read_samples(write_trainable(tmp_path_factory.mktemp("d"), n=20, views=("PA", "LL")))


def make_samples(
    patient: list[int], study: list[int], volume: list[int], root: Path = Path("d")
) -> Samples:
    """Rows with these numbers and nothing else."""
    rows = tuple({"patient_id": f"p{p}", "sample_id": f"s{v}", "split": "train"}
                 for p, v in zip(patient, volume, strict=True))  # fmt: skip
    return Samples(
        root=root, fingerprint="f", rows=rows, patient=np.array(patient), study=np.array(study),
        volume=np.array(volume), report=np.full(len(rows), -1), texts=(),
    )  # fmt: skip


def test_rows_become_samples_and_equal_reports_one_text(samples: Samples) -> None:
    assert len(samples) == 40
    assert len(samples.volumes) == len(set(samples.patient)) == 20
    for i, row in enumerate(samples.rows):
        assert samples.texts[samples.report[i]].startswith("There is a")
        same = [j for j, other in enumerate(samples.rows) if other["text"] == row["text"]]
        assert set(samples.report[same]) == {samples.report[i]}
    assert len(samples.texts) < 20  # patients of one kind have one report


def test_views_and_templates_are_chosen(samples: Samples) -> None:
    chosen = read_samples(samples.root, template=Template.IMPRESSION, view=(View.LL,))
    assert {row["view"] for row in chosen.rows} == {"LL"}
    assert set(chosen.texts) == {"Mass on the left.", "Mass on the right."}
    assert (chosen.report < 0).sum() == 13  # "Not given."


def test_an_empty_choice_and_a_folder_without_a_manifest_are_told(
    samples: Samples, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no radiograph of RL among 40 rows"):
        read_samples(samples.root, view=(View.RL,))
    with pytest.raises(ManifestError, match="no finished manifest; run drrgen render"):
        read_samples(tmp_path)


def test_the_dev_patients_come_from_the_train_split_and_never_from_the_test(tmp_path: Path) -> None:
    splits = dict.fromkeys(range(8), "test")
    whole = read_samples(write_trainable(tmp_path, n=40, splits=splits))
    train, dev = split_samples(whole, dev_share=0.25)
    held = {row["patient_id"] for row in dev.rows}
    kept = {row["patient_id"] for row in train.rows}
    assert not held & kept
    assert held | kept == {f"p{i:03d}" for i in range(8, 40)}
    assert 2 <= len(held) <= 16
    again, _ = split_samples(whole, dev_share=0.25)
    assert [row["sample_id"] for row in again.rows] == [row["sample_id"] for row in train.rows]


def test_a_dev_split_of_the_manifest_is_kept(tmp_path: Path) -> None:
    whole = read_samples(write_trainable(tmp_path, n=12, splits={3: "dev", 4: "dev", 5: "test"}))
    train, dev = split_samples(whole, dev_share=0.5)
    assert {row["sample_id"] for row in dev.rows} == {"s003", "s004"}
    assert len(train) == 9


def test_an_empty_split_is_told_with_the_counts(tmp_path: Path) -> None:
    whole = read_samples(write_trainable(tmp_path, n=4, splits=dict.fromkeys(range(4), "test")))
    with pytest.raises(InputError, match=r"the train split of .* is empty: .*\{'test': 4\}"):
        split_samples(whole, dev_share=0.1)


@pytest.mark.parametrize("key", list(KeyKind))
def test_each_key_is_once_in_an_epoch(key: KeyKind) -> None:
    """Two patients, three studies, five reconstructions, of two views each."""
    volume = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    study, patient = [0, 0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    samples = make_samples(patient, study, volume)
    wanted = {KeyKind.PATIENT: 2, KeyKind.STUDY: 3, KeyKind.INSTANCE: 5}[key]
    for epoch in range(5):
        rows = np.concatenate(
            plan_epoch(samples, key=key, batch=2, seed=1, epoch=epoch, drop_rest=False)
        )
        assert len(rows) == wanted == len(set(samples.number(key)[rows]))


def test_reconstructions_and_views_have_equal_chances() -> None:
    """A study of a reconstruction with three views, and of one with a single view."""
    samples = make_samples([0] * 4, [0] * 4, [0, 0, 0, 1])
    drawn = [int(plan_epoch(samples, key=KeyKind.STUDY, batch=2, seed=0, epoch=e)[0][0])
             for e in range(1200)]  # fmt: skip
    shares = np.bincount(drawn, minlength=4) / 1200
    np.testing.assert_allclose(shares, [1 / 6, 1 / 6, 1 / 6, 1 / 2], atol=0.05)


def test_an_epoch_follows_from_seed_and_number_and_its_rest_is_left_out() -> None:
    samples = make_samples(list(range(10)), list(range(10)), list(range(10)))

    def draw(seed: int, epoch: int) -> list[list[int]]:
        planned = plan_epoch(samples, key=KeyKind.STUDY, batch=4, seed=seed, epoch=epoch)
        return [rows.tolist() for rows in planned]

    assert draw(1, 0) == draw(1, 0) != draw(1, 1)
    assert draw(1, 0) != draw(2, 0)
    assert [len(rows) for rows in draw(1, 0)] == [4, 4]
    few = make_samples([0, 1], [0, 1], [0, 1])
    assert len(plan_epoch(few, key=KeyKind.STUDY, batch=4, seed=0, epoch=0)[0]) == 2


def test_radiographs_of_another_data_set_stand_in_for_those_of_the_same_ct(tmp_path: Path) -> None:
    first = read_samples(write_trainable(tmp_path / "A", n=6, views=("PA", "LL")))
    other = read_samples(write_trainable(tmp_path / "B", n=4))
    swapped = replace_pictures(first, other)
    assert len(swapped) == 4 and {row["view"] for row in swapped.rows} == {"PA"}
    assert swapped.root == other.root and swapped.fingerprint != first.fingerprint
    assert [row["patient_id"] for row in swapped.rows] == [f"p{i:03d}" for i in range(4)]
    none = replace(other, rows=tuple(row | {"ct_ref": None} for row in other.rows))
    with pytest.raises(InputError, match="render the same CT with the same views"):
        replace_pictures(first, none)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"parts": [1], "fingerprint": "a"}'])
def test_a_damaged_summary_is_no_finished_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ManifestError, match="holds no finished manifest"):
        read_samples(tmp_path)
