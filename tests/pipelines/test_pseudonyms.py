"""The salt is made once, for its owner alone."""

import os
from pathlib import Path

import pytest
from drrgen_pipelines import pseudonyms
from drrgen_pipelines.pseudonyms import read_salt


def test_a_salt_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "salt.txt"
    assert read_salt(path, make=True) == read_salt(path, make=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_of_two_that_make_a_salt_the_first_one_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "salt.txt"
    link = os.link

    def be_late(source: Path, target: Path) -> None:
        path.write_text("the salt of another drrgen, made meanwhile\n")
        link(source, target)

    monkeypatch.setattr(pseudonyms.os, "link", be_late)
    assert read_salt(path, make=True) == b"the salt of another drrgen, made meanwhile"
