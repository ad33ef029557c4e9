import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from drrgen_training.losses import (
    CLIP_SCALE,
    MAX_SCALE,
    Embeddings,
    Identity,
    LogitScale,
    LossKind,
    Scale,
    Weights,
    average_gradients,
    backward_in_chunks,
    gather,
    gather_identity,
    infonce,
    siglip,
    tri_modal_loss,
)
from ports import find_ports
from torch import Tensor, nn
from torch.nn import functional

from drrgen.errors import ConfigError, InputError

GRADIENT_TOL = 1e-6  # float32, sums in another order
B, E = 12, 16


def make_embeddings(b: int = B, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: functional.normalize(torch.randn(b, E, generator=generator), dim=1)
        for name in ("ct", "cxr", "report")
    }


def make_identity(b: int = B, **changes: object) -> Identity:
    told = {"key": torch.arange(b), "report": torch.arange(b), "has": {}}
    return Identity(**(told | changes))  # type: ignore[arg-type]


def fixed(value: float = 5.0) -> LogitScale:
    return LogitScale(Scale.FIXED, LossKind.INFONCE, value)


def test_one_positive_a_row_is_the_mean_of_two_cross_entropies() -> None:
    """Written out as the paper has it, in float64, by numpy."""
    e = make_embeddings()
    logits = 5.0 * (e["cxr"].double() @ e["report"].double().T).numpy()
    rows = -np.diag(logits) + np.log(np.exp(logits).sum(1))
    columns = -np.diag(logits) + np.log(np.exp(logits).sum(0))
    loss, told = tri_modal_loss(e, make_identity(), fixed(), weights=Weights(gamma=0.0))
    assert loss.item() == pytest.approx((rows.mean() + columns.mean()) / 2, rel=1e-6)
    assert told == {"cxr-report": loss.item()}


def test_the_terms_are_weighted_and_summed() -> None:
    e, who = make_embeddings(), make_identity()
    loss, told = tri_modal_loss(e, who, fixed(), weights=Weights(alpha=0.5, beta=2.0, gamma=3.0))
    assert set(told) == {"ct-report", "cxr-report", "cxr-ct"}
    wanted = 0.5 * told["ct-report"] + 2 * told["cxr-report"] + 3 * told["cxr-ct"]
    assert loss.item() == pytest.approx(wanted, rel=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    yes, no = torch.eye(3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    logits = torch.full((3, 3), 1e4) - 2e4 * torch.eye(3)
    assert torch.isfinite(infonce(logits, yes, no))


def test_identical_reports_are_never_negatives() -> None:
    """Positives where the report is a side; between CT and radiograph no gradient at all."""
    reports = torch.arange(B)
    reports[1] = 0
    who = make_identity(report=reports)
    relation = who.relate("cxr", "report")
    assert relation.positive[0, 1] and relation.positive[1, 0]
    between = who.relate("cxr", "ct")
    assert between.ignored[0, 1] and not between.positive[0, 1] and not between.ignored.diag().any()
    e = make_embeddings()
    logits = fixed()(e["cxr"] @ e["ct"].T).requires_grad_()
    infonce(logits, between.positive, between.ignored).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0 == logits.grad[1, 0] and logits.grad[0, 2] > 0


def test_reports_that_are_missing_are_not_one_text() -> None:
    who = make_identity(report=torch.full((B,), -1))
    assert who.relate("cxr", "ct").ignored.sum() == 0


def test_equal_keys_are_positives_in_every_term() -> None:
    who = make_identity(key=torch.arange(B) // 2)
    for a, b in (("ct", "report"), ("cxr", "report"), ("cxr", "ct")):
        assert who.relate(a, b).positive.sum() == 2 * B


def test_a_missing_modality_masks_terms_and_drops_no_row() -> None:
    """Rows without CT still count between radiograph and report."""
    e = make_embeddings()
    has = torch.ones(B, dtype=torch.bool)
    has[:5] = False
    loss, told = tri_modal_loss(e, make_identity(has={"ct": has}), fixed(), weights=Weights())
    _, full = tri_modal_loss(e, make_identity(), fixed(), weights=Weights())
    assert told["cxr-report"] == full["cxr-report"]
    left = {name: x[5:] for name, x in e.items()}
    _, alone = tri_modal_loss(left, make_identity(B - 5), fixed(), weights=Weights())
    assert told["cxr-ct"] == pytest.approx(alone["cxr-ct"])
    none = torch.zeros(B, dtype=torch.bool)
    _, told = tri_modal_loss(e, make_identity(has={"ct": none}), fixed(), weights=Weights())
    assert told["cxr-ct"] == 0.0 and torch.isfinite(loss)


def test_siglip_is_the_sum_of_its_pairs() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 1.0]])
    yes, no = torch.eye(2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)
    wanted = sum(
        math.log1p(math.exp(-(1 if i == j else -1) * logits[i, j].item()))
        for i, j in product(range(2), repeat=2)
    )
    assert siglip(logits, yes, no).item() == pytest.approx(wanted / 2, rel=1e-6)
    no[0, 1] = True
    assert siglip(logits, yes, no).item() == pytest.approx(
        (wanted - math.log1p(math.exp(-1.0))) / 2, rel=1e-6
    )


def test_only_a_learned_scale_is_trained_and_it_is_clamped() -> None:
    assert not list(LogitScale(Scale.FROZEN, LossKind.INFONCE, 1.07).parameters())
    assert not list(fixed().parameters())
    learned = LogitScale(Scale.LEARNED, LossKind.INFONCE)
    assert learned(torch.ones(1, 1)).item() == pytest.approx(CLIP_SCALE, rel=1e-5)
    with torch.no_grad():
        learned.log_scale.fill_(20.0)
    assert learned(torch.ones(1, 1)).item() == pytest.approx(MAX_SCALE, rel=1e-5)
    assert len(list(LogitScale(Scale.LEARNED, LossKind.SIGLIP).parameters())) == 2


def test_impossible_settings_are_told() -> None:
    with pytest.raises(ConfigError, match="not all of them 0"):
        Weights(beta=0.0, gamma=0.0)
    with pytest.raises(ConfigError, match=r"got .*-1.0"):
        Weights(beta=-1.0)
    with pytest.raises(ConfigError, match="frozen scale needs a value"):
        LogitScale(Scale.FROZEN, LossKind.INFONCE)
    with pytest.raises(ConfigError, match="must be positive"):
        LogitScale(Scale.FIXED, LossKind.INFONCE, -2.0)
    e = make_embeddings()
    del e["ct"]
    with pytest.raises(InputError, match=r"the term cxr-ct has weight 1\.0"):
        tri_modal_loss(e, make_identity(), fixed(), weights=Weights())


class Towers(nn.Module):
    """Two small encoders with dropout, so that the random numbers matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.cxr = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Dropout(0.3), nn.Linear(32, E))
        self.ct = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Dropout(0.3), nn.Linear(32, E))
        self.scale = LogitScale(Scale.LEARNED, LossKind.INFONCE)

    def encode(self, images: Tensor, volumes: Tensor, reports: Tensor) -> Embeddings:
        return {
            "cxr": functional.normalize(self.cxr(images), dim=1),
            "ct": functional.normalize(self.ct(volumes), dim=1),
            "report": reports,
        }


def make_inputs(b: int = B) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    reports = functional.normalize(torch.randn(b, E, generator=generator), dim=1)
    return torch.randn(b, 6, generator=generator), torch.randn(b, 4, generator=generator), reports


def take_gradients(chunk: int, *, dropout: bool = True) -> tuple[float, list[Tensor], Tensor]:
    towers = Towers().train(dropout)
    images, volumes, reports = make_inputs()
    torch.manual_seed(11)
    loss, _ = backward_in_chunks(
        lambda part: towers.encode(images[part], volumes[part], reports[part]),
        lambda e: tri_modal_loss(e, make_identity(), towers.scale, weights=Weights(alpha=0.5)),
        batch=B,
        chunk=chunk,
    )
    grads = [p.grad for p in towers.parameters() if p.grad is not None]
    return loss.item(), grads, torch.rand(1)


@pytest.mark.parametrize("chunk", [1, 5, B - 1])
def test_chunks_give_the_gradients_of_one_step(chunk: int) -> None:
    loss, gradients, _ = take_gradients(B, dropout=False)
    chunked_loss, chunked, _ = take_gradients(chunk, dropout=False)
    assert chunked_loss == pytest.approx(loss, rel=1e-6)
    for one, other in zip(gradients, chunked, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=GRADIENT_TOL)


def test_chunks_draw_the_same_random_numbers_twice_and_go_on_behind_them() -> None:
    """With dropout: the gradient is that of the very masks that the loss saw."""
    towers = Towers().train()
    images, volumes, reports = make_inputs()

    def loss_of(e: Embeddings) -> tuple[Tensor, dict[str, float]]:
        return tri_modal_loss(e, make_identity(), towers.scale, weights=Weights())

    def encode(part: slice) -> Embeddings:
        return towers.encode(images[part], volumes[part], reports[part])

    torch.manual_seed(11)
    pieces = [encode(slice(i, i + 4)) for i in range(0, B, 4)]
    loss, _ = loss_of({name: torch.cat([p[name] for p in pieces]) for name in pieces[0]})
    loss.backward()
    wanted, next_number = [p.grad for p in towers.parameters()], torch.rand(1)
    towers.zero_grad()
    torch.manual_seed(11)
    chunked, _ = backward_in_chunks(encode, loss_of, batch=B, chunk=4)
    assert chunked.item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.rand(1) == next_number
    for parameter, gradient in zip(towers.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=GRADIENT_TOL)


def work_beside(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    towers = Towers().eval()
    half = B // 2
    mine = slice(rank * half, (rank + 1) * half)
    images, volumes, reports = (x[mine] for x in make_inputs())
    who = make_identity(has={"ct": torch.arange(B) != 3})
    my_who = Identity(key=who.key[mine], report=who.report[mine], has={"ct": who.has["ct"][mine]})
    for chunk in (half, 2):
        towers.zero_grad()
        loss, _ = backward_in_chunks(
            lambda part: towers.encode(images[part], volumes[part], reports[part]),
            lambda e: tri_modal_loss(
                {name: gather(x) for name, x in e.items()},
                gather_identity(my_who),
                towers.scale,
                weights=Weights(alpha=0.5),
            ),
            batch=half,
            chunk=chunk,
        )
        average_gradients(towers.parameters())
        torch.save([loss, *(p.grad for p in towers.parameters())], f"{folder}/{rank}-{chunk}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    """With a modality missing on one side only, in one pass and in chunks."""
    mp.spawn(work_beside, args=(*find_ports(1), str(tmp_path)), nprocs=2)
    towers = Towers().eval()
    one, _ = tri_modal_loss(
        towers.encode(*make_inputs()),
        make_identity(has={"ct": torch.arange(B) != 3}),
        towers.scale,
        weights=Weights(alpha=0.5),
    )
    one.backward()
    assert len(list(tmp_path.iterdir())) == 4
    for path in tmp_path.iterdir():
        loss, *gradients = torch.load(path, weights_only=True)
        assert loss.item() == pytest.approx(one.item(), rel=1e-6)
        for parameter, gradient in zip(towers.parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=GRADIENT_TOL)
