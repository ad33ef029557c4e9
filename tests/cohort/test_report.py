"""Labels and text agree, as read back by a reader that knows nothing of the writer."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from drrgen.cohort.base import Base
from drrgen.cohort.grid import Grid
from drrgen.cohort.kinds import Finding, Kind
from drrgen.cohort.patient import Patient, draw_patient
from drrgen.cohort.report import Text, write_report
from drrgen.cohort.scan import LARGE_HEART, Planted, Study, make_labels
from drrgen.cohort.settings import CohortConfig, PatientsConfig
from drrgen.cohort.visibility import Shadow

PATIENTS = 500
TERMS = {
    "Medical material": r"pacemaker|\bport\b",
    "Arterial wall calcification": r"aort\w* (?:wall )?calcif|calcif\w+ (?:atheroma |of the |of the thoracic )*(?:aort)|calcification of the (?:thoracic aorta|aortic wall)|atheroma of the aorta",
    "Cardiomegaly": r"cardiomegaly|heart is \w+ enlarged|enlarged cardiac|cardiac enlargement",
    "Pericardial effusion": r"pericardial (?:effusion|fluid)|fluid in the pericardium",
    "Coronary artery wall calcification": r"coronary (?:artery )?calcif|calcified coronary",
    "Hiatal hernia": r"hiat(?:al|us) hernia",
    "Lymphadenopathy": r"lymphadenopathy|enlarged (?:[\w, ]+ )?lymph nodes",
    "Emphysema": r"emphysem",
    "Atelectasis": r"atelecta|\bcollapse",
    "Lung nodule": r"nodules?\b",
    "Lung mass": r"\bmass\b",
    "Consolidation": r"consolidat",
    "Ground-glass opacity": r"ground[- ]glass (?:opacit|attenuation)",
    "Pleural effusion": r"pleural (?:effusion|fluid)",
    "Pneumothorax": r"pneumothorax",
}
NEGATION = re.compile(r"\b(?:no|not|negative for|without|resolved|resolution of)\b", re.IGNORECASE)


def read(text: str) -> dict[str, int]:
    """Read labels: 1 where a sentence names it, 0 where one denies it; later ones do not win."""
    found: dict[str, int] = {}
    for sentence in re.split(r"(?<=[a-z0-9)])\.(?:\s|$)", text):
        denied = bool(NEGATION.search(sentence))
        for label, pattern in TERMS.items():
            if re.search(pattern, sentence, re.IGNORECASE):
                found[label] = max(found.get(label, 0), int(not denied))
    opacities = [found.get(x) for x in ("Lung mass", "Consolidation", "Ground-glass opacity")]
    found["Lung opacity"] = int(1 in opacities)
    return found


def plant(finding: Finding, ordinal: int, factor: float) -> Planted:
    """A finding as if it had been drawn, without drawing it."""
    amount = finding.amount * factor
    shadow = Shadow(contrast=0.1, contrast_to_noise=1.0, center_uv=(0.0, 0.0))
    sized = {Kind.NODULE, Kind.MASS, Kind.LYMPHADENOPATHY, Kind.PERICARDIAL_EFFUSION}
    return Planted(
        finding=finding,
        ordinal=ordinal,
        size_mm=amount if finding.kind in sized else None,
        volume_ml=amount,
        center_mm=(0.0, 0.0, 0.0),
        share=min(1.0, amount if amount < 1 else amount / 200),
        shadows=(shadow, shadow),
    )


def pretend(patient: Patient, visit: int) -> Study:
    """A scan as if it had been made."""
    count, planted = Counter[Kind](), []
    for finding in patient.findings:
        if finding.course[visit] > 0:
            count[finding.kind] += 1
            planted.append(plant(finding, count[finding.kind], finding.course[visit]))
    ratio = 0.56 if count[Kind.CARDIOMEGALY] else 0.46 + 0.05 * (patient.number % 10 == 0)
    nothing = np.zeros((1, 1, 1))
    return Study(
        patient=patient,
        scan=patient.scans[visit],
        grid=Grid(shape=(1, 1, 1), spacing_mm=(1.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0)),
        hu=nothing.astype(np.float32),
        mask=nothing.astype(np.int16),
        planted=tuple(planted),
        cardiothoracic_ratio=ratio,
        labels=make_labels(planted, ratio),
    )


@pytest.fixture(scope="module")
def reports(base: Base) -> list[tuple[Study, Text]]:
    return list(write_many(base, PATIENTS))


def write_many(base: Base, patients: int) -> Iterator[tuple[Study, Text]]:
    config = CohortConfig(patients=PatientsConfig(seed=7, follow_up=0.4))
    for number in range(1, patients + 1):
        patient = draw_patient(number, config, base)
        before = None
        for visit in range(len(patient.scans)):
            study = pretend(patient, visit)
            yield study, write_report(study, before)
            before = study


def test_what_the_findings_say_is_what_the_labels_say(
    reports: list[tuple[Study, Text]],
) -> None:
    for study, text in reports:
        told = read(text.findings)
        for label, value in study.labels.items():
            if value == 1:
                assert told.get(label) == 1, (label, text.findings)
            else:
                assert told.get(label, 0) == 0, (label, text.findings)


def test_the_impression_names_nothing_that_is_not_there(
    reports: list[tuple[Study, Text]],
) -> None:
    for study, text in reports:
        for label, value in read(text.impression).items():
            assert value <= study.labels.get(label, 0), (label, text.impression)
        if study.planted:
            assert 1 in read(text.impression).values()


def test_many_findings_are_denied_and_many_are_passed_over(
    reports: list[tuple[Study, Text]],
) -> None:
    denied = sum(0 in read(text.findings).values() for _, text in reports)
    assert denied > 0.9 * len(reports)
    silent = sum("Emphysema" not in read(text.findings) for _, text in reports)
    assert 0.3 < silent / len(reports) < 0.95


@pytest.mark.slow
def test_there_are_thousands_of_distinct_reports(base: Base) -> None:
    distinct = {text for _, text in write_many(base, 3000)}
    assert len(distinct) > 3000


def test_no_two_reports_with_findings_are_alike(reports: list[tuple[Study, Text]]) -> None:
    distinct = {text for _, text in reports}
    assert len(distinct) > 0.93 * len(reports)
    sick = [text for study, text in reports if len(study.planted) > 1]
    assert len(set(sick)) == len(sick)


def test_sides_and_lobes_in_the_text_are_those_of_the_findings(
    reports: list[tuple[Study, Text]],
) -> None:
    for study, text in reports:
        lobes = set(
            re.findall(r"(?:left|right) (?:upper|middle|lower) lobe", text.findings.lower())
        )
        planned = {p.finding.place for p in study.planted}
        assert lobes <= planned
        (*fluid,) = [p for p in study.planted if p.kind is Kind.PLEURAL_EFFUSION]
        if len(fluid) == 1:
            (said,) = re.findall(r"[^.]*pleural effusion[^.]*\.", text.findings)[:1]
            assert str(fluid[0].finding.side) in said.lower()


def test_sizes_in_the_text_are_those_of_the_nodules(reports: list[tuple[Study, Text]]) -> None:
    checked = 0
    for study, text in reports:
        nodules = [p for p in study.planted if p.kind is Kind.NODULE]
        if len(nodules) != 1 or any(p.kind is Kind.MASS for p in study.planted):
            continue
        said = next(
            s
            for s in re.split(r"(?<!\d)\.\s|\.$", text.findings)
            if "nodule" in s.lower() and re.search(r"\d", s)
        )
        now = re.sub(r",? (previously|formerly|before) .*", "", said)
        number, unit = re.findall(r"(\d+(?:\.\d)?) (mm|cm)", now)[0]
        mm = float(number) * (10 if unit == "cm" else 1)
        assert mm == pytest.approx(nodules[0].size_mm or 0, abs=0.51)
        checked += 1
    assert checked > 30


def test_growth_is_told(base: Base, reports: list[tuple[Study, Text]]) -> None:
    grown = [
        text.findings
        for study, text in reports
        if study.scan.name == "b"
        and [p for p in study.planted if p.kind is Kind.MASS and p.finding.course[1] > 1.1]
    ]
    assert grown
    for text in grown:
        assert re.search(r"previously|formerly|before", text)
        assert re.search(r"ompar", text)


def test_a_heart_in_between_has_no_label_and_is_neither_called_normal_nor_large(
    reports: list[tuple[Study, Text]],
) -> None:
    between = [
        (s, t)
        for s, t in reports
        if s.cardiothoracic_ratio > LARGE_HEART and not s.labels.get("Cardiomegaly")
    ]
    assert between
    for study, text in between:
        assert "Cardiomegaly" not in study.labels
        assert "Cardiomegaly" not in read(text.findings)
        assert "Heart size is normal" not in text.findings


def test_the_same_scan_gets_the_same_words(base: Base) -> None:
    patient = draw_patient(5, CohortConfig(), base)
    assert write_report(pretend(patient, 0), None) == write_report(pretend(patient, 0), None)
    other = replace(patient, seeds=(patient.seeds[0], patient.seeds[1] + 1))
    assert write_report(pretend(other, 0), None) != write_report(pretend(patient, 0), None)


@pytest.mark.parametrize(
    ("text", "label", "value"),
    [
        ("No pleural effusion or pneumothorax.", "Pneumothorax", 0),
        ("Small left pleural effusion.", "Pleural effusion", 1),
        ("Negative for lung mass.", "Lung mass", 0),
        ("The previously seen pleural effusion has resolved.", "Pleural effusion", 0),
        ("Mass of 3.5 cm, likely neoplastic. No emphysema.", "Lung mass", 1),
    ],
)
def test_the_reader_itself_can_read(text: str, label: str, value: int) -> None:
    assert read(text)[label] == value
