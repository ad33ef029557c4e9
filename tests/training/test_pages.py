"""What all pages share."""

from pathlib import Path

from drrgen_training.pages import cut_text, encode_picture, render_page


def test_a_page_escapes_what_it_is_told_and_carries_its_style(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("<style>{{ style | safe }}</style><p>{{ name }}</p>")
    page = render_page(tmp_path / "x.html", name="<script>")
    assert "<p>&lt;script&gt;</p>" in page and '"Segoe UI"' in page and ":root {" in page


def test_a_picture_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert encode_picture(str(tmp_path / "none.png")) == ""


def test_a_text_is_cut_between_words() -> None:
    assert cut_text("Small effusion.", 99) == "Small effusion."
    assert cut_text("Small effusion.", 8) == "Small …"
