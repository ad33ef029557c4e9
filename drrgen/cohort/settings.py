"""Settings of a cohort: how many patients have what, and what goes with what."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from drrgen.cohort.kinds import Kind
from drrgen.errors import ConfigError

COHORT_VERSION = 1  # rises whenever any file of a cohort would change
SIZES = {"128": 128, "192": 192, "256": 256, "full": 512}


def _key(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"text": text})


def _check_share(record: object) -> None:
    """Raise ConfigError for a share outside 0 to 1."""
    for f in dataclasses.fields(record):  # type: ignore[arg-type]
        value = getattr(record, f.name)
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ConfigError(f"{f.name}: got {value}, wanted 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientsConfig:
    """What the patients are and how they are scanned.

    Raises:
        ConfigError: A value is out of range; the message names the key.
    """

    size: str = _key("128", "voxels along x and y: 128, 192, 256 or full (512)")
    seed: int = _key(0, "seed of everything")
    dicom: bool = _key(False, "write DICOM series instead of NIfTI")
    healthy: float = _key(0.2, "share of patients without any finding")
    female: float = _key(0.45, "share of women")
    contrast: float = _key(0.4, "share of scans with contrast medium")
    follow_up: float = _key(0.25, "share of patients with a second scan; of these again a third")
    second_reconstruction: float = _key(0.3, "share of scans with a sharp kernel beside the soft")

    def __post_init__(self) -> None:
        _check_share(self)
        if self.size not in SIZES:
            raise ConfigError(f"size: got {self.size!r}, wanted {', '.join(SIZES)}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed: got {self.seed}, wanted 0 to 2**63 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrevalenceConfig:
    """Share of patients with a finding, before those that end up with none are drawn again.

    The defaults are of the size that radiology reports of mixed chest CT have, so that there are
    several findings a patient; they describe no hospital.
    """

    emphysema: float = _key(0.18, "of all patients")
    ground_glass_opacity: float = _key(0.16, "of all patients")
    consolidation: float = _key(0.14, "of all patients")
    atelectasis: float = _key(0.18, "of all patients, without the lung that fluid presses together")
    pneumothorax: float = _key(0.05, "of all patients")
    pleural_effusion: float = _key(0.18, "of all patients")
    cardiomegaly: float = _key(0.18, "of all patients")
    pericardial_effusion: float = _key(0.10, "of all patients")
    hiatal_hernia: float = _key(0.12, "of all patients")
    lymphadenopathy: float = _key(0.20, "of all patients")
    mass: float = _key(0.10, "of all patients")
    nodule: float = _key(0.35, "of all patients")
    coronary_calcification: float = _key(0.28, "of all patients")
    aortic_calcification: float = _key(0.30, "of all patients")
    medical_material: float = _key(0.14, "of all patients")

    def __post_init__(self) -> None:
        _check_share(self)

    def of(self, kind: Kind) -> float:
        """Look up the share of a kind."""
        value: float = getattr(self, kind.value)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ThemesConfig:
    """How strongly findings go together: loading of a common cause, 0 none, 1 complete."""

    age: float = _key(0.55, "calcifications, emphysema, hernia, large heart, material")
    heart_failure: float = _key(0.6, "large heart, pleural and pericardial fluid, material")
    cancer: float = _key(0.6, "mass, nodules, lymph nodes, pleural fluid")
    infection: float = _key(0.6, "consolidation, ground glass, pleural fluid, atelectasis")

    def __post_init__(self) -> None:
        _check_share(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortConfig:
    """A whole configuration file: one record a section."""

    patients: PatientsConfig = PatientsConfig()
    prevalence: PrevalenceConfig = PrevalenceConfig()
    themes: ThemesConfig = ThemesConfig()


SECTIONS = tuple(f.name for f in dataclasses.fields(CohortConfig))


def find_cohort_fingerprint(config: CohortConfig, digest: str) -> str:
    """SHA-256 of all that touches a file of the cohort, as 16 hexadecimal digits.

    Args:
        config: All settings.
        digest: Digest of the real CT.
    """
    settings = {"version": COHORT_VERSION, "base": digest, **dataclasses.asdict(config)}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
