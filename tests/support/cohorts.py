"""Tiny data sets on disk, each laid out as its original is; all of it made up."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from ct_files import write_ct

from drrgen.io.dicom_radiographs import DicomFacts, encode_dicom
from drrgen.phantoms import make_torso
from drrgen.volume import CTVolume

CTRATE_LABELS = [
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema",
    "Atelectasis", "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion",
    "Mosaic attenuation pattern", "Peribronchial thickening", "Consolidation", "Bronchiectasis",
    "Interlobular septal thickening",
]  # fmt: skip
MIMIC_LABELS = [CTRATE_LABELS[i] for i in (1, 3, 4, 5, 6, 7, 8, 13, 14, 16, 17)]


@cache
def make_chest() -> CTVolume:
    """A chest that is high enough to be rendered, of 60,000 voxels."""
    torso = make_torso(spacing_mm=9.0, height_mm=198.0)
    noise = np.random.default_rng(0).normal(0, 12, torso.hu.shape)
    hu = np.clip(torso.hu + noise, -1024, 3071).astype(np.int16)
    return CTVolume(hu=hu, patient_from_voxel=torso.patient_from_voxel)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a table; the first row names the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_chests(folder: Path, names: Iterable[str]) -> None:
    """Write the chest under several names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        hu = make_chest().hu.copy()
        hu[0, 0, :16] = (
            np.frombuffer(name.encode()[-32:].rjust(32), np.int16) // 256 - 1000
        )  # no two alike
        write_ct(make_chest(), folder / name, hu)


def write_radiograph_dicom(path: Path, view: str, patient: str = "p") -> None:
    """Write a small radiograph as DICOM."""
    pixels = np.random.default_rng(len(str(path))).integers(0, 65535, (48, 40), dtype=np.uint16)
    facts = DicomFacts(
        patient_id=patient, study_id=patient, sample_id=path.stem, view=view, draw=0, pitch_mm=0.2
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_dicom(pixels, facts, {}, "0" * 64))


def write_ctrate(root: Path) -> list[str]:
    """CT-RATE: patient folders, a first file under a blank header, fixed ones, CSV by split."""
    names = ["train_1_a_1", "train_1_a_2", "train_2_a_1", "valid_1_a_1"]
    chest = make_chest()
    for name in names:
        split, patient, scan, _ = name.split("_")
        path = root / "dataset" / split / f"{split}_{patient}" / f"{split}_{patient}_{scan}"
        write_chests(path, [f"{name}.nii.gz"])
    first = root / "dataset/train/train_2/train_2_a/train_2_a_1.nii.gz"
    stored = (chest.hu.astype(np.float32) + 8192).transpose(2, 1, 0)
    blank = nib.Nifti1Image(stored, None)
    blank.set_sform(None, 0)
    blank.set_qform(None, 0)
    blank.to_filename(first)
    z, y, x = chest.spacing_zyx_mm
    for split in ("train", "valid"):
        volumes = [f"{name}.nii.gz" for name in names if name.startswith(split)]
        write_csv(root / f"{split}_reports.csv", [
            {"VolumeName": v, "ClinicalInformation_EN": "Cough.", "Technique_EN": "Not given.",
             "Findings_EN": f"Findings of {v.rsplit('_', 1)[0]}.", "Impressions_EN": "Not given."}
            for v in volumes
        ])  # fmt: skip
        write_csv(root / f"{split}_labels.csv", [
            {"VolumeName": v} | {label: int(i == 2) for i, label in enumerate(CTRATE_LABELS)}
            for v in volumes
        ])  # fmt: skip
        write_csv(root / f"{split}_metadata.csv", [
            {"VolumeName": v, "RescaleSlope": 1.0, "RescaleIntercept": -8192.0,
             "XYSpacing": f"[{x}, {y}]", "ZSpacing": z if "_1_a_2" not in v else "nan"}
            for v in volumes
        ])  # fmt: skip
    return ["--ct-dir", str(root / "dataset"), *(
        word for split in ("train", "valid") for table in ("reports", "labels", "metadata")
        for word in (f"--{table}", str(root / f"{split}_{table}.csv"))
    )]  # fmt: skip


def write_radchest_set(root: Path) -> list[str]:
    """RAD-ChestCT: .npz of 0.8 mm, and a matrix of abnormalities by locations in three CSV."""
    chest = make_chest()
    small = np.clip(chest.hu[::-1], -1000, 1000)
    volume = small.repeat(11, 0).repeat(3, 1).repeat(3, 2)[:240]  # 0.8 mm, so high as a chest
    (root / "ct").mkdir(parents=True)
    words = ["calcification", "cardiomegaly", "pericardial_effusion", "hernia", "lymphadenopathy",
             "emphysema", "atelectasis", "nodule", "nodulegr1cm", "opacity", "fibrosis",
             "pleural_effusion", "bronchial_wall_thickening", "consolidation", "bronchiectasis",
             "septal_thickening", "groundglass", "effusion_of_a_joint"]  # fmt: skip
    columns = [f"{word}*{place}" for word in words for place in ("left_lung", "other_location")]
    present = {"nodulegr1cm*left_lung", "pleural_effusion*other_location"}
    for name, part in (("trn00001", "imgtrain"), ("val00001", "imgvalid"), ("tst00001", "imgtest")):
        write_csv(root / f"{part}_Abnormality_and_Location_Labels.csv",
                  [{"NoteAcc_DEID": name} | {c: int(c in present) for c in columns}])  # fmt: skip
    np.savez_compressed(root / "ct" / "trn00001.npz", ct=volume)
    write_csv(root / "metadata.csv", [
        {"VolumeAcc_DEID": "trn00001.npz", "orig_slope": 1, "final_spacing": 0.8}
    ])  # fmt: skip
    labels = sorted(root.glob("img*.csv"))
    return ["--ct-dir", str(root / "ct"), "--metadata", str(root / "metadata.csv"),
            *(word for path in labels for word in ("--labels", str(path)))]  # fmt: skip


def write_mimic(root: Path) -> list[str]:
    """MIMIC-CT: radiographs as DICOM in patient folders, CT reports of the same admission."""
    rows = []
    for name, patient, admission, view in (
        ("aaaa", "10000001", "20001", "PA"), ("bbbb", "10000001", "20001", "LATERAL"),
        ("cccc", "10000002", "20002", "AP"), ("dddd", "10000003", "", "PA"),
    ):  # fmt: skip
        write_radiograph_dicom(
            root / "files" / f"p{patient}" / f"{name}.dcm", "LL" if view == "LATERAL" else view
        )
        rows.append({"dicom_id": name, "subject_id": patient, "hadm_id": admission,
                     "ViewPosition": view})  # fmt: skip
    write_csv(root / "metadata.csv", rows)
    write_csv(root / "reports.csv", [
        {"hadm_id": 20001, "text": "TECHNIQUE: CT.\nFINDINGS: First.\nIMPRESSION: One."},
        {"hadm_id": 20001, "text": "FINDINGS: Second.\nIMPRESSION: Two."},
        {"hadm_id": 20002, "text": "IMPRESSION: Three."},
    ])  # fmt: skip
    write_csv(root / "labels.csv", [
        {"hadm_id": 20001} | dict.fromkeys(MIMIC_LABELS, 0),
        {"hadm_id": 20001} | dict.fromkeys(MIMIC_LABELS, 1),
    ])  # fmt: skip
    return ["--cxr-dir", str(root / "files"), "--reports", str(root / "reports.csv"),
            "--labels", str(root / "labels.csv"), "--metadata", str(root / "metadata.csv")]  # fmt: skip


OPENI_XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="{study}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="INDICATION">Made up</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation>{images}</eCitation>
"""


def write_openi_report(path: Path, study: str, images: Sequence[str], findings: str) -> None:
    """Write one report as Open-i has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = "".join(f'<parentImage id="{i}"><caption>Chest</caption></parentImage>' for i in images)
    path.write_text(
        OPENI_XML.format(
            study=study, findings=findings, impression="Fine &amp; well.", images=named
        )
    )


def write_openi(root: Path) -> list[str]:
    """Open-i: PNG and DICOM, XML reports, and the table of projections for the PNG."""
    from PIL import Image

    (root / "images").mkdir(parents=True)
    for i, name in enumerate(["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR3_1_IM-0003-1001"]):
        grey = np.random.default_rng(i).integers(0, 255, (50, 60 + i), dtype=np.uint8)
        Image.fromarray(grey).save(root / "images" / f"{name}.png")
    write_radiograph_dicom(root / "images" / "CXR2_IM-0002-1001.dcm", "PA")
    write_openi_report(root / "reports" / "1.xml", "CXR1",
                       ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"], "Lungs are clear.")  # fmt: skip
    write_openi_report(root / "reports" / "2.xml", "CXR2", ["CXR2_IM-0002-1001"], "")
    write_csv(root / "projections.csv", [
        {"uid": 1, "filename": "CXR1_1_IM-0001-3001.png", "projection": "Frontal"},
        {"uid": 1, "filename": "CXR1_1_IM-0001-4001.png", "projection": "Lateral"},
    ])  # fmt: skip
    return ["--cxr-dir", str(root / "images"), "--reports", str(root / "reports"),
            "--metadata", str(root / "projections.csv")]  # fmt: skip


def write_virtual(root: Path) -> list[str]:
    """The virtual cohort: COHORT/ct, reports, labels and metadata."""
    names = [f"patient{p}_scan1_{r}.nii.gz" for p in (1, 2) for r in (1, 2)]
    write_chests(root / "ct", names)
    write_csv(root / "reports.csv", [
        {"volume": n, "findings": f"Of {n[:8]}.", "impression": "None."} for n in names
    ])  # fmt: skip
    write_csv(root / "labels.csv", [{"volume": n, "Nodule": 1, "Effusion": -1} for n in names])
    write_csv(root / "metadata.csv", [
        {"volume": n, "patient": n[:8], "scan": "scan1", "reconstruction": n[15], "split": "train"}
        for n in names
    ])  # fmt: skip
    return ["--ct-dir", str(root / "ct"), *(
        word for table in ("reports", "labels", "metadata")
        for word in (f"--{table}", str(root / f"{table}.csv"))
    )]  # fmt: skip
