"""A file is whole or not there."""

from pathlib import Path

import pytest

from drrgen.errors import InputError
from drrgen.io.atomic import atomic_path, check_writable, remove_partials, write_bytes


def test_a_file_gets_its_name_with_all_its_bytes_and_its_folders(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"abc")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"abc"
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["c.bin"]


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def write_half() -> None:
        with atomic_path(path) as partial:
            partial.write_bytes(b"ne")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_found_and_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "kept", b"kept")
    with atomic_path(tmp_path / "deep" / "lost") as partial:
        partial.write_bytes(b"half")
        stray = tmp_path / "deep" / partial.name.replace("lost", "older")
        stray.write_bytes(b"half")
    assert remove_partials(tmp_path) == 1
    names = sorted(p.name for p in (tmp_path / "deep").iterdir())
    assert names == ["kept", "lost"]


def test_a_folder_that_cannot_be_written_is_told_and_one_that_can_leaves_no_trace(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(folder)
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "x" / ("n" * 300))
    check_writable(tmp_path / "new" / "folder")
    (tmp_path / "old").mkdir()
    check_writable(tmp_path / "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "old"]
