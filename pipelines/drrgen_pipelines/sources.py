"""What a data set is made from: folders of pictures, tables, and the recipe that joins them."""

from dataclasses import dataclass
from pathlib import Path

from drrgen.errors import InputError
from drrgen_pipelines.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where everything lies.

    Attributes:
        ct: Folder, file or glob of CT; None for none.
        cxr: Folder, file or glob of real radiographs; None for none.
        reports: Tables of reports, or folders of Open-i's XML.
        labels: Tables of labels.
        metadata: Tables of what is known of each CT or radiograph.
        recipe: How tables are read and joined; None for CT alone.
        require_report: Refuse a study without a report, whatever the recipe says.

    Raises:
        InputError: No pictures at all, or tables without a recipe.
    """

    ct: str | Path | None = None
    cxr: str | Path | None = None
    reports: tuple[Path, ...] = ()
    labels: tuple[Path, ...] = ()
    metadata: tuple[Path, ...] = ()
    recipe: Recipe | None = None
    require_report: bool = False

    def __post_init__(self) -> None:
        if self.ct is None and self.cxr is None:
            raise InputError("got neither CT nor radiographs; give --ct-dir, --cxr-dir or both")
        if self.recipe is None and self.tables:
            raise InputError("got tables and no recipe; give --recipe NAME, or generic")

    @property
    def tables(self) -> tuple[Path, ...]:
        """All tables."""
        return (*self.reports, *self.labels, *self.metadata)
