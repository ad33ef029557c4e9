"""Rows of a model: which are taken, and of which view."""

from dataclasses import replace

import numpy as np
import pytest
from judged import make_model

from drrgen.choices import View
from drrgen.errors import InputError

VIEWS = ("LL", "PA", "LL", "AP", "", "RL")


def make_views() -> object:
    """Scans 0 and 1 of two rows each, scans 2 and 3 of one."""
    model = make_model(n=6)
    return replace(model, views=VIEWS, study=np.array([0, 0, 1, 1, 2, 3]))


def test_of_each_scan_the_first_of_pa_ap_ll_and_rl_is_kept() -> None:
    kept = make_views().keep_view()
    assert kept.names == ("r1", "r3", "r4", "r5") and kept.views == ("PA", "AP", "", "RL")


def test_several_rows_of_the_kept_view_all_stay() -> None:
    model = replace(make_views(), views=("PA", "PA", "LL", "LL", "LL", "PA"))
    assert make_model(n=6).keep_view().names == make_model(n=6).names
    assert model.keep_view().names == model.names


def test_a_named_view_leaves_out_scans_without_it() -> None:
    assert make_views().keep_view(View.LL).names == ("r0", "r2")


def test_a_view_that_no_row_has_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(InputError, match="no row of the view PA, there is LL, RL"):
        replace(make_views(), views=("LL", "RL") * 3).keep_view(View.PA)
    with pytest.raises(InputError, match="there is none told"):
        make_model().keep_view(View.PA)
