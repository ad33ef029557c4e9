"""Which patient trains, tunes and tests: by a keyed hash, so that adding patients moves none."""

from dataclasses import dataclass, field

from drrgen.choices import Split
from drrgen.errors import InputError
from drrgen_pipelines.pseudonyms import keyed_hash

SPLIT_VERSION = "blake2b-80-10-10"

_TRAIN_SHARE, _DEV_SHARE = 0.8, 0.1


def find_split(salt: bytes, dataset: str, patient: str) -> Split:
    """Find the part of the data that a patient belongs to.

    Args:
        salt: The user's key.
        dataset: Name of the data set.
        patient: What names the patient in it.
    """
    share = _find_share(salt, "split", dataset, patient)
    if share < _TRAIN_SHARE:
        return Split.TRAIN
    return Split.DEV if share < _TRAIN_SHARE + _DEV_SHARE else Split.TEST


def keep_official(
    salt: bytes, dataset: str, patient: str, official: Split, *, dev_percent: int
) -> tuple[Split, str]:
    """Keep an official split, with a dev part drawn from its train patients.

    Args:
        salt: The user's key.
        dataset: Name of the data set.
        patient: What names the patient in it.
        official: What the data set says.
        dev_percent: How many percent of the train patients make the dev part.

    Returns:
        The split, and the rule that made it.
    """
    version = f"official-dev-{dev_percent}" if dev_percent else "official"
    drawn = _find_share(salt, "official dev", dataset, patient) < dev_percent / 100
    return (Split.DEV if official is Split.TRAIN and drawn else official), version


def _find_share(salt: bytes, word: str, dataset: str, patient: str) -> float:
    """Draw a number from 0 to 1 for a patient, always the same one."""
    return int.from_bytes(keyed_hash(salt, word, dataset, patient)[:8], "big") / 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitGuard:
    """Stops when one patient turns up in two splits, as official ones of a table may put him."""

    _seen: dict[str, str] = field(default_factory=dict)

    def check(self, patient: str, split: str) -> None:
        """Look at one study.

        Raises:
            InputError: The patient was in another split before.
        """
        before = self._seen.setdefault(patient, split)
        if before != split:
            raise InputError(
                f"the patient {patient} (a pseudonym) is in {before} and {split}; correct the "
                "split column of the metadata, or set split = hash in the recipe"
            )
