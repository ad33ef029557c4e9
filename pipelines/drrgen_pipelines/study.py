"""One unit of work: a CT to render or a radiograph to take over, and all that is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drrgen.choices import CTFormat, View
from drrgen.errors import InputError, Reason
from drrgen.io.listing import CTFiles
from drrgen.io.radiograph_listing import RadiographFile
from drrgen.io.stores import Place
from drrgen.io.structures import MaskFiles
from drrgen.io.told_scale import ToldScale
from drrgen.manifest import Row

_FILES = ("files", "radiograph")  # known by size, time and content


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a study is refused before it is read."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One CT to render or one radiograph to take over, as the manifest knows it.

    Attributes:
        identity: The columns of the manifest that are known before the picture: which study it is,
            where it lies, its split, its report and its labels. Text, whole numbers and lists.
        files: The files of the CT; None for a radiograph.
        radiograph: The file of a real radiograph; None for a CT.
        mask: Its label map, where one was asked for and found.
        told: Scale and spacing that a table tells; None where the file's own are taken.
        view: View of the radiograph that a table tells.
        keep: Views of radiographs that are taken; none for all.
        warnings: What is missing beside the picture, a word each.
        refusal: Why it is refused unread; None for the most.

    Raises:
        InputError: Neither a CT nor a radiograph, or both.
    """

    identity: Row
    files: CTFiles | None = None
    radiograph: RadiographFile | None = None
    mask: MaskFiles | None = None
    told: ToldScale | None = None
    view: View | None = None
    keep: tuple[View, ...] = ()
    warnings: tuple[str, ...] = ()
    refusal: Refusal | None = None

    def __post_init__(self) -> None:
        if (self.files is None) is (self.radiograph is None):
            raise InputError("a study is a CT or a radiograph, got neither or both; give one")

    @property
    def sample_id(self) -> str:
        """Pseudonym of data set, study and reconstruction."""
        return str(self.identity["sample_id"])

    @property
    def picture(self) -> CTFiles | RadiographFile:
        """What it is made from."""
        found = self.files or self.radiograph
        if found is None:
            raise InputError("a study is a CT or a radiograph, got neither; give one")
        return found

    @property
    def paths(self) -> tuple[Place, ...]:
        """The files of the CT or of the radiograph."""
        picture = self.picture
        return picture.paths if isinstance(picture, CTFiles) else (picture.path,)

    @property
    def is_clinical(self) -> bool:
        """Whether its files name a patient, so that where they lie is kept apart."""
        picture = self.picture
        if isinstance(picture, CTFiles):
            return picture.ct_format is CTFormat.DICOM
        return picture.is_dicom

    @property
    def n_bytes(self) -> int:
        """Size of all its files [bytes]."""
        return self.picture.n_bytes + (self.mask.n_bytes if self.mask else 0)

    @property
    def mtime_ns(self) -> int:
        """Time of the youngest change of its files [ns since 1970]."""
        return max(self.picture.mtime_ns, self.mask.mtime_ns if self.mask else 0)

    @property
    def facts(self) -> dict[str, Any]:
        """What goes into its rows beside the content of its files: report and labels too."""
        described = self.to_dict() | {"mask": self.mask is not None}
        return {key: value for key, value in described.items() if key not in _FILES}

    def to_dict(self) -> dict[str, Any]:
        """Describe it in text, whole numbers, lists and None, so that JSON holds it exactly."""
        return {
            "identity": self.identity,
            "files": self.files and self.files.to_dict(),
            "radiograph": self.radiograph and self.radiograph.to_dict(),
            "mask": self.mask and self.mask.to_dict(),
            "told": self.told and self.told.to_dict(),
            "view": self.view and self.view.value,
            "keep": [view.value for view in self.keep],
            "warnings": list(self.warnings),
            "refusal": self.refusal and [self.refusal.reason.value, self.refusal.detail],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Study":
        """Read what ``to_dict`` wrote."""
        refusal = data["refusal"]
        return cls(
            identity=data["identity"],
            files=CTFiles.from_dict(data["files"]) if data["files"] else None,
            radiograph=RadiographFile.from_dict(data["radiograph"]) if data["radiograph"] else None,
            mask=MaskFiles.from_dict(data["mask"]) if data["mask"] else None,
            told=ToldScale.from_dict(data["told"]) if data["told"] else None,
            view=View(data["view"]) if data["view"] else None,
            keep=tuple(map(View, data["keep"])),
            warnings=tuple(data["warnings"]),
            refusal=Refusal(reason=Reason(refusal[0]), detail=refusal[1]) if refusal else None,
        )
