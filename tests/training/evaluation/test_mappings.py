from pathlib import Path

import numpy as np
import pytest
from drrgen_training.evaluation.mappings import join_labels, read_mapping
from drrgen_training.shipped import list_shipped

from drrgen.errors import ConfigError, InputError

SIZES = {"ct-rate": 18, "mimic-ct": 11, "rad-chestct-15": 15, "rad-chestct-9": 9,
         "rad-chestct-16": 16}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SIZES))
def test_the_shipped_mappings_take_the_labels_of_ct_rate(name: str) -> None:
    assert set(list_shipped("mappings")) == set(SIZES)
    mapping, ct_rate = read_mapping(name), read_mapping("ct-rate")
    assert len(mapping.labels) == SIZES[name]
    assert set(mapping.sources) <= set(ct_rate.labels)
    left_out = set(ct_rate.labels) - set(mapping.sources)
    if name == "rad-chestct-15":
        assert left_out == {"Medical material", "Mosaic attenuation pattern"}
    if name == "rad-chestct-16":
        assert left_out == {"Mosaic attenuation pattern"}


def test_a_score_is_the_largest_and_a_truth_the_or_of_three_values() -> None:
    mapping = read_mapping("rad-chestct-9")
    scores = {name: np.array([0.1, 0.2]) for name in mapping.sources}
    scores["Coronary artery wall calcification"] = np.array([0.0, 0.9])
    assert mapping.map_scores(scores)["calcification"].tolist() == [0.1, 0.9]
    a, b = np.array([1, 0, 0, -1, -1]), np.array([-1, 0, -1, 1, -1])
    assert join_labels([a, b]).tolist() == [1, 0, -1, 1, -1]


def test_scores_of_external_labels_stay_where_the_parts_are_not_scored() -> None:
    """A classifier that learnt the labels of the external data says them itself."""
    mapping = read_mapping("rad-chestct-9")
    said = {name: np.array([0.3]) for name in mapping.labels}
    assert mapping.map_scores(said)["calcification"].tolist() == [0.3]
    parts = {"Arterial wall calcification": 0.1, "Coronary artery wall calcification": 0.7}
    both = said | {name: np.array([value]) for name, value in parts.items()}
    assert mapping.map_scores(both)["calcification"].tolist() == [0.7]
    del said["hernia"]
    with pytest.raises(InputError, match="needs Hiatal hernia; there is"):
        mapping.map_scores(said)


def test_a_part_of_two_labels_is_missed_though_one_of_them_is_there(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('[labels]\na = ["x"]\nb = ["x", "y"]\n')
    mapping = read_mapping(str(tmp_path / "own.toml"))
    with pytest.raises(InputError, match="needs x; there is a, y"):
        mapping.map_truth({"a": np.array([1]), "y": np.array([0])})


def test_external_labels_stay_and_those_of_ct_rate_are_joined() -> None:
    mapping = read_mapping("rad-chestct-9")
    truth = {name: np.array([1, 0]) for name in mapping.labels}
    assert mapping.map_truth(truth)["calcification"].tolist() == [1, 0]
    of_ct_rate = {name: np.array([0, 0]) for name in mapping.sources}
    of_ct_rate["Arterial wall calcification"] = np.array([0, 1])
    assert mapping.map_truth(of_ct_rate)["calcification"].tolist() == [0, 1]
    del of_ct_rate["Emphysema"]
    with pytest.raises(InputError, match="needs Emphysema; there is"):
        mapping.map_truth(of_ct_rate)
    with pytest.raises(InputError, match="needs Arterial wall calcification"):
        mapping.map_scores({})


def test_a_file_that_is_no_mapping_is_told(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[labels]\nmass = "Lung mass"\n')
    with pytest.raises(ConfigError, match=r"labels.mass: got 'Lung mass', wanted a list"):
        read_mapping(str(path))
    path.write_text("[labels]\nmass = [1]\n")
    with pytest.raises(ConfigError, match=r"labels.mass: got \[1\], wanted a list"):
        read_mapping(str(path))
    path.write_text("about = 'none'\n")
    with pytest.raises(ConfigError, match="wanted a table of labels"):
        read_mapping(str(path))
