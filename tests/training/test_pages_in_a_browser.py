"""The pages of evaluate and predict, on a desk and on a phone: whole, quiet, and asking nobody."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from browser import CHROMIUM, DRIVER, list_requests, open_browser, resize
from drrgen_training.evaluation.bench import EvaluateSettings
from drrgen_training.evaluation.evaluate import evaluate
from drrgen_training.evaluation.page import make_page as make_evaluation_page
from drrgen_training.evaluation.prompts import read_prompts
from drrgen_training.losses import Modality
from drrgen_training.model import make_tower
from drrgen_training.pages import encode_grey
from drrgen_training.pictures import PackSettings
from drrgen_training.predict import Prediction
from drrgen_training.predicted import make_page as make_prediction_page
from drrgen_training.predictor import Findings, Neighbour, Predictor, PredictSettings
from judged import make_model
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from drrgen.errors import Reason
from drrgen.io.radiographs import write_radiograph

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)
HOSTILE = "<script>document.title='gone'</script><img src=x onerror=\"document.title='gone'\">"
LONG = "a_name_without_any_place_to_break_it_" * 6
SCREENS = ((1280, False), (390, True))
WORDS = "There is a small effusion. " * 40


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("evaluation")
    write_radiograph(folder / "x.png", torch.linspace(0, 1, 1200).reshape(40, 30))
    models = [
        replace(
            make_model(name, noise=noise), pictures=(str(folder / "x.png"),) * 90,
            texts=(f"{HOSTILE} {WORDS}",) * 90,
        )
        for name, noise in ((HOSTILE, 0.1), ("noise", 30.0))
    ]  # fmt: skip
    settings = EvaluateSettings(replicates=30, probes=False, ks=(1, 5))
    page = folder / "index.html"
    page.write_text(make_evaluation_page(*evaluate(models, settings)), encoding="utf-8")
    return page.as_uri()


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("prediction") / "index.html"
    picture = encode_grey(np.linspace(0, 1, 1200, dtype=np.float32).reshape(40, 30))
    near = Neighbour(name=LONG, cosine=0.5, text=f"{HOSTILE} {WORDS}")
    good = Prediction(
        name=f"{LONG}.png", warnings=(HOSTILE,), embedding=np.zeros(4, np.float32),
        scores={f"{HOSTILE} {i}": i / 8 for i in range(8)}, reports=(near,), thumbnail=picture,
    )  # fmt: skip
    bad = Prediction(name=HOSTILE, reason=Reason.TRUNCATED_FILE, detail=LONG)
    predictor = Predictor(
        tower=make_tower(Modality.CXR, "tiny:32", dim=4), digest="0123",
        square=PackSettings(size=16), settings=PredictSettings(), notes=(HOSTILE,),
        findings=Findings(labels=tuple(good.scores), prompts=read_prompts("x2ct"), sentences={}),
    )  # fmt: skip
    page.write_text(make_prediction_page(predictor, [good, bad], 9), encoding="utf-8")
    return page.as_uri()


def open_page(driver: Chrome, address: str, width: int, *, is_phone: bool) -> None:
    resize(driver, width, 800, mobile=is_phone)
    driver.get("about:blank")
    list_requests(driver)  # forgets what came before
    driver.get(address)


@pytest.mark.parametrize(("width", "is_phone"), SCREENS)
@pytest.mark.parametrize("name", ["evaluation", "prediction"])
def test_a_page_fits_the_screen_runs_nothing_and_asks_nobody(
    chromium: Chrome, name: str, width: int, is_phone: bool, request: pytest.FixtureRequest
) -> None:
    open_page(chromium, request.getfixturevalue(name), width, is_phone=is_phone)
    for each in chromium.find_elements(By.CSS_SELECTOR, "details"):
        chromium.execute_script("arguments[0].open = true", each)
    root = "document.documentElement"
    assert chromium.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    assert chromium.title.startswith("drrgen")
    assert chromium.find_elements(By.CSS_SELECTOR, "script, img[onerror]") == []
    assert chromium.get_log("browser") == []
    assert {address.split(":")[0] for address in list_requests(chromium)} <= {"file", "data"}


@pytest.mark.parametrize("name", ["evaluation", "prediction"])
def test_every_picture_is_drawn_upright(
    chromium: Chrome, name: str, request: pytest.FixtureRequest
) -> None:
    open_page(chromium, request.getfixturevalue(name), 1280, is_phone=False)
    pictures = chromium.find_elements(By.CSS_SELECTOR, "img.film")
    assert pictures
    sizes = [chromium.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]",
                                     picture) for picture in pictures]  # fmt: skip
    assert all(wide == 30 and high == 40 for wide, high in sizes)


def test_curves_of_models_are_told_apart_in_the_light_and_in_the_dark(
    chromium: Chrome, evaluation: str
) -> None:
    for scheme in ("light", "dark"):
        told = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", told)
        open_page(chromium, evaluation, 1280, is_phone=False)
        strokes = chromium.execute_script(
            "return [...document.querySelectorAll('#roc + .key polyline')]"
            ".map(line => getComputedStyle(line).stroke)"
        )
        assert len(strokes) == len(set(strokes)) == 3 and "none" not in strokes


def test_every_section_is_reached_from_the_top(chromium: Chrome, evaluation: str) -> None:
    open_page(chromium, evaluation, 1280, is_phone=False)
    links = chromium.find_elements(By.CSS_SELECTOR, "nav a")
    assert len(links) >= 6
    for link in links:
        target = link.get_attribute("href").split("#")[1]
        assert chromium.find_element(By.ID, target).tag_name == "h2"
