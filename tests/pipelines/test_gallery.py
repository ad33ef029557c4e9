import base64
import io
import json
import re
from pathlib import Path

import pytest
from datasets import make_good_row, make_refused_row, write_dataset, write_picture
from drrgen_pipelines.gallery import MISSING, THUMBNAIL_PX, find_gallery, write_gallery
from PIL import Image
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.errors import ManifestError
from drrgen.manifest import Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "pipelines" / "drrgen_pipelines" / "gallery_page"
HOSTILE = "</script><script>document.title='gone'</script><!-- <img src=x onerror=alert(1)> & \u2028\u2029 ]]>"


def write_page(
    out: Path, rows: list[Row], *, limit: int | None = None, part_size: int = 1000
) -> str:
    write_dataset(out, rows, part_size=part_size)
    assert sum(write_gallery(out, limit=limit)) == min(len(rows), limit or len(rows))
    return find_gallery(out).read_text(encoding="utf-8")


def read_blocks(page: str, kind: str) -> list[object]:
    pattern = rf'<script type="application/json" data-holds="{kind}">(.*?)</script>'
    return [json.loads(text) for text in re.findall(pattern, page, re.DOTALL)]


def read_column(page: str, name: str) -> list[object]:
    values: list[object] = []
    for block in read_blocks(page, "rows"):
        assert isinstance(block, dict)
        packed = block["columns"].get(name, {"same": None})
        values += packed["each"] if "each" in packed else [packed["same"]] * block["n"]
    return values


def read_thumbnails(page: str) -> list[str | None]:
    return [each for block in read_blocks(page, "thumbnails") for each in block]  # type: ignore[attr-defined]


def test_every_row_is_in_the_page_with_its_picture(tmp_path: Path) -> None:
    rows = [make_good_row(f"s{i:03}", kvp=120.0) for i in range(5)] + [make_refused_row("z")]
    for row in rows[:5]:
        write_picture(tmp_path, row, rows=800, columns=500)
    page = write_page(tmp_path, rows, part_size=2)
    assert read_column(page, "sample_id") == [row["sample_id"] for row in rows]
    assert read_column(page, "kvp") == [120.0] * 5 + [None]
    *thumbnails, none = read_thumbnails(page)
    assert none is None
    for text in thumbnails:
        assert text
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            assert (picture.format, picture.size) == (
                "WEBP",
                (THUMBNAIL_PX * 500 // 800, THUMBNAIL_PX),
            )


def test_a_limit_shows_the_first_rows(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_refused_row(f"s{i}") for i in range(5)], limit=3, part_size=2)
    assert read_column(page, "sample_id") == ["s0", "s1", "s2"]


def test_hostile_words_come_back_as_they_were_and_end_no_element(tmp_path: Path) -> None:
    row = make_refused_row(
        "s", detail=HOSTILE, report_findings=HOSTILE, labels=[{"name": HOSTILE, "value": 1}]
    )
    page = write_page(tmp_path, [row])
    assert read_column(page, "report_findings") == [HOSTILE]
    assert read_column(page, "labels") == [[{"name": HOSTILE, "value": 1}]]
    assert not re.search("gone'</script>|<img src=x|[\u2028\u2029]", page)
    assert page.count("</script>") == len(re.findall("<script[ >]", page)) == 4


def test_a_picture_that_is_gone_or_broken_is_told_as_missing(tmp_path: Path) -> None:
    rows = [make_good_row("broken"), make_good_row("gone")]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG")
    assert read_thumbnails(write_page(tmp_path, rows)) == [MISSING, MISSING]


def test_formats_that_no_browser_shows_have_a_thumbnail_only(tmp_path: Path) -> None:
    rows = [make_good_row("a"), make_good_row("b", cxr_path="images/b.npy")]
    for row in rows:
        write_picture(tmp_path, row)
    page = write_page(tmp_path, rows)
    assert all(read_thumbnails(page))
    assert read_column(page, "whole") == [True, False]


def test_numbers_that_json_cannot_hold_are_null(tmp_path: Path) -> None:
    page = write_page(
        tmp_path,
        [make_refused_row("s", hu_p01=float("nan"), isocenter_mm=[0.1, float("inf"), 1.0])],
    )
    assert read_column(page, "hu_p01") == [None]
    assert read_column(page, "isocenter_mm") == [[0.1, None, 1.0]]


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/secret.png", "images/../../secret.png", "..\\secret.png", "C:/secret.png", "a\0.png"])  # fmt: skip
def test_a_path_that_leaves_the_data_set_is_refused(tmp_path: Path, path: str) -> None:
    write_dataset(tmp_path, [make_good_row("s", cxr_path=path)])
    with pytest.raises(ManifestError, match="wanted a path under its own folder"):
        list(write_gallery(tmp_path))
    assert not list((tmp_path / "gallery").iterdir())


def test_what_is_no_data_set_or_a_changed_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no finished manifest"):
        list(write_gallery(tmp_path))
    write_dataset(tmp_path, [make_refused_row("s")])
    (tmp_path / "manifest" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match=r"wanted .* as in manifest\.json"):
        list(write_gallery(tmp_path))


def test_the_page_runs_its_own_script_only_and_asks_nobody(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_refused_row("s")])
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    addresses = set(re.findall(r"https?://[^\s\"']+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG's elements, not a place
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(", script
    )


def test_the_page_says_what_it_is_not_for(tmp_path: Path) -> None:
    assert "Not for diagnosis" in write_page(tmp_path, [make_refused_row("s")])


def test_the_command_writes_the_page_and_names_it(tmp_path: Path) -> None:
    write_dataset(tmp_path, [make_refused_row("s")])
    result = CliRunner().invoke(app, ["gallery", str(tmp_path), "--limit", "1"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(find_gallery(tmp_path))
