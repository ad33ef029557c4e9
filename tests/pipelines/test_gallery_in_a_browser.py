from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, DRIVER, list_requests, open_browser, resize
from datasets import make_good_row, make_refused_row, write_dataset, write_picture
from drrgen_pipelines.gallery import find_gallery, write_gallery
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from drrgen.manifest import Row

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)
HOSTILE = (
    "</script><script>document.title='gone'</script><img src=x onerror=\"document.title='gone'\">"
)
MANY = 5000
PATIENCE_S = 20
SPLITS = ("train", "dev", "test")


def make_rows() -> list[Row]:
    """Six radiographs and three CT without; the first row is hostile."""
    rows = [
        make_good_row(
            f"s{i}", view=("PA", "LL")[i % 2], split=SPLITS[i % 3], kvp=120.0, hu_p01=-1000.0 + i,
            hu_p50=-600.0, hu_p99=300.0, coverage_top=i > 0, fov_truncated_fraction=i / 10,
            report_findings=f"Nodule of {i} mm.", report_impression="Stable.",
            labels=[{"name": "Effusion", "value": i % 3 - 1}, {"name": "Mass", "value": 1}],
        )
        for i in range(6)
    ]  # fmt: skip
    rows[0] |= {"report_findings": HOSTILE, "labels": [{"name": HOSTILE, "value": 1}]}
    rows[5]["cxr_kind"] = "real"
    refused = [make_refused_row("y0", detail=HOSTILE), make_refused_row("y1"),
               make_refused_row("z", "not_ct", split="dev")]  # fmt: skip
    return rows + refused


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("small")
    rows = make_rows()
    for row in rows[:5]:  # the picture of the sixth is gone
        write_picture(out, row, rows=400, columns=300)
    list(write_gallery(write_dataset(out, rows)))
    return find_gallery(out).as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(chromium: Chrome, small: str) -> Iterator[Chrome]:
    """Open the small gallery; at the end nothing has gone wrong and nobody was asked."""
    resize(chromium, 1280, 800)
    chromium.get("about:blank")
    list_requests(chromium)  # forgets what came before
    chromium.get(small)
    yield chromium
    assert chromium.get_log("browser") == []
    assert chromium.title.endswith("drrgen gallery")
    asked = {address.split(":")[0] for address in list_requests(chromium)}
    assert asked <= {"file", "data"}


def click(driver: Chrome, selector: str) -> None:
    """Click on what is there once the page has drawn itself anew."""
    wait = WebDriverWait(driver, PATIENCE_S, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda d: d.find_element(By.CSS_SELECTOR, selector).click() is None)


def find(driver: Chrome, css: str) -> WebElement:
    return driver.find_element(By.CSS_SELECTOR, css)


def read_tiles(driver: Chrome) -> list[str]:
    """Name the samples in sight."""
    labels = driver.execute_script(
        "return [...document.querySelectorAll('.tile')].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)"
        ".map(tile => tile.getAttribute('aria-label'))"
    )
    return [label.split("sample ")[1].split(",")[0] for label in labels]


def tick(driver: Chrome, group: str, value: Any) -> None:
    box = find(driver, f"[data-group='{group}'][data-value='{value}']")
    driver.execute_script("arguments[0].click()", box)


def press(driver: Chrome, *keys: str) -> None:
    driver.switch_to.active_element.send_keys(*keys)


def wait_until(driver: Chrome, script: str) -> None:
    WebDriverWait(driver, PATIENCE_S, poll_frequency=0.02).until(
        lambda d: d.execute_script(f"return {script}")
    )


def read_zoom(driver: Chrome) -> int:
    return int(find(driver, "#zoom").text.rstrip("%"))


# what is ticked, and the samples that are left
FILTERS: tuple[tuple[list[tuple[str, Any]], list[str]], ...] = (
    ([("split", "train")], ["s0", "s3", "y0", "y1"]),
    ([("split", "dev"), ("split", "test")], ["s1", "s2", "s4", "s5", "z"]),
    ([("status", "refused")], ["y0", "y1", "z"]),
    ([("reason", "not_ct")], ["z"]),
    ([("view", "LL"), ("split", "dev")], ["s1"]),
    ([("cxr_kind", "real")], ["s5"]),
    ([("label Effusion", 1)], ["s2", "s5"]),
    ([("label Effusion", 0)], ["s1", "s4"]),
    ([("label Effusion", -1)], ["s3"]),
    ([("label Effusion", 1), ("label Effusion", -1), ("label Mass", 1)], ["s2", "s3", "s5"]),
)


def test_filters_leave_the_rows_that_they_name(page: Chrome) -> None:
    for ticks, wanted in FILTERS:
        for group, value in ticks:
            tick(page, group, value)
        assert read_tiles(page) == wanted, ticks
        assert find(page, "#total").text == f"{len(wanted)} of 9 rows"
        click(page, "#clear")
    assert len(read_tiles(page)) == 9


def test_counts_say_what_a_further_click_would_find(page: Chrome) -> None:
    tick(page, "split", "dev")
    said = [
        line.text.split("\n")
        for line in page.find_elements(By.CSS_SELECTOR, "fieldset:first-child .choice")
    ]
    assert said == [["train", "4"], ["dev", "3"], ["test", "2"]]
    click(page, "#clear")
    assert find(page, "#total").text == "9 rows"


def test_the_search_finds_words_of_reports_samples_and_details(page: Chrome) -> None:
    for words, wanted in (("nodule 3", ["s3"]), ("Y1", ["y1"]), ("slices missing", ["y1", "z"])):
        press(page, "/")
        press(page, words)
        wait_until(page, f"document.querySelectorAll('.tile').length === {len(wanted)}")
        assert read_tiles(page) == wanted
        press(page, Keys.ESCAPE)
        wait_until(page, "document.querySelectorAll('.tile').length === 9")
        press(page, Keys.ESCAPE)
        assert page.switch_to.active_element.get_attribute("id") == "grid"


def test_the_keyboard_alone_reaches_a_radiograph_and_comes_back(page: Chrome) -> None:
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    grid = find(page, "#grid")
    assert grid.get_attribute("aria-activedescendant") == "tile-1"
    ring = "getComputedStyle(document.querySelector('.tile.here .film'), '::after').boxShadow"
    assert "3px inset" in page.execute_script(f"return {ring}")
    press(page, Keys.ENTER)
    assert find(page, "#place").text == "2 of 9 · s1"
    press(page, Keys.ARROW_RIGHT)
    assert find(page, "#place").text == "3 of 9 · s2"
    press(page, Keys.ESCAPE)
    # The browser says that a dialog is closed a moment after it closed it.
    wait_until(
        page, "document.getElementById('grid').getAttribute('aria-activedescendant') === 'tile-2'"
    )
    assert page.switch_to.active_element == grid


def test_the_detail_shows_report_labels_geometry_and_settings(page: Chrome) -> None:
    press(page, Keys.ARROW_RIGHT, Keys.ENTER)
    told = find(page, "#facts").get_attribute("innerText")
    for words in (
        "Nodule of 1 mm.",
        "Stable.",
        "Mass",
        "Effusion: absent",
        "120 kV",
        "images/s1.png",
    ):
        assert words in told
    wait_until(page, "document.getElementById('source').textContent === '300 × 400 pixels'")
    assert find(page, "#picture").get_attribute("src").endswith("/images/s1.png")


def test_the_picture_zooms_by_keys_wheel_and_drag(page: Chrome) -> None:
    press(page, Keys.ENTER)
    press(page, "+", "+")
    assert read_zoom(page) == 196
    stage = find(page, "#stage")
    ActionChains(page).scroll_from_origin(
        ScrollOrigin.from_element(stage, 50, 50), 0, -300
    ).perform()
    wait_until(page, "parseInt(document.getElementById('zoom').textContent) > 196")
    zoomed = read_zoom(page)
    before = find(page, "#picture").get_attribute("style")
    ActionChains(page).drag_and_drop_by_offset(stage, 40, 30).perform()
    wait_until(page, f"document.getElementById('picture').getAttribute('style') !== {before!r}")
    press(page, "-")
    assert read_zoom(page) < zoomed
    press(page, "0")
    assert read_zoom(page) == 100


def test_two_fingers_spread_the_picture(page: Chrome) -> None:
    press(page, Keys.ENTER)
    for kind, points in (
        ("touchStart", (300, 400)),
        ("touchMove", (250, 450)),
        ("touchMove", (200, 500)),
        ("touchEnd", ()),
    ):
        touches = [{"x": x, "y": 300, "id": i} for i, x in enumerate(points)]
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    wait_until(page, "Math.abs(parseInt(document.getElementById('zoom').textContent) - 300) < 3")


def test_refusals_are_listed_by_reason_and_open(page: Chrome) -> None:
    click(page, "#tab-refusals")
    said = [each.text for each in page.find_elements(By.CSS_SELECTOR, "summary .reason")]
    assert said == ["slice_gap", "not_ct"]
    click(page, "summary")
    wait_until(page, "document.querySelectorAll('.cases button').length === 2")
    page.find_elements(By.CSS_SELECTOR, ".cases button")[1].click()
    assert find(page, "#detail-title").text == "No picture: refused"
    assert "2 of 90 slices are missing" in find(page, "#facts").text


def test_distributions_count_each_ct_once_and_follow_the_filters(page: Chrome) -> None:
    press(page, Keys.TAB)
    find(page, "#tab-pictures").send_keys(Keys.ARROW_LEFT)
    charts = find(page, "#page-numbers")
    assert "9 CT among" in charts.text
    assert len(page.find_elements(By.CSS_SELECTOR, ".chart svg")) == 4
    cells = [
        each.text for each in page.find_elements(By.CSS_SELECTOR, ".by-split tr:nth-child(2) small")
    ]
    assert cells[0].startswith("0 of 1")
    tick(page, "split", "dev")
    assert "3 CT among" in charts.text


def test_hostile_words_stay_words(page: Chrome) -> None:
    press(page, Keys.ENTER)
    assert HOSTILE in find(page, ".report").text
    press(page, Keys.ESCAPE)
    click(page, "#tab-refusals")
    click(page, "summary")
    wait_until(page, "document.querySelectorAll('.cases button').length === 2")
    assert HOSTILE in find(page, ".cases").text
    assert page.find_elements(By.CSS_SELECTOR, "img[src=x]") == []


def test_a_missing_picture_is_shown_as_missing(page: Chrome) -> None:
    tick(page, "cxr_kind", "real")
    assert "picture missing" in find(page, ".tile").text
    click(page, ".tile")
    assert find(page, "#no-picture").text == "The picture file cannot be read."


def test_a_phone_needs_no_sideways_scrolling(page: Chrome) -> None:
    resize(page, 360, 740, mobile=True)
    width = "document.documentElement.scrollWidth"
    click(page, "#show-filters")
    assert page.execute_script(f"return {width}") == 360
    click(page, "#hide-filters")
    for tab in ("#tab-refusals", "#tab-numbers", "#tab-pictures"):
        click(page, tab)
        assert page.execute_script(f"return {width}") == 360
    click(page, ".tile")
    wider = "document.getElementById('detail').scrollWidth"
    assert page.execute_script(f"return {wider}") == 360


@pytest.mark.slow
def test_thousands_of_rows_scroll_with_few_elements(chromium: Chrome, tmp_path: Path) -> None:
    rows = [make_refused_row(f"s{i:05}", report_findings=f"finding {i}") for i in range(MANY + 10)]
    list(write_gallery(write_dataset(tmp_path, rows), limit=MANY))
    resize(chromium, 1280, 800)
    chromium.get(find_gallery(tmp_path).as_uri())
    assert find(chromium, "#total").text == "5,000 rows, the first of 5,010"
    count = "return document.querySelectorAll('*').length"
    most = chromium.execute_script(count)
    for share in (0.3, 0.6, 1.0):
        chromium.execute_script(
            f"const g = document.getElementById('grid'); g.scrollTop = g.scrollHeight * {share}"
        )
        wait_until(chromium, "document.querySelector('.tile').ariaPosInSet > 100")
        most = max(most, chromium.execute_script(count))
    press(chromium, Keys.END)
    assert read_tiles(chromium)[-1] == f"s{MANY - 1:05}"
    assert most < 700
