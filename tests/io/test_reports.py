"""Reports: split at their headings, nothing where nothing is said, one digest for one text."""

from pathlib import Path

import pytest
from cohorts import OPENI_XML, write_openi_report
from hypothesis import given
from hypothesis import strategies as st

from drrgen.errors import InputError
from drrgen.io import openi
from drrgen.io.reports import Report, ReportColumns, make_report, read_reports, split_report

COLUMNS = ReportColumns(key=("k",), findings=("f",), impression=("i",), text=("t",), language="en")
OPENI = ReportColumns(
    key=("image",),
    findings=("findings",),
    impression=("impression",),
    patient=("study",),
    scan=("study",),
)


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Clear.\nIMPRESSION: Normal.",
        "Findings:\nClear.\n\nImpressions :\nNormal.",
        "FINDINGS\nClear.\nIMPRESSION\nNormal.",
        "**FINDINGS:** Clear.\n**IMPRESSION:** Normal.",
        "EXAM: CT chest FINDINGS: Clear. IMPRESSION: Normal.",
        "History: cough. Technique: CT. Findings: Clear. Conclusion: Normal.",
        "INDICATION: x\r\nFINDINGS: Clear.\r\nIMPRESSION: Normal.\r\nRECOMMENDATION: none",
        "IMPRESSION: Normal. FINDINGS: Clear.",
    ],
)
def test_a_report_is_split_at_its_headings(text: str) -> None:
    assert split_report(text) == ("Clear.", "Normal.")


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("Clear lungs.", "Clear lungs.", None),
        ("", None, None),
        ("IMPRESSION: Normal.", None, "Normal."),
        ("FINDINGS AND IMPRESSION: Normal.", "Normal.", None),
        ("FINDINGS: a\nIMPRESSION: b\nADDENDUM\nFINDINGS: c", "a\nc", "b\nADDENDUM"),
        ("No other findings: see above.", "No other findings: see above.", None),
        ("FINDINGS: Not given.\nIMPRESSION: N/A", None, None),
        ("TECHNIQUE: CT.", "TECHNIQUE: CT.", None),
    ],
)
def test_odd_reports_are_split_with_care(
    text: str, findings: str | None, impression: str | None
) -> None:
    assert split_report(text) == (findings, impression)


@pytest.mark.parametrize(
    "word", ["", "nan", "NaN", "None", "Not given.", "not given", "N/A", "-", " \n"]
)
def test_words_for_nothing_are_nothing(word: str) -> None:
    report = make_report(findings=word, impression=word, language="en")
    assert report == Report() and not report and report.sha256 is None


WORDS = st.text(st.sampled_from("abc äé,()0%\n"), max_size=40)


@given(findings=WORDS, impression=WORDS)
def test_what_is_joined_under_headings_comes_apart_again(findings: str, impression: str) -> None:
    wanted = make_report(findings=findings, impression=impression)
    text = f"FINDINGS: {findings}\nIMPRESSION: {impression}"
    assert split_report(text) == (wanted.findings, wanted.impression)


@given(text=st.text(max_size=200))
def test_any_text_is_split_without_a_crash_and_nothing_is_invented(text: str) -> None:
    for part in split_report(text):
        assert part is None or set(part) <= set(text) | {"\n"}


def test_a_digest_minds_words_and_sections_alone() -> None:
    report = make_report(findings="Clear  lungs.", impression="Normal.")
    same = make_report(findings="clear\nLUNGS.", impression="Normal. ")
    assert report.sha256 == same.sha256
    assert report.sha256 != make_report(findings="Clear lungs. Normal.").sha256
    assert report.sha256 != make_report(findings="Normal.", impression="Clear lungs.").sha256


def read(path: Path, text: str, columns: ReportColumns = COLUMNS) -> dict[str, Report]:
    path.write_text(text)
    table = read_reports([path], columns, lambda key, _: key)
    return {key: table.find(key)[0].report for key in table.table}


def test_sections_stand_above_the_whole_text(tmp_path: Path) -> None:
    found = read(
        tmp_path / "r.csv",
        'k,f,i,t\nx,Clear.,,FINDINGS: other\ny,,,"FINDINGS: a IMPRESSION: b"\nz,nan,,\n',
    )
    assert found == {
        "x": Report(findings="Clear.", language="en"),
        "y": Report(findings="a", impression="b", language="en"),
        "z": Report(),
    }


def test_a_table_without_any_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="no column of reports; wanted one of f, i, t, it has k, report"
    ):
        read(tmp_path / "r.csv", "k,report\nx,Clear.\n")


def test_two_reports_of_one_key_are_an_error_that_names_both_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "r.csv", "k,f\nx,Clear.\nx,Clear. \n")["x"].findings == "Clear."
    with pytest.raises(
        InputError, match=r"r\.csv row 2 and r\.csv row 3 are different reports of 'x'"
    ):
        read(tmp_path / "r.csv", "k,f\nx,Clear.\nx,Not clear.\n")


def test_the_language_of_a_row_stands_above_that_of_the_table(tmp_path: Path) -> None:
    columns = ReportColumns(key=("k",), findings=("f",), language_column=("lang",), language="en")
    found = read(tmp_path / "r.csv", "k,f,lang\nx,Frei.,de\ny,Clear.,\n", columns)
    assert [report.language for report in found.values()] == ["de", "en"]


def test_reports_of_open_i_belong_to_their_images(tmp_path: Path) -> None:
    write_openi_report(tmp_path / "a" / "1.xml", "CXR1", ["CXR1_A", "CXR1_B"], "Clear.")
    write_openi_report(tmp_path / "2.xml", "CXR2", [], "")
    table = read_reports([tmp_path], OPENI, lambda key, _: key)
    assert sorted(table.table) == ["CXR1_A", "CXR1_B", "CXR2"]
    (found,) = table.find("CXR1_B")
    assert (found.patient, found.scan) == ("CXR1", "CXR1")
    assert found.report == Report(findings="Clear.", impression="Fine & well.")
    assert table.find("CXR2")[0].report.findings is None


DTD = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            OPENI_XML.replace("?>\n", f"?>\n{DTD}\n").format(
                study="S", findings="&b;", impression="", images=""
            ),
            "has a DTD",
        ),
        ("<a><b></a>", "is no XML"),
        ("", "is no XML"),
        ("<a>" + "x" * 5000 + "</a>", "it is no report"),
    ],
)
def test_xml_that_is_hostile_or_broken_is_refused(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openi, "MAX_XML_BYTES", 4000)
    (tmp_path / "1.xml").write_text(text)
    with pytest.raises(InputError, match=said):
        list(openi.read_openi(tmp_path))


def test_xml_of_another_encoding_hides_no_dtd(tmp_path: Path) -> None:
    text = OPENI_XML.replace('encoding="utf-8"?>\n', f'encoding="utf-16"?>\n{DTD}\n')
    (tmp_path / "1.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match="has a DTD"):
        list(openi.read_openi(tmp_path))


def test_a_folder_without_xml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \*\.xml is in"):
        list(openi.read_openi(tmp_path))
