"""Names that say nothing: keyed hashes of patients, studies and series.

The key is the user's salt. It never enters an output: with it anyone could test whether a known
patient is in a data set.
"""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from drrgen.errors import InputError
from drrgen.io.atomic import PARTIAL_MARK

_PSEUDONYM_BYTES = 10  # among a million studies two meet with a chance of 4e-13
_MIN_SALT_BYTES = 16


def read_salt(path: Path, *, make: bool = False) -> bytes:
    """Read the salt of a file.

    Args:
        path: The file; blanks at its end do not count.
        make: Make the file, readable by its owner only, when it is not there.

    Raises:
        InputError: No such file, or too short a salt.
    """
    if make and not path.exists():
        _make_salt(path)
    try:
        salt = path.read_bytes().strip()
    except OSError as error:
        raise InputError(
            f"cannot read the salt file {path}: {error.strerror}; give another --salt-file, or "
            "none to use your own"
        ) from error
    if len(salt) < _MIN_SALT_BYTES:
        raise InputError(
            f"the salt in {path} has {len(salt)} bytes, wanted {_MIN_SALT_BYTES} or more; write a "
            "long random line into it"
        )
    return salt


def _make_salt(path: Path) -> None:
    """Make a salt, unless another drrgen is faster: that one has it in use already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL_MARK}{secrets.token_hex(6)}")
    try:
        partial.touch(mode=0o600)
        partial.write_text(secrets.token_hex(32) + "\n", encoding="utf-8")
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def make_pseudonym(salt: bytes, *parts: str) -> str:
    """Hash what names a patient, study or series.

    Args:
        salt: The user's key.
        parts: What is hidden; the same parts give the same pseudonym.

    Returns:
        Twenty hexadecimal digits.
    """
    return keyed_hash(salt, *parts).hex()[: 2 * _PSEUDONYM_BYTES]


def keyed_hash(salt: bytes, *parts: str) -> bytes:
    """Hash some words with a key, so that no two lists of words run together (BLAKE2b)."""
    key = hashlib.blake2b(salt, digest_size=64).digest()
    hashed = hashlib.blake2b(key=key, digest_size=32)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.digest()
