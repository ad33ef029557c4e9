"""Where clinical CT lie, beside the output."""

from pathlib import Path

import pytest
from drrgen_pipelines.locator import note_locations

from drrgen.errors import ManifestError


def test_a_broken_locator_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "out.private" / "locator.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 rubbish")
    with pytest.raises(ManifestError, match="remove it"):
        list(note_locations(tmp_path / "out", []))
