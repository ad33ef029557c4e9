"""Draw a virtual patient: who it is, what it has, and when it is scanned.

Which findings go together comes from common causes: every finding has a hidden normal score, part
of which it shares with others (a Gaussian copula with one factor a cause).
"""

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.random import Generator

from drrgen.cohort.base import LOBES, Base
from drrgen.cohort.chest import STATIONS
from drrgen.cohort.kinds import Finding, Kind, Side
from drrgen.cohort.settings import CohortConfig, ThemesConfig
from drrgen.cohort.shape import Pull, Shape, draw_follow_up, draw_shape

THEMES: dict[str, tuple[Kind, ...]] = {
    "age": (Kind.CORONARY_CALCIFICATION, Kind.AORTIC_CALCIFICATION, Kind.EMPHYSEMA,
            Kind.HIATAL_HERNIA, Kind.CARDIOMEGALY, Kind.MEDICAL_MATERIAL),
    "heart_failure": (Kind.CARDIOMEGALY, Kind.PLEURAL_EFFUSION, Kind.PERICARDIAL_EFFUSION,
                      Kind.MEDICAL_MATERIAL),
    "cancer": (Kind.MASS, Kind.NODULE, Kind.LYMPHADENOPATHY, Kind.PLEURAL_EFFUSION),
    "infection": (Kind.CONSOLIDATION, Kind.GROUND_GLASS, Kind.PLEURAL_EFFUSION, Kind.ATELECTASIS),
}  # fmt: skip
HEART_RATE = (0.10, 0.34)  # of a large heart
PRESSED_ML = 250.0  # so much fluid presses lung together
_LOBE_VOLUMES = (0.27, 0.20, 0.24, 0.06, 0.23)  # in the order of LOBES, of the real CT


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One visit.

    Attributes:
        name: a, b, c in order of time.
        months: Since the first scan.
        shape: Habitus and breath.
        contrast: Contrast medium is given.
        kernels: Of its reconstructions, in order.
        noise_hu: Standard deviation of the soft kernel's noise [HU].
    """

    name: str
    months: int
    shape: Shape
    contrast: bool
    kernels: tuple[str, ...]
    noise_hu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A virtual patient.

    Attributes:
        number: Counted from 1.
        female: Sex.
        age: At the first scan [years].
        findings: What is planted, in that order.
        scans: Visits.
        seeds: Of noise and of words, one number each.
    """

    number: int
    female: bool
    age: int
    findings: tuple[Finding, ...]
    scans: tuple[Scan, ...]
    seeds: tuple[int, int]

    @property
    def key(self) -> str:
        """Name of the patient."""
        return f"virtual_{self.number:04d}"


def draw_patient(number: int, config: CohortConfig, base: Base) -> Patient:
    """Draw a patient; the same number and settings give the same patient.

    Habitus, findings, noise and words have generators of their own, so that none tells of another.

    Args:
        number: Counted from 1.
        config: All settings.
        base: The real CT.
    """
    root = np.random.SeedSequence([config.patients.seed, number])
    who, what, when, noise, words = (np.random.default_rng(each) for each in root.spawn(5))
    female = bool(who.random() < config.patients.female)
    present, age_score = _draw_kinds(what, config)
    scans = _count_scans(when, config)
    findings = tuple(f for kind in Kind if kind in present for f in _draw(kind, what, scans))
    findings = _add_pressed_lung(findings)
    shape = draw_shape(who, female=female, hyperinflated=Kind.EMPHYSEMA in present)
    age = int(np.clip(round(58 + 15 * age_score + who.normal(0, 5)), 20, 95))
    return Patient(
        number=number,
        female=female,
        age=age,
        findings=findings,
        scans=tuple(_draw_scans(when, shape, findings, scans, config, base)),
        seeds=(int(noise.integers(2**31)), int(words.integers(2**31))),
    )


def _draw_kinds(chance: Generator, config: CohortConfig) -> tuple[frozenset[Kind], float]:
    """Draw which findings there are, and how old the patient is (a normal score)."""
    scores = dict(zip(THEMES, chance.standard_normal(len(THEMES)), strict=True))
    if chance.random() < config.patients.healthy:
        return frozenset(), float(scores["age"]) - 0.5
    for _ in range(200):
        present = frozenset(
            kind
            for kind in Kind
            if _score(kind, scores, config.themes, chance)
            > NormalDist().inv_cdf(1 - min(max(config.prevalence.of(kind), 1e-9), 1 - 1e-9))
        )
        if present:
            return present, float(scores["age"])
        scores = dict(zip(THEMES, chance.standard_normal(len(THEMES)), strict=True))
    return frozenset(), float(scores["age"])


def _score(kind: Kind, scores: dict[str, float], themes: ThemesConfig, chance: Generator) -> float:
    """Make the hidden normal score of a finding: its causes, and chance."""
    loads = {name: getattr(themes, name) for name, kinds in THEMES.items() if kind in kinds}
    # Several causes share at most nine tenths of the variance.
    total = sum(load**2 for load in loads.values())
    shrink = min(1.0, (0.9 / total) ** 0.5) if total else 0.0
    common = sum(shrink * load * scores[name] for name, load in loads.items())
    return float(common + (1 - shrink**2 * total) ** 0.5 * chance.standard_normal())


def _count_scans(chance: Generator, config: CohortConfig) -> int:
    """Draw how many scans a patient has."""
    if chance.random() >= config.patients.follow_up:
        return 1
    return 2 if chance.random() >= 1 / 3 else 3


def _draw(kind: Kind, chance: Generator, scans: int) -> list[Finding]:
    """Draw the findings of a kind."""
    return [
        replace(
            finding,
            seed=int(chance.integers(2**31)),
            course=_draw_course(finding, chance, scans),
        )
        for finding in _PLANS[kind](chance)
    ]


_GROWS = {Kind.NODULE: (1.0, 1.0, 1.25, 1.5), Kind.MASS: (1.0, 1.0, 1.2),
          Kind.LYMPHADENOPATHY: (1.0, 1.0, 1.2)}  # fmt: skip
_COMES_AND_GOES = (Kind.CONSOLIDATION, Kind.GROUND_GLASS, Kind.ATELECTASIS,
                   Kind.PERICARDIAL_EFFUSION)  # fmt: skip
_GOES = (Kind.PLEURAL_EFFUSION, Kind.PNEUMOTHORAX)  # growing, they would take nodules in
LARGEST_NODULE_MM = 29.0  # more is a mass


def _draw_course(finding: Finding, chance: Generator, scans: int) -> tuple[float, ...]:
    """Draw how a finding goes on: growth, or coming and going."""
    if finding.kind in _GROWS:
        rate = float(chance.choice(_GROWS[finding.kind]))
        most = LARGEST_NODULE_MM / finding.amount if finding.kind is Kind.NODULE else np.inf
        return tuple(min(rate**i, most) for i in range(scans))
    if finding.kind in _COMES_AND_GOES + _GOES:
        steps = [0.0, 0.6, 1.0] + [1.3] * (finding.kind in _COMES_AND_GOES)
        later = chance.choice(steps, size=2)
        if finding.kind in _GOES:
            later = np.minimum.accumulate(later)
        factors = [1.0, *later.tolist()][:scans]
        return tuple(0.0 if 0.0 in factors[:i] else f for i, f in enumerate(factors))
    return (1.0,) * scans


def _draw_lobe(chance: Generator) -> tuple[str, Side]:
    """Draw a lobe by its volume."""
    lobe = str(chance.choice(list(LOBES), p=_LOBE_VOLUMES))
    return lobe, Side(lobe.split(maxsplit=1)[0])


def _plan_nodules(chance: Generator) -> list[Finding]:
    """One to four nodules of the same patient, most of them solid."""
    count = int(chance.choice([1, 2, 3, 4], p=[0.55, 0.25, 0.12, 0.08]))
    found = []
    for _ in range(count):
        lobe, side = _draw_lobe(chance)
        variant = str(chance.choice(["solid", "ground-glass", "calcified"], p=[0.72, 0.16, 0.12]))
        largest = 12.0 if variant == "calcified" else 20.0
        size = float(np.clip(chance.gamma(3.0, 3.2), 5.0, largest))
        found.append(Finding(kind=Kind.NODULE, amount=size, side=side, place=lobe, variant=variant))
    return found


def _plan_mass(chance: Generator) -> list[Finding]:
    """One mass; its largest size, at follow-up, stays below 100 mm."""
    lobe, side = _draw_lobe(chance)
    size = float(chance.uniform(32, 50))
    return [Finding(kind=Kind.MASS, amount=size, side=side, place=lobe, variant="solid")]


def _plan_opacity(kind: Kind, chance: Generator) -> list[Finding]:
    """One to three opacities."""
    most = 2 if kind is Kind.CONSOLIDATION else 3
    found = []
    for _ in range(int(chance.integers(1, most + 1))):
        lobe, side = _draw_lobe(chance)
        size = float(chance.uniform(35, 90))
        found.append(Finding(kind=kind, amount=size, side=side, place=lobe))
    return found


def _plan_atelectasis(chance: Generator) -> list[Finding]:
    """A plate low in a lung, sometimes on both sides; or a whole lobe that collapses."""
    if chance.random() < 0.3:
        lobe, side = _draw_lobe(chance)
        loss = float(chance.uniform(0.35, 0.65))
        return [Finding(kind=Kind.ATELECTASIS, amount=loss, side=side, place=lobe, variant="lobar")]
    sides = [Side.LEFT, Side.RIGHT] if chance.random() < 0.3 else [Side(chance.choice(list(Side)))]
    return [
        Finding(
            kind=Kind.ATELECTASIS,
            amount=float(chance.uniform(30, 65)),
            side=side,
            place=f"{side} lower lobe",
            variant="linear",
        )
        for side in sides
    ]


def _plan_effusion(chance: Generator) -> list[Finding]:
    """Fluid on one side or both."""
    sides = list(Side) if chance.random() < 0.45 else [Side(chance.choice(list(Side)))]
    return [
        Finding(
            kind=Kind.PLEURAL_EFFUSION,
            amount=float(np.clip(chance.lognormal(5.7, 0.7), 80, 1000)),
            side=side,
        )
        for side in sides
    ]


def _plan_one(
    kind: Kind, low: float, high: float, chance: Generator, *, sided: bool = False
) -> list[Finding]:
    """Plan one finding with an amount between two numbers."""
    side = Side(chance.choice(list(Side))) if sided else None
    return [Finding(kind=kind, amount=float(chance.uniform(low, high)), side=side)]


def _plan_nodes(chance: Generator) -> list[Finding]:
    """One to four stations."""
    count = int(chance.integers(1, 5))
    places = chance.choice(list(STATIONS), count, replace=False)
    return [
        Finding(kind=Kind.LYMPHADENOPATHY, amount=float(chance.uniform(12, 26)), place=str(place))
        for place in places
    ]


def _plan_coronary(chance: Generator) -> list[Finding]:
    """One to three arteries, the left anterior descending first."""
    count = int(chance.integers(1, 4))
    return [
        Finding(kind=Kind.CORONARY_CALCIFICATION, amount=float(chance.integers(2, 8)), place=artery)
        for artery in ("lad", "rca", "lcx")[:count]
    ]


def _plan_material(chance: Generator) -> list[Finding]:
    """A pacemaker, mostly on the left, or a port, mostly on the right."""
    pacemaker = bool(chance.random() < 0.6)
    usual = bool(chance.random() < 0.85)
    side = Side.LEFT if pacemaker == usual else Side.RIGHT
    variant = "pacemaker" if pacemaker else "port"
    return [Finding(kind=Kind.MEDICAL_MATERIAL, amount=1.0, side=side, variant=variant)]


_PLANS = {
    Kind.EMPHYSEMA: lambda c: _plan_one(Kind.EMPHYSEMA, 0.08, 0.45, c),
    Kind.GROUND_GLASS: lambda c: _plan_opacity(Kind.GROUND_GLASS, c),
    Kind.CONSOLIDATION: lambda c: _plan_opacity(Kind.CONSOLIDATION, c),
    Kind.ATELECTASIS: _plan_atelectasis,
    Kind.PNEUMOTHORAX: lambda c: _plan_one(Kind.PNEUMOTHORAX, 0.06, 0.4, c, sided=True),
    Kind.PLEURAL_EFFUSION: _plan_effusion,
    Kind.CARDIOMEGALY: lambda c: _plan_one(Kind.CARDIOMEGALY, *HEART_RATE, c),
    Kind.PERICARDIAL_EFFUSION: lambda c: _plan_one(Kind.PERICARDIAL_EFFUSION, 7.0, 25.0, c),
    Kind.HIATAL_HERNIA: lambda c: _plan_one(Kind.HIATAL_HERNIA, 30.0, 75.0, c),
    Kind.LYMPHADENOPATHY: _plan_nodes,
    Kind.MASS: _plan_mass,
    Kind.NODULE: _plan_nodules,
    Kind.CORONARY_CALCIFICATION: _plan_coronary,
    Kind.AORTIC_CALCIFICATION: lambda c: _plan_one(Kind.AORTIC_CALCIFICATION, 2.0, 18.0, c),
    Kind.MEDICAL_MATERIAL: _plan_material,
}


def _add_pressed_lung(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Let large effusions press lung together, which is an atelectasis of its own."""
    pressed = [
        replace(
            finding,
            kind=Kind.ATELECTASIS,
            variant="compressive",
            place=f"{finding.side} lower lobe",
            # Gone where the fluid has become too little.
            course=tuple(f if f * finding.amount >= PRESSED_ML else 0.0 for f in finding.course),
        )
        for finding in findings
        if finding.kind is Kind.PLEURAL_EFFUSION and finding.amount >= PRESSED_ML
    ]
    order = list(Kind)
    return tuple(sorted([*findings, *pressed], key=lambda f: order.index(f.kind)))


def _draw_scans(
    chance: Generator,
    shape: Shape,
    findings: tuple[Finding, ...],
    count: int,
    config: CohortConfig,
    base: Base,
) -> list[Scan]:
    """Draw the visits of a patient."""
    scans, months = [], 0
    for i in range(count):
        habitus = draw_follow_up(shape, chance) if i else shape
        kernels = (
            ("soft", "sharp")
            if chance.random() < config.patients.second_reconstruction
            else ("soft",)
        )
        scans.append(
            Scan(
                name="abc"[i],
                months=months,
                shape=_add_disease(habitus, findings, i, base),
                contrast=bool(chance.random() < config.patients.contrast),
                kernels=kernels,
                noise_hu=float(chance.uniform(7, 18)),
            )
        )
        months += int(chance.integers(2, 13))
    return scans


def _add_disease(shape: Shape, findings: tuple[Finding, ...], scan: int, base: Base) -> Shape:
    """Let a large heart and collapsed lobes change the shape."""
    heart, pulls = shape.heart, []
    for finding in findings:
        factor = finding.course[scan]
        if finding.kind is Kind.CARDIOMEGALY:
            heart = finding.amount * factor
        if finding.variant == "lobar" and factor > 0:
            pulls.append(_collapse(finding, base))
    return replace(shape, heart=heart, pulls=tuple(pulls))


def _collapse(finding: Finding, base: Base) -> Pull:
    """Pull a lobe together, towards the hilum."""
    lobe = np.array(base.landmarks[LOBES[finding.place]])
    hilum = np.array(base.landmarks["carina"])
    z, y, x = (lobe + 0.25 * (hilum - lobe)).tolist()
    return Pull(center_mm=(z, y, x), reach_mm=48.0, rate=float(np.log(1 - finding.amount)))
