"""A cohort on disk: as a user's own data would be, the same every time, and fit to be rendered."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drrgen_pipelines.admission import admit

from drrgen.cohort.base import Base
from drrgen.cohort.build import plan_cohort, run_cohort
from drrgen.cohort.kinds import ALL_LABELS, CTRATE_LABELS, LABELS_OF, MODELED_LABELS, Kind
from drrgen.cohort.patient import draw_patient
from drrgen.cohort.settings import (
    SIZES,
    CohortConfig,
    PatientsConfig,
    PrevalenceConfig,
    ThemesConfig,
)
from drrgen.cohort.tables import find_balance, read_cohort
from drrgen.cohort.task import SCHEMA, CohortTask, make_item, make_rows
from drrgen.errors import ConfigError, InputError, ManifestError, Reason
from drrgen.io.structures import find_mask, read_structures
from drrgen.io.volumes import find_ct, read_ct, read_file
from drrgen.jobs.runner import Means

SICK = CohortConfig(
    patients=PatientsConfig(seed=3, healthy=0.0, follow_up=0.9, second_reconstruction=0.5),
    prevalence=PrevalenceConfig(nodule=0.9, pleural_effusion=0.7, cardiomegaly=0.5),
)
PATIENTS = 2


def build(out: Path, config: CohortConfig, cache: Path, n: int = PATIENTS, **more: object) -> None:
    for _ in run_cohort(plan_cohort(n, out, config, cache=cache, **more)):  # type: ignore[arg-type]
        pass


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_bytes(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.endswith((".stats.json", ".plan.json", ".lock"))
    }


@pytest.fixture(scope="module")
def cohort(base: Base, cohort_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "COHORT"
    build(out, SICK, cohort_cache)
    return out


def test_every_volume_has_its_report_its_labels_and_its_mask(cohort: Path) -> None:
    volumes = {path.name.removesuffix(".nii.gz") for path in (cohort / "ct").iterdir()}
    assert all(volume.startswith("virtual_000") for volume in volumes)
    assert len(volumes) > PATIENTS
    for name in ("reports.csv", "labels.csv", "metadata.csv"):
        assert [row["volume"] for row in read_table(cohort / name)] == sorted(volumes)
    for volume in volumes:
        assert (cohort / "masks" / f"{volume}.nii.gz").is_file()
    assert "test article" in (cohort / "README.txt").read_text()
    assert "Armato" in (cohort / "README.txt").read_text()


def test_labels_are_those_of_the_findings_and_unknown_ones_are_empty(cohort: Path) -> None:
    labels = {row["volume"]: row for row in read_table(cohort / "labels.csv")}
    found = read_table(cohort / "findings.csv")
    assert found
    for volume, row in labels.items():
        assert tuple(row)[1:] == ALL_LABELS
        kinds = {Kind(f["name"]) for f in found if f["volume"] == volume}
        true = {label for kind in kinds for label in LABELS_OF[kind]}
        for label in ALL_LABELS:
            if label not in MODELED_LABELS:
                assert row[label] == ""
            elif label in true:
                assert row[label] == "1"
            else:
                assert row[label] == "0" or (label == "Cardiomegaly" and row[label] == "")


def test_the_first_labels_are_ct_rates() -> None:
    assert ALL_LABELS[:18] == CTRATE_LABELS
    assert len(MODELED_LABELS & set(CTRATE_LABELS)) == 13


def test_masks_lie_where_the_findings_are_said_to_be(cohort: Path) -> None:
    found = read_table(cohort / "findings.csv")
    for volume in {row["volume"] for row in found}:
        files = find_mask(cohort / "masks", f"{volume}.nii.gz")
        assert files is not None
        structures = {s.label: s for s in read_structures(files)}
        mine = [row for row in found if row["volume"] == volume]
        assert set(structures) == {int(row["mask_label"]) for row in mine}
        for row in mine:
            structure = structures[int(row["mask_label"])]
            assert structure.name.startswith(row["name"])
            if row["name"] != "nodule":
                continue
            inside = np.argwhere(structure.volume.hu == 1)[:, ::-1]
            matrix = structure.volume.patient_from_voxel
            middle = (inside @ matrix[:3, :3].T + matrix[:3, 3]).mean(axis=0)
            said = [float(row[f"center_{axis}_mm"]) for axis in "xyz"]
            assert middle == pytest.approx(said, abs=3.0)  # a voxel


def test_what_has_a_size_has_a_size_and_all_can_be_seen_a_little(cohort: Path) -> None:
    for row in read_table(cohort / "findings.csv"):
        assert float(row["volume_ml"]) > 0
        assert (
            row["size_mm"] or row["severity"] or row["name"] in ("medical_material", "atelectasis")
        )
        if row["name"] == "nodule":
            assert 5 <= float(row["size_mm"]) < 30
            assert row["lobe"]
            assert row["side"] in row["lobe"]
        assert abs(float(row["contrast_pa"])) + abs(float(row["contrast_ll"])) > 0


def test_scans_of_a_patient_share_him_and_reconstructions_share_the_words(cohort: Path) -> None:
    metadata = {row["volume"]: row for row in read_table(cohort / "metadata.csv")}
    reports = {row["volume"]: row for row in read_table(cohort / "reports.csv")}
    kernels = {row["kernel"] for row in metadata.values()}
    assert kernels == {"soft", "sharp"}
    for volume, row in metadata.items():
        assert volume == f"{row['patient']}_{row['scan']}_{row['reconstruction']}"
        first = f"{row['patient']}_{row['scan']}_1"
        assert reports[volume]["findings"] == reports[first]["findings"]
        assert row["sex"] == metadata[f"{row['patient']}_a_1"]["sex"]
    assert len({row["scan"] for row in metadata.values()}) > 1


def test_a_sharp_kernel_has_more_noise(cohort: Path) -> None:
    metadata = read_table(cohort / "metadata.csv")
    sharp = next(row["volume"] for row in metadata if row["kernel"] == "sharp")
    grain = []
    for volume in (sharp[:-1] + "1", sharp):
        hu = read_file(cohort / "ct" / f"{volume}.nii.gz").hu[10:30, 50:75, 50:75].astype(float)
        grain.append(np.std(np.diff(hu, axis=0)))
    assert grain[1] > 1.8 * grain[0]


def test_every_volume_passes_the_pipelines_gate(cohort: Path) -> None:
    for files in find_ct(cohort / "ct").found:
        volume = read_ct(files)
        assert volume.orientation == "LPS"
        assert volume.hu.min() == -1024
        body = admit(volume)
        assert body.beside_ml < 150


def test_a_second_run_does_nothing_and_a_larger_number_adds(
    cohort: Path, cohort_cache: Path, tmp_path: Path
) -> None:
    same = plan_cohort(PATIENTS, cohort, SICK, cache=cohort_cache).ahead
    assert (same.todo, same.kept) == (0, PATIENTS)
    more = plan_cohort(PATIENTS + 2, cohort, SICK, cache=cohort_cache).ahead
    assert (more.todo, more.kept) == (2, PATIENTS)


def test_a_patient_is_the_same_alone(cohort: Path, cohort_cache: Path, tmp_path: Path) -> None:
    make_rows(2, CohortTask(out=tmp_path, config=SICK, cache=cohort_cache))
    alone, among = read_bytes(tmp_path), read_bytes(cohort)
    assert alone
    assert all(among[name] == data for name, data in alone.items())


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(
    cohort: Path, cohort_cache: Path, tmp_path: Path
) -> None:
    plan = plan_cohort(PATIENTS, tmp_path / "C", SICK, cache=cohort_cache)
    for _ in run_cohort(plan, Means(workers=2)):
        pass
    there, here = read_bytes(cohort), read_bytes(tmp_path / "C")
    assert there.keys() == here.keys()
    assert [name for name in there if there[name] != here[name]] == []


def test_other_settings_are_refused_with_the_difference(cohort: Path, cohort_cache: Path) -> None:
    other = replace(SICK, themes=ThemesConfig(age=0.1))
    with pytest.raises(ManifestError, match=r"themes\.age: 0\.55 there, 0\.1 now"):
        plan_cohort(PATIENTS, cohort, other, cache=cohort_cache)


def test_another_data_set_is_left_alone(cohort_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest").mkdir()
    with pytest.raises(ManifestError, match="another data set"):
        plan_cohort(1, tmp_path, SICK, cache=cohort_cache, overwrite=True)


def test_starting_anew_removes_the_old_patients(cohort_cache: Path, tmp_path: Path) -> None:
    plain = CohortConfig(patients=PatientsConfig(healthy=1.0, follow_up=0.0))
    build(tmp_path, plain, cohort_cache, n=2)
    assert len(read_table(tmp_path / "reports.csv")) >= 2
    assert (tmp_path / "findings.csv").read_text().strip() == "volume"
    build(tmp_path, replace(plain, patients=replace(plain.patients, seed=1)), cohort_cache, n=1,
          overwrite=True)  # fmt: skip
    assert {p.name[:12] for p in (tmp_path / "ct").iterdir()} == {"virtual_0001"}


@pytest.mark.slow
def test_dicom_holds_the_same_voxels_in_the_same_place(
    cohort: Path, cohort_cache: Path, tmp_path: Path
) -> None:
    config = replace(SICK, patients=replace(SICK.patients, dicom=True))
    build(tmp_path, config, cohort_cache, n=1)
    listing = find_ct(tmp_path / "ct")
    names = {row["volume"] for row in read_table(tmp_path / "metadata.csv")}
    assert len(listing.found) == len(names)
    for files in listing.found:
        volume = read_ct(files)
        name = files.paths[0].parent.name
        same = read_file(cohort / "ct" / f"{name}.nii.gz")
        np.testing.assert_array_equal(volume.hu, same.hu)
        np.testing.assert_allclose(volume.patient_from_voxel, same.patient_from_voxel, atol=1e-4)
    assert len({files.study_uid for files in listing.found}) < len(names)


def test_what_goes_wrong_costs_one_patient(
    cohort_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = CohortTask(out=tmp_path, config=SICK, cache=cohort_cache)
    for error, reason in (
        (OSError(28, "No space left"), Reason.IO_ERROR),
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (ZeroDivisionError("x"), Reason.CRASHED),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("drrgen.cohort.task.draw_patient", fail)
        (row,) = task(make_item(7))
        assert (row["sample_id"], row["status"], row["reason"]) == (
            "virtual_0007",
            "failed",
            reason,
        )
        assert task.to_table([row]).schema.names == SCHEMA.names
        assert task.files([row]) == []
    (row,) = task.failure(make_item(7), Reason.TIMEOUT, "too long")
    assert row["reason"] == "timeout"


def test_the_balance_counts_labels_alone_and_together(cohort: Path) -> None:
    rows = read_cohort(cohort)
    balance = find_balance(rows)
    assert balance.patients == PATIENTS
    assert balance.volumes == len(rows)
    label = "Lung nodule"
    count = sum({"name": label, "value": 1} in row["labels"] for row in rows)
    assert balance.present[label] == count > 0
    for (one, other), n in balance.together.items():
        assert n <= min(balance.present[one], balance.present[other])


def test_the_manifest_says_the_same_as_the_tables(cohort: Path) -> None:
    (part,) = (cohort / "manifest").glob("*.parquet")
    table = pq.read_table(part)
    assert table.schema.names == SCHEMA.names
    assert json.loads((cohort / "manifest.json").read_text())["status"] == {"ok": len(table)}


def test_kinds_come_as_often_as_the_settings_say(base: Base) -> None:
    config = CohortConfig()
    patients = [draw_patient(number, config, base) for number in range(1, 401)]
    without = sum(not p.findings for p in patients) / len(patients)
    assert without == pytest.approx(0.2, abs=0.05)
    nodules = sum(any(f.kind is Kind.NODULE for f in p.findings) for p in patients)
    assert nodules / len(patients) == pytest.approx(0.33, abs=0.07)
    several = [len({f.kind for f in p.findings}) for p in patients if p.findings]
    assert 2.0 < np.mean(several) < 5.0


def test_a_common_cause_brings_findings_together(base: Base) -> None:
    def count_together(load: float) -> int:
        themes = ThemesConfig(age=load, heart_failure=0, cancer=0, infection=0)
        config = CohortConfig(themes=themes)
        kinds = [{f.kind for f in draw_patient(n, config, base).findings} for n in range(1, 401)]
        pair = {Kind.CORONARY_CALCIFICATION, Kind.AORTIC_CALCIFICATION}
        return sum(pair <= found for found in kinds)

    assert count_together(0.9) > 1.5 * count_together(0.0)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [(PatientsConfig, "size", "512"), (PatientsConfig, "seed", -1), (PatientsConfig, "healthy", 1.2),
     (PrevalenceConfig, "nodule", -0.1), (ThemesConfig, "age", 2.0)],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(section: type, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        section(**{key: value})


def test_no_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1"):
        plan_cohort(0, tmp_path, CohortConfig())


@pytest.mark.slow
@pytest.mark.parametrize("size", [size for size in SIZES if size != "128"])
def test_every_size_passes_the_gate_and_shows_the_same_patient(
    size: str, cohort: Path, cohort_cache: Path, tmp_path: Path
) -> None:
    config = replace(SICK, patients=replace(SICK.patients, size=size))
    (row, *_) = make_rows(1, CohortTask(out=tmp_path, config=config, cache=cohort_cache))
    volume = read_file(tmp_path / row["ct_path"])
    assert volume.hu.shape[1:] == (SIZES[size], SIZES[size])
    admit(volume)
    small = [r for r in read_table(cohort / "findings.csv") if r["volume"] == row["volume"]]
    kept = {(f["name"], f["mask_label"]) for f in row["findings"]}
    assert len(kept & {(r["name"], int(r["mask_label"])) for r in small}) >= 0.7 * len(small)
