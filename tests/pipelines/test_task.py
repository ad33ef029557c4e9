from pathlib import Path

import pytest
import torch
from ct_files import write_ct
from drrgen_pipelines.discover import find_studies
from drrgen_pipelines.task import RenderTask, make_item

from drrgen.choices import Pair
from drrgen.config import RenderConfig
from drrgen.phantoms import make_torso

SIZE = 400  # pixels: torch splits pictures beyond 32,768 of them among its threads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    volume = make_torso(spacing_mm=4.0, height_mm=240.0)
    write_ct(volume, tmp_path / "a.nii.gz")
    return tmp_path


def test_the_threads_of_torch_change_no_pixel(folder: Path) -> None:
    (study,) = find_studies(folder, dataset="toy", salt=b"a salt for tests only").studies
    render = RenderConfig(size=SIZE, pairs=(Pair.BONE, Pair.SOFT))
    before = torch.get_num_threads()
    pixels = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = folder / f"out{threads}"
            RenderTask(out=out, render=render)(make_item(study))
            pixels.append({path.name: path.read_bytes() for path in out.rglob("*.png")})
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(pixels[0]) == 6
    assert pixels[0] == pixels[1] == pixels[2]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(PermissionError(13, "denied", "/ct/DOE^JOHN.dcm"), "io_error"),
     (ValueError("what is /ct/DOE^JOHN.dcm"), "crashed"), (MemoryError("DOE"), "out_of_memory")],
)  # fmt: skip
def test_neither_log_nor_row_repeats_the_text_of_an_error_which_may_name_a_patient(
    folder: Path,
    error: Exception,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("drrgen_pipelines.task.read_ct", fail)
    (study,) = find_studies(folder, dataset="toy", salt=b"a salt for tests only").studies
    (row,) = RenderTask(out=folder / "out", render=RenderConfig())(make_item(study))
    assert row["reason"] == reason
    assert study.sample_id in caplog.text
    assert "DOE" not in caplog.text + row["detail"]
