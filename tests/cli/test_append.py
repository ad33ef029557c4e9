"""Studies that are added to a data set, with the settings and the recipe that it was made with."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ct_files import write_ct
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.phantoms import make_torso

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("first/a", "first/b", "more/c"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_ct(make_torso(spacing_mm=8.0, height_mm=200.0), folder / f"{name}.nii.gz")
    (folder / "salt.txt").write_text("a salt for tests only, long enough\n")
    (folder / "reports.csv").write_text("volume,findings\na,First.\nb,Second.\nc,Third.\n")
    return folder


def call(*words: object) -> tuple[int, str]:
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def build(folder: Path, out: Path) -> None:
    assert call("build", "-q", "--ct-dir", folder / "first", "--reports", folder / "reports.csv",
                "--out", out, "--salt-file", folder / "salt.txt", "--size", 64, "--view",
                "PA")[0] == 0  # fmt: skip


def append(folder: Path, out: Path, *more: object) -> tuple[int, str]:
    return call("append", out, "--ct-dir", folder / "more", "--salt-file", folder / "salt.txt",
                "--reports", folder / "reports.csv", *more)  # fmt: skip


def read_rows(out: Path) -> list[dict[str, object]]:
    parts = sorted((out / "manifest").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_what_is_added_is_made_like_the_rest_and_moves_nothing(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(folder, out)
    first = (out / "manifest" / "part-00000.parquet").read_bytes()
    assert append(folder, out)[0] == 0
    assert (out / "manifest" / "part-00000.parquet").read_bytes() == first
    rows = read_rows(out)
    assert sorted(row["report_findings"] for row in rows) == ["First.", "Second.", "Third."]  # type: ignore[type-var]
    assert {(row["width"] or 0) <= 64 for row in rows} == {True}  # type: ignore[operator]
    assert len({row["render_fingerprint"] for row in rows}) == 1
    assert call("check", out)[0] == 0
    again = append(folder, out)
    assert again[0] == 0
    assert "0 to render" in again[1]


def test_a_dry_run_adds_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(folder, out)
    code, said = append(folder, out, "--dry-run")
    assert code == 0
    assert "1 to render" in said
    assert len(read_rows(out)) == 2


def test_another_salt_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(folder, out)
    other = tmp_path / "other.txt"
    other.write_text("another salt, just as long as it is\n")
    code, said = call("append", out, "--ct-dir", folder / "more", "--salt-file", other)
    assert code == 1
    assert "another salt" in said


def test_a_folder_that_is_no_data_set_is_told(folder: Path, tmp_path: Path) -> None:
    code, said = append(folder, tmp_path / "nothing")
    assert code == 1
    assert "config.toml" in said
