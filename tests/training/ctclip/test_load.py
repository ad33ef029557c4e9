import math
from pathlib import Path

import pytest
import torch
from drrgen_training.ctclip.load import (
    CT_PART,
    TEXT_PART,
    check_state,
    convert,
    load_ct,
    load_text,
    read_state,
)
from drrgen_training.ctclip.table import TEXT, VISUAL, CTShape, TextShape, list_tensors
from drrgen_training.ctclip.text import TextTower, WordPieces
from drrgen_training.ctclip.vit import CTTower
from safetensors import safe_open
from torch import Tensor
from weights import TINY_CT, TINY_TEXT, make_state

from drrgen.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "no", "effusion", "##s", "left", ".", "pleural"]


def save(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def check(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return check_state(state, CT_PART, Path("f.pt"), ct=TINY_CT, text=TINY_TEXT)


def test_the_table_has_the_published_keys_and_elements() -> None:
    """A file of 1.77 GB: 442,360,986 numbers of float32."""
    table = list_tensors()
    visual = [spec for spec in table if spec.name.startswith(VISUAL)]
    text = [spec for spec in table if spec.name.startswith(TEXT)]

    def count(specs: list) -> int:  # type: ignore[type-arg]
        return sum(math.prod(spec.shape) for spec in specs)

    assert len({spec.name for spec in table}) == len(table) == 362
    assert (len(visual), count(visual)) == (157, 30_101_913)
    assert (len(text), count(text)) == (200, 109_482_752)
    assert count(table) == 442_360_986


def test_the_modules_have_just_the_used_tensors_of_the_table() -> None:
    with torch.device("meta"):
        towers = [CTTower(), TextTower()]
    found = {n: tuple(v.shape) for tower in towers for n, v in tower.state_dict().items()}
    wanted = {spec.name: spec.shape for spec in list_tensors() if spec.is_used}
    del wanted["temperature"]
    assert found == wanted


@pytest.mark.parametrize("prefix", ["", "module.", "trained_model.", "CTCLIP.module."])
def test_both_towers_load_whatever_wraps_the_names(tmp_path: Path, prefix: str) -> None:
    """LiPro's files wrap all names, and add a classifier; VocabFine's are as CT-CLIP's."""
    state = make_state()
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    wrapped |= {"classifier.weight": torch.zeros(18, 12), "classifier.bias": torch.zeros(18)}
    path = save(tmp_path / "w.pt", wrapped)
    ct, factor = load_ct(path, TINY_CT)
    text, same = load_text(path, TINY_TEXT)
    assert factor == same == pytest.approx(state["temperature"].exp().item())
    for tower in (ct, text):
        for name, tensor in tower.state_dict().items():
            assert torch.equal(tensor, state[name])
        assert not tower.training and not any(p.requires_grad for p in tower.parameters())


def test_tensors_that_inference_does_not_need_may_be_absent() -> None:
    state = make_state()
    unused = {spec.name for spec in list_tensors(TINY_CT, TINY_TEXT) if not spec.is_used}
    assert len(unused) > 20
    check({name: tensor for name, tensor in state.items() if name not in unused})


def test_missing_misshapen_and_unexpected_tensors_are_each_named() -> None:
    state = make_state()
    del state[f"{VISUAL}vq._codebook.embed"]
    state["to_visual_latent.weight"] = torch.zeros(3, 4)
    state["discr.0.weight"] = torch.zeros(2)
    with pytest.raises(InputError) as caught:
        check(state)
    said = str(caught.value)
    assert "missing: visual_transformer.vq._codebook.embed [1, 16, 32]" in said
    assert "misshapen: to_visual_latent.weight is [3, 4], wanted [12, 512]" in said
    assert "unexpected: discr.0.weight [2]" in said
    assert "wanted CT-CLIP_v2.pt" in said


def test_a_long_list_of_faults_is_cut() -> None:
    with pytest.raises(InputError, match=r"and \d+ more missing"):
        check({"temperature": torch.zeros(())})


def test_the_vocabulary_has_the_size_that_the_file_has(tmp_path: Path) -> None:
    bigger = TextShape(**{**{n: getattr(TINY_TEXT, n) for n in TextShape.__slots__}, "words": 77})
    path = save(tmp_path / "w.pt", make_state(text=bigger))
    assert load_text(path, TINY_TEXT)[0].shape.words == 77


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("a program in the file was run",)


def test_a_pickled_program_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="pickled programs are not run"):
        read_state(tmp_path / "evil.pt")
    assert "was run" not in capsys.readouterr().out


def test_what_holds_no_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no weights at"):
        read_state(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as weights"):
        read_state(tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="no tensors by name"):
        read_state(tmp_path / "list.pt")


def test_the_converted_files_load_and_hold_only_what_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drrgen_training.ctclip.load.CTShape", lambda: TINY_CT)
    monkeypatch.setattr("drrgen_training.ctclip.load.TextShape", lambda: TINY_TEXT)
    path = save(tmp_path / "w.pt", make_state())
    ct_file, text_file = convert(path, tmp_path / "out")
    volume = torch.randn(1, 1, *TINY_CT.volume)
    torch.testing.assert_close(
        load_ct(ct_file, TINY_CT)[0](volume), load_ct(path, TINY_CT)[0](volume)
    )
    assert load_text(text_file, TINY_TEXT)[1] == load_text(path, TINY_TEXT)[1]
    with safe_open(ct_file, "pt") as file:
        assert not any("extra" in name or "to_pixels" in name for name in file.keys())  # noqa: SIM118
        assert len(file.metadata()["source_sha256"]) == 64


def test_reports_are_cut_into_pieces_as_bert_does(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    cut = WordPieces(tmp_path / "vocab.txt", tokens=6)
    pieces, there = cut(["No LEFT effusions.", "xyz", "no no no no no no no"])
    assert pieces.tolist() == [[2, 4, 7, 5, 6, 3], [2, 1, 3, 0, 0, 0], [2, 4, 4, 4, 4, 3]]
    assert there.tolist()[1] == [1, 1, 1, 0, 0, 0]
    (tmp_path / "bad.txt").write_text("a\nb")
    with pytest.raises(InputError, match=r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        WordPieces(tmp_path / "bad.txt")
    with pytest.raises(InputError, match="cannot read the vocabulary"):
        WordPieces(tmp_path / "none.txt")


def test_padding_does_not_change_the_embedding_of_a_report() -> None:
    tower = TextTower(TINY_TEXT)
    pieces = torch.tensor([[2, 4, 5, 3]])
    padded = torch.tensor([[2, 4, 5, 3, 0, 0]])
    alone = tower(pieces, torch.ones_like(pieces))
    there = torch.tensor([[1, 1, 1, 1, 0, 0]])
    torch.testing.assert_close(tower(padded, there), alone, rtol=1e-5, atol=1e-6)
    assert not tower.train().training


def test_the_part_of_the_report_is_checked_too() -> None:
    state = make_state()
    del state["to_text_latent.weight"]
    with pytest.raises(InputError, match=r"report tower of CT-CLIP v2:\n  missing: to_text_latent"):
        check_state(state, TEXT_PART, Path("f.pt"), ct=CTShape(), text=TINY_TEXT)
