import re
from dataclasses import replace
from pathlib import Path

import torch
from drrgen_training.evaluation.bench import EvaluateSettings
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.evaluate import evaluate
from drrgen_training.evaluation.page import make_page, show_number
from judged import make_model

from drrgen.io.radiographs import write_radiograph

SETTINGS = EvaluateSettings(replicates=30, probes=False, ks=(1, 5))


def make_models(tmp_path: Path) -> list[Embedded]:
    picture = tmp_path / "x.png"
    write_radiograph(picture, torch.rand(40, 30, generator=torch.Generator().manual_seed(0)))
    first = make_model()
    told = {"pictures": (str(picture),) * len(first), "texts": ("a <b>mass</b>",) * len(first)}
    return [replace(first, model="<script>alert(1)</script>", **told),
            replace(make_model("noise", noise=30.0), **told)]  # fmt: skip


def test_the_page_is_whole_escaped_and_asks_for_nothing(tmp_path: Path) -> None:
    models = make_models(tmp_path)
    page = make_page(*evaluate(models, SETTINGS))
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "a &lt;b&gt;mass&lt;/b&gt;" in page and "Not for diagnosis" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search("https?:", page) and "data:image/png;base64," in page
    for heading in ("Models side by side", "ROC curves", "Examples", "faults included"):
        assert heading in page
    assert "nan" not in re.sub(r"data:image/png;base64,[^\"]*", "", page)
    assert page == make_page(*evaluate(models, SETTINGS))


def test_a_number_that_is_not_there_is_a_dash() -> None:
    assert show_number(float("nan")) == show_number(None) == "–" and show_number(0.5) == "0.500"


def test_nothing_is_marked_where_another_model_is_as_good_by_its_very_vectors() -> None:
    first = make_model(n=300)
    shared = {m: first.vectors[m] for m in ("ct", "report")}
    twin = make_model("twin", seed=1, n=300)
    twin = replace(twin, vectors=twin.vectors | shared)
    noise = make_model("noise", noise=30.0, n=300)
    noise = replace(noise, vectors={m: v[::-1].copy() for m, v in noise.vectors.items()})
    for models, is_marked in (([first, noise], True), ([first, twin, noise], False)):
        page = make_page(*evaluate(models, SETTINGS))
        line = next(x for x in page.splitlines() if "ct to report" in x and "recall@1<" in x)
        assert ("best" in line) is is_marked


def test_patients_are_held_out_only_where_they_are() -> None:
    for split, said in (
        ("test", "held-out patients (split test"),
        ("all", "90 patients (split all"),
    ):
        assert said in make_page(*evaluate([make_model()], replace(SETTINGS, split=split)))
