"""From tables and folders to studies: made one at a time, paired by rules, split by patient."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cohorts import write_csv, write_radiograph_dicom
from dicom_files import make_slice, write_series, write_slices
from drrgen_pipelines import discover
from drrgen_pipelines.discover import Discovery, find_studies
from drrgen_pipelines.pairing import make_register, name_file
from drrgen_pipelines.recipe import Pairing, Recipe, SplitRule, read_recipe
from drrgen_pipelines.sources import Sources
from drrgen_pipelines.study import Study
from hypothesis import given
from hypothesis import strategies as st

from drrgen.choices import CTFormat, Split, View
from drrgen.errors import InputError, Reason
from drrgen.io.listing import CTFiles
from drrgen.phantoms import make_torso

SALT = b"a salt for tests only"
GENERIC = read_recipe("generic")
RATE = read_recipe("ct-rate")
NAMES = ["a.nii.gz", "x/b.nii.gz", "y/b.nii.gz"]


def find(sources: Sources, **more: object) -> Discovery:
    return find_studies(sources, dataset="toy", salt=SALT, **more)  # type: ignore[arg-type]


def with_rules(recipe: Recipe, **rules: object) -> Recipe:
    return replace(recipe, recipe=replace(recipe.recipe, **rules))  # type: ignore[arg-type]


def touch(folder: Path, names: list[str]) -> Path:
    """Make files that are named as CT; nothing reads them here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"none")
    return folder


def pair(
    folder: Path, rows: list[dict[str, str]], recipe: Recipe = GENERIC
) -> dict[str, str | None]:
    """Pair a table of findings with the files of a folder."""
    table = write_csv(folder.parent / "reports.csv", rows)
    found = find(Sources(ct=folder, reports=(table,), recipe=recipe))
    return {s.picture.name: s.identity.get("report_findings") for s in found.studies}


@pytest.mark.parametrize("key", ["a.nii.gz", "a", "./a.nii.gz"])
def test_a_report_finds_its_ct_by_name(key: str, tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", NAMES)
    assert pair(folder, [{"volume": key, "findings": "of a"}])["a.nii.gz"] == "of a"


def test_a_path_under_the_root_tells_two_files_of_one_name_apart(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", NAMES)
    rows = [{"volume": "x/b", "findings": "1"}, {"volume": "y\\b.nii.gz", "findings": "2"}]
    assert pair(folder, rows) == {"a.nii.gz": None, "x/b.nii.gz": "1", "y/b.nii.gz": "2"}


def test_a_name_that_two_files_have_is_an_error_and_no_guess(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", NAMES)
    with pytest.raises(InputError, match=r"several files are called b\.nii\.gz"):
        pair(folder, [{"volume": "b.nii.gz", "findings": "1"}])


@pytest.mark.parametrize("key", ["../a.nii.gz", "/etc/passwd", "C:\\a.nii.gz", "x/../../a"])
def test_a_table_may_not_name_what_lies_outside(key: str, tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", NAMES)
    with pytest.raises(InputError, match=r"reports\.csv row 2 names .* outside the folder"):
        pair(folder, [{"volume": key, "findings": "1"}])


def test_different_reports_of_one_ct_under_two_names_are_an_error(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", NAMES)
    rows = [{"volume": "a", "findings": "1"}, {"volume": "a.nii.gz", "findings": "2"}]
    with pytest.raises(InputError, match="row 2 are different reports of one study"):
        pair(folder, rows)
    rows[1]["findings"] = "1"
    assert pair(folder, rows)["a.nii.gz"] == "1"


PARTS = st.sampled_from(["a", "b", "c", "ct"])
TREES = st.sets(
    st.lists(PARTS, min_size=1, max_size=3).map(lambda p: "/".join(p) + ".nii"),
    min_size=1,
    max_size=8,
)


@given(tree=TREES, key=st.lists(PARTS, min_size=1, max_size=3).map("/".join))
def test_no_key_ever_means_two_files(tree: set[str], key: str) -> None:
    files = [
        CTFiles(ct_format=CTFormat.NIFTI, paths=(), name=n, n_bytes=1, mtime_ns=1) for n in tree
    ]
    register = make_register(map(name_file, files))
    for table in ({key}, {f"{key}.nii"}):
        try:
            hits = [f.name for f in files if register.match(name_file(f), table, "the table")]
        except InputError:
            assert sum(f"/{n}".endswith((f"/{key}.nii",)) for n in tree) > 1
            continue
        assert len(hits) <= 1
        assert not hits or hits[0] == f"{key}.nii" or hits[0].endswith(f"/{key}.nii")
        assert f"{key}.nii" not in tree or hits == [f"{key}.nii"]


def test_reports_that_belong_to_nothing_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair(touch(tmp_path / "ct", NAMES), [{"volume": "z", "findings": "1"}])
    assert "none of the 1 reports belongs to anything" in caplog.text and "'z'" in caplog.text


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Two DICOM patients, one of them with an accession number."""
    volume = make_torso(spacing_mm=40.0, height_mm=240.0)
    for patient in ("p", "qq"):
        slices = [make_slice(volume, z, patient) for z in range(len(volume.hu))]
        for d in slices:
            d.AccessionNumber = f"ACC/{patient}"
        write_slices(tmp_path / "ct" / f"folder_{patient}", slices)
    return tmp_path / "ct"


@pytest.mark.parametrize(
    ("pairing", "key"),
    [(Pairing.BY_NAME, "folder_p"), (Pairing.BY_NAME, "1.2.3.1"), (Pairing.BY_ACCESSION, "ACC/p"),
     (Pairing.BY_ACCESSION, "1.2.3.1"), (Pairing.BY_PATIENT, "p")],
)  # fmt: skip
def test_a_report_finds_its_dicom_series(pairing: Pairing, key: str, clinic: Path) -> None:
    paired = pair(clinic, [{"volume": key, "findings": "1"}], with_rules(GENERIC, pairing=pairing))
    assert paired == {"1.2.3.1": "1", "1.2.3.2": None}


def test_a_patient_whom_the_tables_name_once_has_one_name(tmp_path: Path) -> None:
    volume = make_torso(spacing_mm=40.0, height_mm=240.0)
    for i, patient in enumerate(("p", "p", "qq")):
        slices = [make_slice(volume, z, patient) for z in range(len(volume.hu))]
        for d in slices:
            d.SeriesInstanceUID = d.StudyInstanceUID = f"1.2.3.{i}"
        write_slices(tmp_path / "ct" / str(i), slices, first=100 * i)
    table = write_csv(tmp_path / "meta.csv", [{"volume": "1.2.3.0", "patient": "true name"}])
    found = find(Sources(ct=tmp_path / "ct", metadata=(table,), recipe=GENERIC))
    first, second, third = (study.identity["patient_id"] for study in found.studies)
    assert first == second != third


def test_studies_are_made_one_at_a_time_and_counted_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = touch(tmp_path / "ct", [f"{i:03}.nii.gz" for i in range(50)])
    table = write_csv(tmp_path / "r.csv", [{"volume": "007", "findings": "x"}])
    made: list[str] = []
    identify = discover._identify

    def watch(*args: object) -> object:
        made.append("one")
        return identify(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(discover, "_identify", watch)
    found = find(Sources(ct=folder, reports=(table,), recipe=GENERIC))
    assert found.n_studies == 50 and not made
    studies = found.studies
    next(studies)
    assert len(made) == 1 and not found.counts
    names = ["000.nii.gz", *(study.picture.name for study in studies)]
    assert names == sorted(names) and len(names) == 50
    assert found.counts == {"no_report": 49, "reports": 1}
    assert len(list(found.studies)) == 50 and found.counts == {"no_report": 49, "reports": 1}


def test_a_table_that_is_added_later_renames_no_sample(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", NAMES)
    table = write_csv(
        tmp_path / "m.csv", [{"volume": n, "patient": "one", "scan": n} for n in NAMES]
    )
    plain = [study.sample_id for study in find(Sources(ct=folder)).studies]
    told = list(find(Sources(ct=folder, metadata=(table,), recipe=GENERIC)).studies)
    assert [study.sample_id for study in told] == plain
    assert len({study.identity["patient_id"] for study in told}) == 1
    assert len({study.identity["split"] for study in told}) == 1


def test_a_changed_report_or_label_changes_the_study(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", ["a.nii.gz"])
    seen = set()
    for finding, label in (("x", 1), ("y", 1), ("y", 0)):
        reports = write_csv(tmp_path / "r.csv", [{"volume": "a", "findings": finding}])
        labels = write_csv(tmp_path / "l.csv", [{"volume": "a", "Nodule": label}])
        (study,) = find(
            Sources(ct=folder, reports=(reports,), labels=(labels,), recipe=GENERIC)
        ).studies
        seen.add(json.dumps(study.to_dict(), sort_keys=True))
    assert len(seen) == 3


def test_ct_rate_keeps_its_splits_and_draws_dev_from_train(tmp_path: Path) -> None:
    names = [f"{s}_{p}_{scan}_{r}.nii.gz" for s in ("train", "valid") for p in range(1, 121)
             for scan in "ab" for r in (1, 2)]  # fmt: skip
    folder = touch(tmp_path / "ct", names)
    for series, per_scan in (("best", 1), ("all", 2)):
        found = find(Sources(ct=folder, recipe=RATE), series=series)
        assert found.n_studies == 480 * per_scan
        studies = list(found.studies)
        splits: dict[str, set[str]] = {}
        for study in studies:
            official = study.picture.name.split("_")[0]
            split = study.identity["split"]
            splits.setdefault(study.identity["patient_id"], set()).add(split)
            assert (split == "test") is (official == "valid")
        assert all(len(each) == 1 for each in splits.values())
        counts = Counter(next(iter(each)) for each in splits.values())
        assert counts["test"] == 120 and 3 <= counts["dev"] <= 25
        assert len({study.identity["study_id"] for study in studies}) == 480
        assert len({study.sample_id for study in studies}) == len(studies)


def test_a_volume_of_ct_rate_that_is_there_twice_is_taken_once(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", ["train/train_1_a_1.nii.gz", "train_fixed/train_1_a_1.nii.gz"])
    found = find(Sources(ct=folder, recipe=RATE), series="all")
    assert found.n_studies == 1 and found.ignored["duplicate_ct"] == 1


def find_split_of(folder: Path, rows: list[dict[str, str]], **rules: object) -> list[str]:
    table = write_csv(folder.parent / "m.csv", rows)
    recipe = with_rules(GENERIC, split=SplitRule.COLUMN, **rules)
    found = find(Sources(ct=folder, metadata=(table,), recipe=recipe))
    return [study.identity["split"] for study in found.studies]


def test_a_split_column_is_kept(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", ["a.nii", "b.nii", "c.nii"])
    rows = [{"volume": "a", "patient": "1", "split": "Training"}, {"volume": "b", "patient": "2", "split": "val"},
            {"volume": "c", "patient": "2", "split": ""}]  # fmt: skip
    assert find_split_of(folder, rows) == ["train", "dev", "dev"]


def test_a_patient_in_two_splits_is_an_error(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", ["a.nii", "b.nii"])
    rows = [
        {"volume": "a", "patient": "1", "split": "train"},
        {"volume": "b", "patient": "1", "split": "test"},
    ]
    with pytest.raises(
        InputError, match=r"m\.csv row 2 and m\.csv row 3 put one patient into train and test"
    ):
        find_split_of(folder, rows)
    rows[1]["split"] = "holdout"
    with pytest.raises(InputError, match="got the split 'holdout'"):
        find_split_of(folder, rows)


def test_dicom_tells_that_two_rows_are_of_one_patient(clinic: Path, tmp_path: Path) -> None:
    write_series(make_torso(spacing_mm=40.0, height_mm=240.0), tmp_path / "ct" / "c", "r")
    for path in (tmp_path / "ct" / "c").iterdir():
        path.unlink()
    slices = [make_slice(make_torso(spacing_mm=40.0, height_mm=240.0), z, "p") for z in range(6)]
    for d in slices:
        d.SeriesInstanceUID = d.StudyInstanceUID = "1.2.3.9"
    write_slices(tmp_path / "ct" / "c", slices, first=500)
    rows = [{"volume": "1.2.3.1", "split": "train"}, {"volume": "1.2.3.9", "split": "test"}]
    with pytest.raises(InputError, match=r"\(a pseudonym\) is in train and test"):
        find_split_of(tmp_path / "ct", rows)


@pytest.mark.parametrize("split", [SplitRule.TRAIN, SplitRule.DEV, SplitRule.TEST])
def test_a_whole_data_set_may_be_one_split(split: SplitRule, tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", NAMES)
    found = find(Sources(ct=folder, recipe=with_rules(GENERIC, split=split)))
    assert {study.identity["split"] for study in found.studies} == {split.value}


def test_ct_and_radiographs_of_one_patient_share_a_split(clinic: Path, tmp_path: Path) -> None:
    for patient in ("p", "qq"):
        write_radiograph_dicom(tmp_path / "cxr" / f"{patient}.dcm", "PA", patient)
    found = find(Sources(ct=clinic, cxr=tmp_path / "cxr", recipe=GENERIC))
    splits: dict[str, list[str]] = {}
    for study in found.studies:
        splits.setdefault(study.identity["patient_id"], []).append(study.identity["split"])
    assert len(splits) == 2 and all(
        len(each) == 2 and len(set(each)) == 1 for each in splits.values()
    )


def test_sources_need_pictures_and_tables_need_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --ct-dir, --cxr-dir or both"):
        Sources()
    with pytest.raises(InputError, match="give --recipe NAME"):
        Sources(ct=tmp_path, reports=(tmp_path,))


TEXT = st.text(max_size=8)
MAYBE = st.none() | TEXT
WHOLE = st.integers(0, 2**62)
PATH = st.sampled_from(["/a.nii.gz", "/ct/\udcff.nii", "/x y/ä.nrrd"])  # a plan has whole paths
PATHS = st.lists(PATH, max_size=2)
FLOAT = st.floats().map(repr)
FINITE = st.floats(allow_nan=False, allow_infinity=False).map(repr)
NAMES_OF_DICOM = {"patient": MAYBE, "study_uid": MAYBE, "accession": MAYBE}
FILE = {"name": TEXT, "n_bytes": WHOLE, "mtime_ns": WHOLE, **NAMES_OF_DICOM}


def pick(words: type) -> st.SearchStrategy[str]:
    return st.sampled_from([str(word) for word in words])  # type: ignore[attr-defined]


CT = st.fixed_dictionaries({
    "ct_format": pick(CTFormat), "paths": PATHS, "series_uid": MAYBE, **FILE, "n_broken": WHOLE,
    "rank": st.lists(FLOAT, max_size=3), "warnings": st.lists(TEXT, max_size=2),
})  # fmt: skip
RADIOGRAPH = st.fixed_dictionaries({"path": PATH, "is_dicom": st.integers(0, 1), **FILE})
MASK = st.fixed_dictionaries(
    {"paths": PATHS, "table": st.none() | PATH, "n_bytes": WHOLE, "mtime_ns": WHOLE}
)
TOLD = st.fixed_dictionaries({
    "slope": st.none() | FINITE, "intercept": st.none() | FINITE,
    "spacing_xyz_mm": st.none() | st.lists(FINITE, min_size=3, max_size=3),
})  # fmt: skip
LABEL = st.fixed_dictionaries({"name": TEXT, "value": st.integers(-1, 1)})
PLAIN = st.fixed_dictionaries({
    "identity": st.fixed_dictionaries(
        {"sample_id": TEXT, "report_findings": MAYBE, "labels": st.lists(LABEL, max_size=2)}
    ),
    "mask": st.none() | MASK, "told": st.none() | TOLD, "view": st.none() | pick(View),
    "keep": st.lists(pick(View), max_size=2), "warnings": st.lists(TEXT, max_size=2),
    "refusal": st.none() | st.tuples(pick(Reason), TEXT).map(list),
})  # fmt: skip


@given(plain=PLAIN, files=CT | RADIOGRAPH)
def test_json_holds_a_study_exactly(plain: dict[str, object], files: dict[str, object]) -> None:
    is_ct = "paths" in files
    data = plain | {"files": files if is_ct else None, "radiograph": None if is_ct else files}
    study = Study.from_dict(data)
    assert study.to_dict() == data
    again = Study.from_dict(json.loads(json.dumps(study.to_dict())))
    assert repr(again) == repr(study)  # a rank may hold NaN, which equals nothing


def test_a_study_is_a_ct_or_a_radiograph() -> None:
    with pytest.raises(InputError, match="neither or both"):
        Study(identity={"sample_id": "a"})


def test_the_splits_of_a_thousand_patients_are_as_promised(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ct", [f"{i}.nii" for i in range(1000)])
    table = write_csv(tmp_path / "m.csv", [
        {"volume": str(i), "patient": str(i // 2), "split": "train" if i < 500 else "test"} for i in range(1000)
    ])  # fmt: skip
    recipe = with_rules(GENERIC, split=SplitRule.COLUMN, dev_percent=20)
    studies: Iterator[Study] = find(Sources(ct=folder, metadata=(table,), recipe=recipe)).studies
    seen: dict[str, set[str]] = {}
    for study in studies:
        seen.setdefault(study.identity["patient_id"], set()).add(study.identity["split"])
    assert all(len(each) == 1 for each in seen.values())
    counts = Counter(next(iter(each)) for each in seen.values())
    assert counts[Split.TEST] == 250 and 25 <= counts[Split.DEV] <= 75
