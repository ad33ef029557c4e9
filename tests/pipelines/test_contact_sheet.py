from collections import Counter
from pathlib import Path

import pytest
from datasets import make_good_row, write_dataset
from drrgen_pipelines import contact_sheet
from drrgen_pipelines.contact_sheet import TILE_PX, make_contact_sheet
from PIL import Image


@pytest.mark.parametrize("n", [12, 31, 40])
def test_a_sheet_of_many_studies_shows_both_views(tmp_path: Path, n: int) -> None:
    rows = [make_good_row(f"s{i:03}", view=view) for i in range(n) for view in ("LL", "PA")]
    shown, n_good, n_bad = contact_sheet._choose_rows(write_dataset(tmp_path, rows), 20)
    assert (n_good, n_bad) == (2 * n, 0)
    assert Counter(row["view"] for row in shown) == {"LL": 10, "PA": 10}
    assert len({row["sample_id"] for row in shown}) == 10  # both views of each that is shown


def test_a_sheet_of_few_shows_each_once(tmp_path: Path) -> None:
    rows = [make_good_row(f"s{i}", view=view) for i in range(3) for view in ("LL", "PA")]
    shown, _, _ = contact_sheet._choose_rows(write_dataset(tmp_path, rows), 24)
    assert len({(row["sample_id"], row["view"]) for row in shown}) == len(shown) == 6


def test_pictures_that_are_gone_are_grey(tmp_path: Path) -> None:
    path = make_contact_sheet(write_dataset(tmp_path, [make_good_row("s")]))
    with path.open("rb") as file, Image.open(file) as sheet:
        assert sheet.height > TILE_PX
