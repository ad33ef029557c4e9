"""By what a report finds its CT: named rules, one function each.

A wrong pair is worse than none. A name that could mean two CT is an error, never a guess. Names in
tables are compared with the names of files that were found; none is ever opened.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from drrgen.errors import InputError
from drrgen.io.ctrate import parse_ctrate_name
from drrgen.io.listing import CTFiles
from drrgen.io.radiograph_listing import DICOM_ENDINGS, PICTURE_ENDINGS, RadiographFile
from drrgen.io.tables import KeyRule
from drrgen.io.volumes import ENDINGS
from drrgen_pipelines.recipe import Pairing

_ALL_ENDINGS = (*ENDINGS, *PICTURE_ENDINGS, *DICOM_ENDINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """By what a CT or radiograph can be called in a table.

    Attributes:
        whole: Names that mean it and nothing else: its path under the root with and without the
            ending, its series.
        bare: Shorter names, which another may share: its file name, its folder.
        patient: What names its patient; "" where nothing does.
        numbers: AccessionNumber and StudyInstanceUID, as far as they are known.
    """

    whole: tuple[str, ...]
    bare: tuple[str, ...]
    patient: str = ""
    numbers: tuple[str, ...] = ()


def strip_ending(name: str) -> str:
    """Take the ending of a CT or picture off a name."""
    ending = next((end for end in _ALL_ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def name_file(found: CTFiles | RadiographFile, folder: str = "") -> Names:
    """List the names of a CT or radiograph.

    Args:
        found: Its files.
        folder: Of a DICOM series, the folder of all its slices under the root; "" where they lie
            in several, or in the root itself.
    """
    clinical = found.study_uid is not None
    if isinstance(found, CTFiles) and clinical:
        whole, bare = [found.name], [folder, PurePosixPath(folder).name]
    else:
        file = PurePosixPath(found.name).name
        whole, bare = [found.name, strip_ending(found.name)], [file, strip_ending(file)]
    return Names(
        whole=tuple(dict.fromkeys(whole)),
        bare=tuple(name for name in dict.fromkeys(bare) if name and name not in whole),
        patient=found.patient or "",
        numbers=tuple(number for number in (found.accession, found.study_uid) if number),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Which short names are shared, so that none is taken for two CT."""

    shared: frozenset[str]
    whole: frozenset[str]

    def match(self, names: Names, table: Container[str], place: str) -> list[str]:
        """Find the keys of a table that mean a CT: by a whole name, else by a short one.

        Args:
            names: Names of the CT.
            table: Keys, looked up by ``in``.
            place: The table, for messages.

        Raises:
            InputError: The only key that fits is a short name of several CT.
        """
        keys = [name for name in names.whole if name in table]
        if keys:
            return keys
        for name in names.bare:
            if name not in table or name in self.whole:
                continue
            if name in self.shared:
                raise InputError(
                    f"several files are called {name}, and {place} names {name}; name them there "
                    "by their path under the folder"
                )
            return [name]
        return []


def make_register(all_names: Iterable[Names]) -> Register:
    """Count the short names of everything that was found."""
    counts: Counter[str] = Counter()
    whole: set[str] = set()
    for names in all_names:
        counts.update(names.bare)
        whole.update(name for name in names.whole if "/" not in name)
    shared = frozenset(name for name, count in counts.items() if count > 1)
    return Register(shared=shared, whole=frozenset(whole))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeker:
    """What is known of a CT when its report is looked for.

    Attributes:
        names: Its names.
        metadata: Its row of the metadata.
        register: Which names are shared.
    """

    names: Names
    metadata: Mapping[str, str]
    register: Register


def by_name(seeker: Seeker, table: Container[str], place: str) -> list[str]:
    """The table names the file: its path under the root or its name, with or without ending."""
    return seeker.register.match(seeker.names, table, place)


def by_ctrate_name(seeker: Seeker, table: Container[str], _: str) -> list[str]:
    """The table names a volume of CT-RATE; all reconstructions of a scan share its rows."""
    for name in seeker.names.whole + seeker.names.bare:
        parsed = parse_ctrate_name(PurePosixPath(name).name)
        if parsed and parsed.scan in table:
            return [parsed.scan]
    return []


def by_accession(seeker: Seeker, table: Container[str], _: str) -> list[str]:
    """The table names the AccessionNumber or StudyInstanceUID of DICOM."""
    return [number for number in seeker.names.numbers if number in table]


def by_patient(seeker: Seeker, table: Container[str], _: str) -> list[str]:
    """The table names the patient."""
    patient = seeker.metadata.get("patient") or seeker.names.patient
    return [patient] if patient in table else []


def by_table(seeker: Seeker, table: Container[str], _: str) -> list[str]:
    """The metadata name the report of each CT."""
    key = seeker.metadata.get("report", "")
    return [key] if key in table else []


PAIRINGS: Mapping[Pairing, Callable[[Seeker, Container[str], str], list[str]]] = {
    Pairing.BY_NAME: by_name,
    Pairing.BY_CTRATE_NAME: by_ctrate_name,
    Pairing.BY_ACCESSION: by_accession,
    Pairing.BY_PATIENT: by_patient,
    Pairing.BY_TABLE: by_table,
}


def find_key_rule(pairing: Pairing) -> KeyRule:
    """Say how the keys of reports and labels are written under a pairing."""
    if pairing is Pairing.BY_CTRATE_NAME:
        return take_scan
    return take_path if pairing is Pairing.BY_NAME else take_word


def take_word(key: str, _: str) -> str:
    """Take a key as it is."""
    return key


def take_path(key: str, place: str) -> str:
    r"""Take a key that names a file under a root, and never one outside.

    Args:
        key: Path with slashes of either kind.
        place: File and row, for messages.

    Raises:
        InputError: An absolute path, or one that leaves its root.

    Example:
        >>> take_path(".\\a\\b.nii.gz", "reports.csv row 2")
        'a/b.nii.gz'
    """
    path = PureWindowsPath(key)
    if path.is_absolute() or path.anchor or ".." in path.parts:
        raise InputError(
            f"{place} names {key!r}, which may lie outside the folder; name files by their path "
            "under it"
        )
    return path.as_posix()


def take_scan(key: str, place: str) -> str:
    """Take the scan out of the name of a volume of CT-RATE.

    Raises:
        InputError: It is no such name.

    Example:
        >>> take_scan("valid_53_a_1.nii.gz", "reports.csv row 2")
        'valid_53_a'
    """
    parsed = parse_ctrate_name(key)
    if parsed is None:
        raise InputError(
            f"{place} names {key!r}, wanted a volume of CT-RATE such as train_1_a_1.nii.gz; take "
            "another --recipe for other data"
        )
    return parsed.scan
