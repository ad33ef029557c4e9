"""Reports of Open-i (Indiana University chest radiographs): one XML file a study.

A document with a DTD is refused: entities could grow without bound, or name files of this machine.

Source: Demner-Fushman et al., JAMIA 23:304-310, 2016; the elements as the files themselves have
them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from drrgen.errors import InputError

OPENI_COLUMNS = ("image", "study", "indication", "findings", "impression", "caption")
MAX_XML_BYTES = 2**20  # the largest of the 3,955 has 20 kB


class _DtdError(Exception):
    """A document that has a DTD."""


class _Collector:
    """Collects labelled texts, the study's name and its images while a document is parsed."""

    def __init__(self) -> None:
        self.study = ""
        self.sections: dict[str, list[str]] = {}
        self.images: dict[str, str] = {}
        self._path: list[str] = []
        self._text: list[str] = []
        self._label = self._image = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Open an element."""
        self._path.append(name)
        self._text = []
        if name == "uId":
            self.study = attributes.get("id", "").strip()
        elif name == "AbstractText":
            self._label = attributes.get("Label", "").strip().lower()
        elif name == "parentImage":
            self._image = attributes.get("id", "").strip()
            self.images[self._image] = ""

    def end(self, name: str) -> None:
        """Close an element."""
        text = " ".join("".join(self._text).split())
        self._text = []
        self._path.pop()
        if name == "AbstractText" and text:
            self.sections.setdefault(self._label, []).append(text)
        elif name == "caption" and self._image:
            self.images[self._image] = text
        elif name == "parentImage":
            self._image = ""

    def hear(self, text: str) -> None:
        """Take characters."""
        self._text.append(text)


def read_openi(folder: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Read a folder of reports, in depth and by name: a row for every image of each.

    A report that names no image gives one row, under the name of its study.

    Args:
        folder: Folder with ``*.xml``.

    Yields:
        The number of the file and its values, see ``OPENI_COLUMNS``.

    Raises:
        InputError: No XML there, or a file that is no such report.
    """
    files = (path for path in folder.rglob("*.xml") if path.is_file())
    paths = sorted(files, key=lambda path: (len(path.name), path))
    if not paths:
        raise InputError(f"no *.xml is in {folder}; wanted the reports of Open-i, or a table")
    for number, path in enumerate(paths, start=1):
        found = _parse(path)
        study = found.study or path.stem
        texts = (
            "\n".join(found.sections.get(label, ()))
            for label in ("indication", "findings", "impression")
        )
        values = (study, *texts)
        for image, caption in (found.images or {study: ""}).items():
            yield number, (image, *values, caption)


def _parse(path: Path) -> _Collector:
    """Parse one document."""
    collector = _Collector()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_dtd
    parser.StartElementHandler = collector.start
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.hear
    try:
        with path.open("rb") as file:
            data = file.read(MAX_XML_BYTES + 1)
        if len(data) > MAX_XML_BYTES:
            raise InputError(f"{path} has more than {MAX_XML_BYTES} bytes; it is no report")
        parser.Parse(data, True)
    except _DtdError as error:
        raise InputError(f"{path} has a DTD, which is never read; remove it") from error
    except expat.ExpatError as error:
        raise InputError(f"{path} is no XML ({error}); get a whole copy of it") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return collector


def _refuse_dtd(*_: Any) -> None:
    """Stop at a DTD."""
    raise _DtdError
