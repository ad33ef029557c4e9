"""Errors: every reason has a status, and every error survives a trip to another process."""

import pickle
import re
from pathlib import Path

import pytest

from drrgen import errors
from drrgen.errors import (
    DataError,
    DrrgenError,
    EngineError,
    InputError,
    RadiographError,
    Reason,
    ReportError,
    Status,
    VolumeError,
    status_of,
)

FAILED = {"crashed", "timeout", "out_of_memory", "io_error", "render_blank"}  # the contract


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_refuses_or_fails_as_the_contract_says(reason: Reason) -> None:
    wanted = Status.FAILED if reason.value in FAILED else Status.REFUSED
    assert status_of(reason) is wanted
    assert re.fullmatch(r"[a-z_]+", reason.value)


def test_no_failure_of_the_contract_is_missing() -> None:
    assert {reason.value for reason in errors.FAILURES} == FAILED


@pytest.mark.parametrize("kind", [DataError, VolumeError, RadiographError, ReportError])
def test_a_data_error_pickles_with_all_it_says(kind: type[DataError]) -> None:
    error = kind(Reason.SLICE_GAP, Path("a/b"), "found a gap", remedy="export again")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.code, back.path, back.detail, back.remedy) == (
        Reason.SLICE_GAP, Path("a/b"), "found a gap", "export again",
    )  # fmt: skip
    assert str(back) == str(error) == "a/b: slice_gap: found a gap; export again"


def find_kinds() -> list[type[DrrgenError]]:
    kinds = [getattr(errors, name) for name in dir(errors)]
    return [k for k in kinds if isinstance(k, type) and issubclass(k, DrrgenError)]


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = set(re.findall(r"\b[A-Z]\w*Error\b", errors.__doc__ or ""))
    assert {kind.__name__ for kind in find_kinds()} <= drawn
    assert issubclass(InputError, ValueError)
    assert issubclass(EngineError, RuntimeError)


@pytest.mark.parametrize(
    "kind", [k for k in find_kinds() if not issubclass(k, DataError)], ids=lambda k: k.__name__
)
def test_the_other_errors_pickle_too(kind: type[DrrgenError]) -> None:
    back = pickle.loads(pickle.dumps(kind("what, got, wanted, what to do")))
    assert type(back) is kind
    assert str(back) == "what, got, wanted, what to do"
