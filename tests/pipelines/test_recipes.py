"""Every shipped recipe, from a tiny made-up copy of its data set to a checked manifest."""

import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cohorts import (
    CTRATE_LABELS,
    MIMIC_LABELS,
    write_ctrate,
    write_mimic,
    write_openi,
    write_radchest_set,
    write_virtual,
)
from drrgen_pipelines.check import check_dataset
from drrgen_pipelines.recipe import Recipe, list_recipes, make_recipe, read_recipe, to_toml
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.errors import ConfigError
from drrgen.io.radiographs import read_radiograph
from drrgen.manifest import Row, read_rows

runner = CliRunner()
Build = Callable[..., list[Row]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    salt = tmp_path / "salt.txt"
    salt.write_text("a salt for tests only, long enough\n")

    def do(*options: str) -> list[Row]:
        """Build a data set, check it, and read its rows."""
        out = tmp_path / "out"
        result = runner.invoke(
            app, ["build", "--out", str(out), "--salt-file", str(salt), "--size", "64",
                  "--view", "PA", *options],
        )  # fmt: skip
        assert result.exit_code in (0, 3), result.output
        checked = check_dataset(out)
        assert checked.is_sound, checked.to_json()
        return [
            row for part in sorted((out / "manifest").glob("*.parquet")) for row in read_rows(part)
        ]

    return do


def labels_of(row: Row) -> dict[str, int]:
    return {each["name"]: each["value"] for each in row["labels"]}


@pytest.mark.hazard(36, "one reconstruction of a scan is taken; all share its report and labels")
def test_ct_rate(tmp_path: Path, build: Build) -> None:
    rows = build("--recipe", "ct-rate", *write_ctrate(tmp_path / "set"))
    assert Counter(row["status"] for row in rows) == {"ok": 3}
    by_scan = {row["report_findings"]: row for row in rows}
    assert by_scan.keys() == {
        "Findings of train_1_a.",
        "Findings of train_2_a.",
        "Findings of valid_1_a.",
    }
    assert all(row["report_impression"] is None and row["report_lang"] == "en" for row in rows)
    assert all(list(labels_of(row)) == CTRATE_LABELS for row in rows)
    assert all([n for n, v in labels_of(row).items() if v] == ["Cardiomegaly"] for row in rows)
    first = by_scan["Findings of train_2_a."]
    assert first["hu_source"] == "csv" and "spacing_from_csv" in first["warnings"]
    assert by_scan["Findings of valid_1_a."]["hu_source"] == "header"
    assert by_scan["Findings of valid_1_a."]["split"] == "test"
    assert first["split"] in ("train", "dev") and first["split_version"] == "official-dev-10"
    assert {row["dataset"] for row in rows} == {"ct-rate"}


def test_rad_chestct(tmp_path: Path, build: Build) -> None:
    (row,) = build("--recipe", "rad-chestct", *write_radchest_set(tmp_path / "set"))
    assert row["status"] == "ok", row["detail"]
    present = {name for name, value in labels_of(row).items() if value}
    assert present == {"nodule", "pleural_effusion"} and len(row["labels"]) == 15
    assert row["split"] == "test" and row["report_findings"] is None
    assert "no_report" in row["warnings"]


def test_mimic_ct(tmp_path: Path, build: Build) -> None:
    rows = build("--recipe", "mimic-ct", *write_mimic(tmp_path / "set"))
    # Of four radiographs: one has two reports, one is lateral and left out, one has no report.
    assert Counter(row["status"] for row in rows) == {"ok": 3, "refused": 1}
    good = [row for row in rows if row["status"] == "ok"]
    assert {(row["view"], row["report_impression"]) for row in good} == {
        ("PA", "One."), ("PA", "Two."), ("AP", "Three.")
    }  # fmt: skip
    assert all(row["cxr_kind"] == "real" and "no_ct" in row["warnings"] for row in good)
    assert all(row["ct_ref"] is None and row["exposed_xywh"] is None for row in good)
    assert len({row["patient_id"] for row in good}) == 2
    two = next(row for row in good if row["report_impression"] == "Two.")
    assert labels_of(two) == dict.fromkeys(MIMIC_LABELS, 1)
    (bad,) = [row for row in rows if row["status"] == "refused"]
    assert bad["reason"] == "metadata_missing" and "no report" in bad["detail"]


def test_open_i(tmp_path: Path, build: Build) -> None:
    rows = build("--recipe", "open-i", *write_openi(tmp_path / "set"))
    good = [row for row in rows if row["status"] == "ok"]
    assert sorted((row["view"], row["report_findings"]) for row in good if row["report_findings"]) == [
        ("LL", "Lungs are clear."), ("PA", "Lungs are clear.")
    ]  # fmt: skip
    first = [row for row in good if row["report_findings"]]
    for column in ("patient_id", "study_id", "split", "report_sha256"):
        assert len({row[column] for row in first}) == 1
    (second,) = [row for row in good if not row["report_findings"]]
    assert second["report_impression"] == "Fine & well." and second["pitch_mm"] == pytest.approx(
        0.2
    )
    (third,) = [
        row for row in rows if row["status"] == "refused"
    ]  # a PNG of which nothing tells the view
    assert third["reason"] == "metadata_missing" and "no_report" in third["warnings"]
    picture = read_radiograph(tmp_path / "out" / second["cxr_path"])
    assert picture.grey.shape == (second["height"], second["width"]) == (48, 40)


def test_virtual(tmp_path: Path, build: Build) -> None:
    options = write_virtual(tmp_path / "set")
    rows = build("--recipe", "virtual", *options)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert {row["report_findings"] for row in rows} == {"Of patient1.", "Of patient2."}
    assert labels_of(rows[0]) == {"Nodule": 1, "Effusion": -1}
    assert {row["split"] for row in rows} == {"train"}
    every = build("--recipe", "virtual", "--series", "all", "--overwrite", *options)
    assert len(every) == 4 and len({row["study_id"] for row in every}) == 2
    assert {row["sample_id"] for row in rows} < {row["sample_id"] for row in every}


def test_a_changed_report_changes_its_row_and_nothing_else(tmp_path: Path, build: Build) -> None:
    options = [*write_virtual(tmp_path / "set"), "--recipe", "virtual"]
    before = {row["sample_id"]: row for row in build(*options)}
    reports = tmp_path / "set" / "reports.csv"
    reports.write_text(reports.read_text().replace("Of patient2.", "Corrected."))
    after = {row["sample_id"]: row for row in build(*options)}
    assert before.keys() == after.keys()
    changed = [key for key in after if after[key] != before[key]]
    (key,) = changed
    assert after[key]["report_findings"] == "Corrected."
    apart = ("report_findings", "report_sha256")
    assert {k: v for k, v in after[key].items() if k not in apart} == {
        k: v for k, v in before[key].items() if k not in apart
    }


def test_generic_takes_several_forms_of_table(tmp_path: Path, build: Build) -> None:
    options = write_virtual(tmp_path / "set")
    reports = tmp_path / "reports.jsonl"
    reports.write_text('{"ct": "patient1_scan1_1", "report": "FINDINGS: a IMPRESSION: b"}\n')
    rows = build(*options[:2], "--reports", str(reports), "--limit", "2", "--require-report")
    assert [row["status"] for row in rows].count("refused") == 1
    (good,) = [row for row in rows if row["status"] == "ok"]
    assert (good["report_findings"], good["report_impression"]) == ("a", "b")
    assert good["dataset"] == "local" and good["labels"] is None


@pytest.mark.parametrize("name", sorted(list_recipes()))
def test_every_recipe_reads_says_what_it_is_and_comes_back_from_toml(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.recipe.about
    assert make_recipe(tomllib.loads(to_toml(recipe))) == recipe


@pytest.mark.parametrize(
    "options",
    [(), ("--ct-dir", "CT", "--recipe", "ctrate"), ("--ct-dir", "CT", "--reports", "none.csv")],
)
def test_wrong_usage_is_exit_code_2(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "salt.txt").write_text("a salt for tests only, long enough")
    result = runner.invoke(
        app,
        [
            "build",
            "--out",
            str(tmp_path / "out"),
            "--salt-file",
            str(tmp_path / "salt.txt"),
            *options,
        ],
    )
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "out").exists()


LEAST: dict[str, Any] = {
    "recipe": {"dataset": "a"},
    "reports": {"key": "k"},
    "labels": {"key": "k"},
}


def test_a_recipe_needs_little() -> None:
    assert isinstance(make_recipe(LEAST), Recipe)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"reprots": {}}, "unknown section reprots; did you mean reports?"),
        ({"reports": {"key": "k", "finding": "f"}}, "unknown key of [reports] finding; did you mean findings?"),
        ({"recipe": {"dataset": "a", "pairing": "by_luck"}}, "recipe.pairing: got 'by_luck', wanted by_name"),
        ({"recipe": {}}, "[recipe] has no dataset"),
        ({"recipe": {"dataset": "a", "dev_percent": 80}}, "dev_percent 80"),
        ({"labels": {"key": ["k", 3]}}, "labels.key: got 3, wanted str"),
        ({"labels": {"key": "k", "merge": 3}}, "labels.merge: got 3, wanted a table"),
        ({"reports": 3}, "reports: got 3, wanted a [section]"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_told_by_its_key(spoil: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_recipe(LEAST | spoil)
    assert said in str(caught.value)


def test_a_section_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no section \[labels\]"):
        make_recipe({"recipe": {"dataset": "a"}, "reports": {"key": "k"}})


def test_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean ct-rate"):
        read_recipe("ctrate")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        read_recipe(tmp_path / "none.toml")
