"""The report of a scan: findings and impression, in words that say what its labels say.

Every finding that is planted is told, with side, place and size. Of those that are not, some are
denied and the others are passed over in silence, as radiologists do. No sentence names a finding
that is neither told nor denied, so a reader who knows negation recovers the labels from the text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from drrgen.cohort.kinds import Kind
from drrgen.cohort.scan import LARGE_HEART, Planted, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A report."""

    findings: str
    impression: str


@dataclass(slots=True, kw_only=True)
class Writer:
    """One report in the making: a radiologist of a certain habit.

    Attributes:
        chance: Chooses the words.
        centimeters: Sizes of a centimetre and more are given in centimetres.
        before: The same patient's earlier scan.
        months: Since that scan.
    """

    chance: Generator
    centimeters: bool
    before: Study | None
    months: int

    def pick(self, *words: str) -> str:
        """Choose one of several wordings."""
        return words[int(self.chance.integers(len(words)))]

    def size(self, mm: float) -> str:
        """Write a size."""
        if self.centimeters and mm >= 10:
            return f"{mm / 10:.1f} cm"
        return f"{round(mm)} mm"

    def find_earlier(self, planted: Planted) -> Planted | None:
        """Find the same finding at the earlier scan."""
        if self.before is None:
            return None
        same = (planted.finding.seed, planted.kind)
        return next((p for p in self.before.planted if (p.finding.seed, p.kind) == same), None)

    def compare(self, planted: Planted) -> str:
        """Say how a measured finding has changed."""
        earlier = self.find_earlier(planted)
        if earlier is None or not planted.size_mm or not earlier.size_mm:
            return ""
        if round(planted.size_mm) > round(earlier.size_mm):
            return f", {self.pick('previously', 'formerly', 'before')} {self.size(earlier.size_mm)}"
        return self.pick(", unchanged", ", stable", "")


def write_report(study: Study, before: Study | None) -> Text:
    """Write the report of a scan; all its reconstructions share it.

    Args:
        study: The scan.
        before: The scan before it, of the same patient.
    """
    chance = np.random.default_rng([study.patient.seeds[1], ord(study.scan.name)])
    writer = Writer(
        chance=chance,
        centimeters=bool(chance.random() < 0.4),
        before=before,
        months=study.scan.months - (before.scan.months if before else 0),
    )
    told = _tell_all(study, writer)
    parts = [
        _join([*told[system], *_deny(study, system, writer), *_pass(system, study, writer)], writer)
        for system in _order_systems(writer)
    ]
    opening = _open(study, writer)
    findings = " ".join(part for part in (opening, *parts) if part)
    return Text(findings=findings, impression=_conclude(study, writer))


SYSTEMS: dict[str, tuple[Kind, ...]] = {
    "lungs": (Kind.MASS, Kind.NODULE, Kind.CONSOLIDATION, Kind.GROUND_GLASS, Kind.ATELECTASIS,
              Kind.EMPHYSEMA),
    "pleura": (Kind.PLEURAL_EFFUSION, Kind.PNEUMOTHORAX),
    "heart": (Kind.CARDIOMEGALY, Kind.PERICARDIAL_EFFUSION, Kind.CORONARY_CALCIFICATION),
    "mediastinum": (Kind.LYMPHADENOPATHY, Kind.AORTIC_CALCIFICATION, Kind.HIATAL_HERNIA),
    "rest": (Kind.MEDICAL_MATERIAL,),
}  # fmt: skip


def _order_systems(writer: Writer) -> list[str]:
    """Go through the chest from the lungs outwards, or from the heart."""
    systems = list(SYSTEMS)
    if writer.chance.random() < 0.4:
        systems = ["mediastinum", "heart", "lungs", "pleura", "rest"]
    if writer.chance.random() < 0.3:
        systems = ["rest", *[s for s in systems if s != "rest"]]
    return systems


def _open(study: Study, writer: Writer) -> str:
    """Say how the scan was done, and what it is compared with."""
    said = []
    if writer.chance.random() < 0.5:
        said.append(
            writer.pick("Intravenous contrast was given.", "Contrast-enhanced examination.")
            if study.scan.contrast
            else writer.pick("Examination without intravenous contrast.", "Unenhanced examination.")
        )
    if writer.before is not None:
        said.append(
            writer.pick(
                f"Compared with the scan {writer.months} months ago.",
                f"Comparison: CT of {writer.months} months earlier.",
            )
        )
    elif writer.chance.random() < 0.3:
        said.append(writer.pick("There are no earlier studies.", "Comparison: none."))
    if writer.chance.random() < 0.25:
        said.append(
            writer.pick(
                "The patient was scanned supine with the arms raised.",
                "Axial images of the chest in inspiration.",
            )
        )
    return " ".join(said)


def _tell_all(study: Study, writer: Writer) -> dict[str, list[str]]:
    """Tell every finding, sorted by the part of the chest."""
    told: dict[str, list[str]] = {}
    for system, kinds in SYSTEMS.items():
        told[system] = []
        for kind in kinds:
            found = [p for p in study.planted if p.kind is kind]
            told[system] += _TELL[kind](found, writer) if found else _tell_gone(kind, writer)
    return told


def _tell_gone(kind: Kind, writer: Writer) -> list[str]:
    """Say that a finding of the earlier scan has gone."""
    if writer.before is None or not any(p.kind is kind for p in writer.before.planted):
        return []
    if kind is Kind.CARDIOMEGALY:
        return []
    name = writer.pick(*_NAMES[kind])
    return [
        writer.pick(
            f"The previously seen {name} has resolved.", f"Interval resolution of the {name}."
        )
    ]


def _tell_nodules(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell nodules one by one, or the largest of many."""
    if len(found) >= 3 and writer.chance.random() < 0.5:
        largest = max(found, key=lambda p: p.size_mm or 0)
        size, change = writer.size(largest.size_mm or 0), writer.compare(largest)
        many = f"{writer.pick('Multiple', 'Several')} {writer.pick('pulmonary', 'lung')} nodules"
        of = writer.pick("measuring", "of")
        return [f"{many}, the largest {of} {size} in the {largest.finding.place}{change}."]
    return [_tell_nodule(each, writer) for each in found]


def _tell_nodule(each: Planted, writer: Writer) -> str:
    """Tell one nodule."""
    size, lobe = writer.size(each.size_mm or 0), each.finding.place
    kind = writer.pick(f"{each.finding.variant} ", f"{each.finding.variant} ", "")
    change = writer.compare(each)
    return writer.pick(
        f"{size} {kind}nodule in the {lobe}{change}.",
        f"There is a {size} {kind}nodule in the {lobe}{change}.",
        f"A {kind}pulmonary nodule of {size} is seen in the {lobe}{change}.",
        f"In the {lobe} there is a {kind}nodule measuring {size}{change}.",
        f"{_capital(lobe)}: {kind}lung nodule, {size}{change}.",
    )


def _tell_masses(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell a mass, with what it may be."""
    said = []
    for each in found:
        size, lobe, change = (
            writer.size(each.size_mm or 0),
            each.finding.place,
            writer.compare(each),
        )
        hedge = writer.pick(
            ", suspicious for malignancy", ", concerning for primary lung cancer",
            ", likely neoplastic", "",
        )  # fmt: skip
        said.append(
            writer.pick(
                f"{_capital(lobe)} mass measuring {size}{change}{hedge}.",
                f"There is a lobulated mass of {size} in the {lobe}{change}{hedge}.",
                f"A {size} soft-tissue mass is present in the {lobe}{change}{hedge}.",
            )
        )
    return said


def _tell_opacities(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell consolidations or ground-glass opacities, all lobes in one sentence."""
    lobes = _list(sorted({p.finding.place for p in found}))
    largest = max(found, key=lambda p: p.share)
    grade = {"small": "Small", "moderate": "Patchy", "large": "Extensive"}[largest.severity]
    if found[0].kind is Kind.CONSOLIDATION:
        hedge = writer.pick(", likely infectious", ", may represent pneumonia", "", "")
        return [
            writer.pick(
                f"{grade} consolidation in the {lobes}{hedge}.",
                f"There is {grade.lower()} airspace consolidation of the {lobes}{hedge}.",
                f"{grade} consolidative opacity in the {lobes}{hedge}.",
            )
        ]
    hedge = writer.pick(", nonspecific", ", possibly inflammatory", "", "")
    return [
        writer.pick(
            f"{grade} ground-glass opacity in the {lobes}{hedge}.",
            f"{grade} areas of ground-glass attenuation are seen in the {lobes}{hedge}.",
            f"In the {lobes}, {grade.lower()} ground glass opacities{hedge}.",
        )
    ]


def _tell_atelectasis(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell atelectasis by its form."""
    said = []
    for variant in ("lobar", "compressive", "linear"):
        each = [p for p in found if p.finding.variant == variant]
        if not each:
            continue
        lobes = _list([p.finding.place for p in each])
        if variant == "lobar":
            said.append(
                writer.pick(
                    f"Atelectasis of the {lobes} with volume loss.",
                    f"Collapse of the {lobes} with volume loss.",
                    f"The {lobes} is atelectatic and small.",
                )
            )
        elif variant == "compressive":
            said.append(
                writer.pick(
                    f"Compressive atelectasis of the {lobes}.",
                    f"Adjacent passive atelectasis in the {lobes}.",
                )
            )
        else:
            said.append(
                writer.pick(
                    f"Linear atelectasis in the {lobes}.",
                    f"Plate-like atelectasis in the {lobes}.",
                    f"Subsegmental atelectatic band in the {lobes}.",
                )
            )
    return said


def _tell_emphysema(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell emphysema and its degree."""
    grade = {"small": "mild", "moderate": "moderate", "large": "severe"}[found[0].severity]
    return [
        writer.pick(
            f"{_capital(grade)} centrilobular emphysema, upper lobe predominant.",
            f"There is {grade} emphysema.",
            f"Emphysematous changes of {grade} degree in both lungs.",
        )
    ]


def _tell_effusions(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell pleural fluid, both sides together."""
    if len(found) == 2:
        first, second = sorted(found, key=lambda p: -p.volume_ml)
        side = f", larger on the {first.finding.side}"
        if first.volume_ml < 1.25 * second.volume_ml:
            side = writer.pick("", ", about equal on both sides")
        return [
            writer.pick(
                f"{_capital(first.severity)} bilateral pleural effusions{side}.",
                f"Pleural effusion on both sides, {first.severity}{side}.",
            )
        ]
    (each,) = found
    grade, side = each.severity, str(each.finding.side)
    about = writer.pick(f", about {round(each.volume_ml, -1):.0f} ml", "", ", layering dependently")
    return [
        writer.pick(
            f"{_capital(grade)} {side} pleural effusion{about}.",
            f"There is a {grade} pleural effusion on the {side}{about}.",
            f"{_capital(side)}-sided pleural effusion of {grade} size{about}.",
        )
    ]


def _tell_pneumothorax(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell air in the pleural space."""
    grade, side = found[0].severity, str(found[0].finding.side)
    return [
        writer.pick(
            f"{_capital(grade)} {side} pneumothorax.",
            f"There is a {grade} pneumothorax on the {side}, anterior.",
            f"{_capital(side)}-sided {grade} pneumothorax.",
        )
    ]


def _tell_cardiomegaly(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell a large heart."""
    grade = {"small": "mildly", "moderate": "moderately", "large": "markedly"}[found[0].severity]
    return [
        writer.pick(
            f"The heart is {grade} enlarged.",
            "Cardiomegaly.",
            f"{_capital(grade)} enlarged cardiac silhouette.",
        )
    ]


def _tell_pericardium(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell pericardial fluid."""
    each = found[0]
    upto = writer.pick(f", up to {writer.size(each.size_mm or 0)} thick", "")
    return [
        writer.pick(
            f"{_capital(each.severity)} pericardial effusion{upto}.",
            f"There is a {each.severity} pericardial effusion{upto}.",
            f"Fluid in the pericardium, {each.severity}{upto}.",
        )
    ]


def _tell_coronaries(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell coronary calcium and its arteries."""
    names = {"lad": "left anterior descending", "lcx": "circumflex", "rca": "right coronary"}
    arteries = _list([names[p.finding.place] for p in found])
    noun = "artery" if len(found) == 1 else "arteries"
    return [
        writer.pick(
            "Coronary artery calcification.",
            f"Coronary calcifications of the {arteries} {noun}.",
            f"Calcified coronary plaque in the {arteries} {noun}.",
        )
    ]


def _tell_aorta(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell calcium in the wall of the aorta."""
    grade = {"small": "Mild", "moderate": "Moderate", "large": "Extensive"}[found[0].severity]
    return [
        writer.pick(
            f"{grade} calcification of the thoracic aorta.",
            f"{grade} atherosclerotic calcification of the aortic wall.",
            f"{grade} calcified atheroma of the aorta.",
        )
    ]


def _tell_nodes(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell enlarged lymph nodes by station."""
    largest = max(found, key=lambda p: p.size_mm or 0)
    stations = _list([p.finding.place for p in found])
    size, change = writer.size(largest.size_mm or 0), writer.compare(largest)
    axis = writer.pick("in short axis", "short axis")
    return [
        writer.pick(
            f"Enlarged {stations} lymph nodes, up to {size} {axis}{change}.",
            f"Lymphadenopathy: {stations}, the largest node {size} {axis}{change}.",
            f"Mediastinal and hilar lymphadenopathy ({stations}), measuring up to {size}{change}.",
        )
    ]


def _tell_hernia(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell a hiatal hernia."""
    grade = found[0].severity
    return [
        writer.pick(
            f"{_capital(grade)} hiatal hernia.",
            f"There is a {grade} hiatus hernia.",
            f"{_capital(grade)} sliding-type hiatal hernia behind the heart.",
        )
    ]


def _tell_material(found: Sequence[Planted], writer: Writer) -> list[str]:
    """Tell what was put in."""
    side = str(found[0].finding.side)
    if found[0].finding.variant == "pacemaker":
        return [
            writer.pick(
                f"{_capital(side)} chest wall pacemaker with leads to the right heart.",
                f"{_capital(side)}-sided pacemaker, leads in the right atrium and ventricle.",
                f"A pacemaker is in place on the {side}.",
            )
        ]
    return [
        writer.pick(
            f"{_capital(side)} chest port with its catheter in the right atrium.",
            f"{_capital(side)}-sided port catheter, tip in the right atrium.",
            f"A port is in place on the {side}.",
        )
    ]


_TELL: dict[Kind, Callable[[Sequence[Planted], Writer], list[str]]] = {
    Kind.NODULE: _tell_nodules,
    Kind.MASS: _tell_masses,
    Kind.CONSOLIDATION: _tell_opacities,
    Kind.GROUND_GLASS: _tell_opacities,
    Kind.ATELECTASIS: _tell_atelectasis,
    Kind.EMPHYSEMA: _tell_emphysema,
    Kind.PLEURAL_EFFUSION: _tell_effusions,
    Kind.PNEUMOTHORAX: _tell_pneumothorax,
    Kind.CARDIOMEGALY: _tell_cardiomegaly,
    Kind.PERICARDIAL_EFFUSION: _tell_pericardium,
    Kind.CORONARY_CALCIFICATION: _tell_coronaries,
    Kind.AORTIC_CALCIFICATION: _tell_aorta,
    Kind.LYMPHADENOPATHY: _tell_nodes,
    Kind.HIATAL_HERNIA: _tell_hernia,
    Kind.MEDICAL_MATERIAL: _tell_material,
}

_NAMES: dict[Kind, tuple[str, ...]] = {
    Kind.NODULE: ("pulmonary nodule", "lung nodule", "suspicious nodule"),
    Kind.MASS: ("lung mass", "pulmonary mass"),
    Kind.CONSOLIDATION: ("consolidation", "airspace consolidation"),
    Kind.GROUND_GLASS: ("ground-glass opacity", "ground-glass attenuation"),
    Kind.ATELECTASIS: ("atelectasis",),
    Kind.EMPHYSEMA: ("emphysema", "emphysematous change"),
    Kind.PLEURAL_EFFUSION: ("pleural effusion", "pleural fluid"),
    Kind.PNEUMOTHORAX: ("pneumothorax",),
    Kind.CARDIOMEGALY: ("cardiomegaly", "cardiac enlargement"),
    Kind.PERICARDIAL_EFFUSION: ("pericardial effusion", "pericardial fluid"),
    Kind.CORONARY_CALCIFICATION: ("coronary artery calcification", "coronary calcification"),
    Kind.AORTIC_CALCIFICATION: ("aortic calcification", "calcified atheroma of the aorta"),
    Kind.LYMPHADENOPATHY: ("lymphadenopathy", "enlarged lymph nodes"),
    Kind.HIATAL_HERNIA: ("hiatal hernia", "hiatus hernia"),
    Kind.MEDICAL_MATERIAL: ("pacemaker or port",),
}
# How often a radiologist denies what is not there.
_DENIED = {Kind.PLEURAL_EFFUSION: 0.8, Kind.PNEUMOTHORAX: 0.6, Kind.PERICARDIAL_EFFUSION: 0.6,
           Kind.LYMPHADENOPATHY: 0.7, Kind.NODULE: 0.6, Kind.CONSOLIDATION: 0.5,
           Kind.MASS: 0.5, Kind.MEDICAL_MATERIAL: 0.05}  # fmt: skip
_OTHERWISE_DENIED = 0.25


def _deny(study: Study, system: str, writer: Writer) -> list[str]:
    """Deny some of the findings that are not there."""
    there = {p.kind for p in study.planted}
    gone = {p.kind for p in writer.before.planted} if writer.before else set()
    absent = [kind for kind in SYSTEMS[system] if kind not in there | gone]
    if study.cardiothoracic_ratio > LARGE_HEART and Kind.CARDIOMEGALY in absent:
        absent.remove(Kind.CARDIOMEGALY)
    denied = [k for k in absent if writer.chance.random() < _DENIED.get(k, _OTHERWISE_DENIED)]
    if not denied:
        return []
    names = _list([writer.pick(*_NAMES[kind]) for kind in denied], word="or")
    return [
        writer.pick(
            f"No {names}.",
            f"There is no {names}.",
            f"No evidence of {names}.",
            f"No {names} is seen.",
            f"Negative for {names}.",
        )
    ]


def _pass(system: str, study: Study, writer: Writer) -> list[str]:
    """Say what is normal, or what is true and of no consequence."""
    there = {p.kind for p in study.planted}
    clear = not there & set(SYSTEMS[system])
    chance = writer.chance.random()
    if system == "heart":
        return _pass_heart(study, writer, chance)
    if system == "lungs" and chance > 0.8:
        return ["The trachea and main bronchi are patent."]
    near = there & _WITH[system]
    if not clear or near or chance > _NORMAL[system][0]:
        return []
    return [writer.pick(*_NORMAL[system][1])]


def _pass_heart(study: Study, writer: Writer, chance: float) -> list[str]:
    """Say how large a heart is that is not enlarged."""
    if any(p.kind is Kind.CARDIOMEGALY for p in study.planted):
        return []
    if study.cardiothoracic_ratio > LARGE_HEART:
        return [writer.pick("The heart is at the upper limit of normal in size.", "")]
    return [writer.pick("Heart size is normal.", "The heart is of normal size.")] * (chance < 0.5)


# What nobody calls normal beside it.
_WITH: dict[str, set[Kind]] = {
    "lungs": {Kind.PLEURAL_EFFUSION, Kind.PNEUMOTHORAX},
    "pleura": set(),
    "mediastinum": {Kind.CARDIOMEGALY, Kind.PERICARDIAL_EFFUSION, Kind.MASS},
    "rest": set(),
}
_NORMAL: dict[str, tuple[float, tuple[str, ...]]] = {
    "lungs": (0.5, ("The lungs are clear.", "Normal lung parenchyma.")),
    "pleura": (0.2, ("The pleural spaces are clear.", "Unremarkable pleura.")),
    "mediastinum": (0.5, ("Normal mediastinal contours.", "The mediastinum is unremarkable.")),
    "rest": (
        0.5,
        (
            "The adrenal glands are not enlarged.",
            "The ribs and the thoracic spine are included.",
            "The upper abdomen is only partly included.",
            "The thyroid gland is included.",
        ),
    ),
}

_GRAVE = (Kind.MASS, Kind.PNEUMOTHORAX, Kind.PLEURAL_EFFUSION, Kind.CONSOLIDATION, Kind.NODULE,
          Kind.LYMPHADENOPATHY, Kind.PERICARDIAL_EFFUSION, Kind.ATELECTASIS, Kind.GROUND_GLASS,
          Kind.CARDIOMEGALY, Kind.EMPHYSEMA, Kind.HIATAL_HERNIA, Kind.CORONARY_CALCIFICATION,
          Kind.AORTIC_CALCIFICATION, Kind.MEDICAL_MATERIAL)  # fmt: skip


def _conclude(study: Study, writer: Writer) -> str:
    """Sum up, the gravest first."""
    found = {kind: [p for p in study.planted if p.kind is kind] for kind in _GRAVE}
    present = [kind for kind in _GRAVE if found[kind]]
    if not present:
        return writer.pick(
            "No acute cardiopulmonary abnormality.", "Normal CT of the chest.",
            "Unremarkable examination.", "No significant abnormality.",
        )  # fmt: skip
    told = present[: int(writer.chance.integers(3, 6))]
    said = [sentence for kind in told for sentence in _TELL[kind](found[kind], writer)]
    if writer.chance.random() < 0.35:
        return " ".join(f"{i}. {sentence}" for i, sentence in enumerate(said, start=1))
    return " ".join(said)


def _join(sentences: Sequence[str], writer: Writer) -> str:
    """Put the sentences of a part together; what is normal may come first."""
    kept = [sentence for sentence in sentences if sentence]
    if len(kept) > 1 and writer.chance.random() < 0.3:
        kept = [kept[-1], *kept[:-1]]
    return " ".join(kept)


def _list(words: Sequence[str], *, word: str = "and") -> str:
    """List words: a, b and c; each once."""
    unique = list(dict.fromkeys(words))
    if len(unique) == 1:
        return unique[0]
    return f"{', '.join(unique[:-1])} {word} {unique[-1]}"


def _capital(text: str) -> str:
    """Begin with a capital letter."""
    return text[:1].upper() + text[1:]
