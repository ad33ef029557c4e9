"""Rows of a model: which are taken, and of which view."""

from dataclasses import replace

import numpy as np
import pytest
from drrgen_training.evaluation.embedded import Embedded
from judged import make_model

from drrgen.choices import View
from drrgen.errors import InputError

VIEWS = ("LL", "PA", "LL", "AP", "", "RL")


def keep(model: Embedded, view: View | None = None) -> Embedded:
    return model.take(model.choose_view(view))


def make_views() -> Embedded:
    """Scans 0 and 1 of two rows each, scans 2 and 3 of one."""
    model = make_model(n=6)
    return replace(model, views=VIEWS, study=np.array([0, 0, 1, 1, 2, 3]))


def test_of_each_scan_the_first_of_pa_ap_ll_and_rl_is_kept() -> None:
    kept = keep(make_views())
    assert kept.names == ("r1", "r3", "r4", "r5") and kept.views == ("PA", "AP", "", "RL")


def test_several_rows_of_the_kept_view_all_stay() -> None:
    model = replace(make_views(), views=("PA", "PA", "LL", "LL", "LL", "PA"))
    assert keep(make_model(n=6)).names == make_model(n=6).names
    assert keep(model).names == model.names


def test_a_named_view_leaves_out_scans_without_it() -> None:
    assert keep(make_views(), View.LL).names == ("r0", "r2")


def test_a_view_that_no_row_has_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(InputError, match="no row of the view PA, told is LL, RL"):
        replace(make_views(), views=("LL", "RL") * 3).choose_view(View.PA)
    with pytest.raises(InputError, match="told is none"):
        make_model().choose_view(View.PA)


def test_a_row_without_a_vector_is_taken_where_its_scan_has_no_other() -> None:
    model = make_views()
    vectors = model.vectors["cxr"].copy()
    vectors[[1, 4]] = np.nan  # the PA of scan 0, and all that scan 2 has
    kept = keep(replace(model, vectors=model.vectors | {"cxr": vectors}))
    assert kept.names == ("r0", "r3", "r4", "r5")
