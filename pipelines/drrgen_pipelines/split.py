"""Which patient trains, tunes and tests: by a keyed hash, so that adding patients moves none."""

from drrgen.choices import Split
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
    share = int.from_bytes(keyed_hash(salt, "split", dataset, patient)[:8], "big") / 2**64
    if share < _TRAIN_SHARE:
        return Split.TRAIN
    return Split.DEV if share < _TRAIN_SHARE + _DEV_SHARE else Split.TEST
