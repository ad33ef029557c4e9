"""Errors become one sentence and an exit code."""

import errno
import os

import pytest
import typer
from botocore.exceptions import EndpointConnectionError

from drrgen.cli.console import exit_on_error


def test_a_store_that_goes_away_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, exit_on_error():
        raise EndpointConnectionError(endpoint_url="http://nowhere")
    assert ended.value.exit_code == 1
    assert "the same command goes on" in capsys.readouterr().err


def test_an_error_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"), exit_on_error():
        raise RuntimeError("a bug")


def test_a_full_disk_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, exit_on_error():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.exit_code == 1 and "No space left" in said and "make room there" in said


@pytest.mark.parametrize(("resumes", "said"), [(True, "goes on where"), (False, "begins again")])
def test_an_interrupted_command_says_whether_it_goes_on(
    capsys: pytest.CaptureFixture[str], resumes: bool, said: str
) -> None:
    with pytest.raises(typer.Exit) as ended, exit_on_error(resumes=resumes):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130 and said in capsys.readouterr().err
