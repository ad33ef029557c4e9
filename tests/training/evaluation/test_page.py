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
