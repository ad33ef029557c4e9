import numpy as np
import torch
from drrgen_training.evaluation.classification import measure_auroc
from drrgen_training.evaluation.head import BATCH, DECAY, PATIENCE, RATE, fit_head
from drrgen_training.evaluation.prompts import read_prompts
from drrgen_training.evaluation.zero_shot import find_directions, score_zero_shot
from judged import make_model
from torch import nn


def make_rows(n: int = 120, seed: int = 0, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors that tell a label on the first axis."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, n)
    x = np.stack([2.0 * label - 1, np.ones(n)], axis=1) + noise * random.normal(size=(n, 2))
    return x / np.linalg.norm(x, axis=1, keepdims=True), label


def none(y: np.ndarray) -> np.ndarray:
    return np.zeros(len(y), bool)


def test_what_can_be_told_apart_is_told_apart() -> None:
    (x, y), (seen, truth) = make_rows(), make_rows(seed=1)
    held = np.arange(120) < 24
    for each in (none(y), held):
        scores = fit_head(x, y, each, seen)
        assert measure_auroc(scores, truth) == 1.0 and ((scores > 0.5) == truth).all()


def test_before_its_first_step_a_head_says_what_zero_shot_says() -> None:
    model, prompts = make_model(noise=3.0), read_prompts("x2ct")
    told = (model.prompts, prompts, ["Cyst"], model.scale)
    start = find_directions(16, *told)["Cyst"]
    x, y = model.vectors["cxr"].astype(np.float64), model.labels["Cyst"]
    wanted = score_zero_shot(model.vectors["cxr"], *told)["Cyst"]
    scores = fit_head(x[:60], y[:60], none(y[:60]), x, start=start, epochs=0)
    np.testing.assert_allclose(scores, wanted, rtol=1e-12)
    assert (
        np.ptp(wanted) > 0.5 and (fit_head(x[:60], y[:60], none(y[:60]), x, epochs=0) == 0.5).all()
    )


def test_a_start_that_no_step_betters_stays() -> None:
    """The held-out rows say the opposite of those that are learnt from."""
    x, y = make_rows()
    held = np.arange(120) < 24
    wrong = np.where(held, y, 1 - y)
    start = np.array([8.0, 0.0])
    assert (
        fit_head(x, wrong, held, x, start=start) == fit_head(x, y, held, x, start=start, epochs=0)
    ).all()


def test_steps_are_those_of_a_linear_layer_of_torch() -> None:
    x, y = make_rows(noise=1.0)
    layer = nn.Linear(2, 1, dtype=torch.float64)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(7):
        optimizer.zero_grad()
        logits = layer(torch.from_numpy(x))[:, 0]
        nn.BCEWithLogitsLoss()(logits, torch.from_numpy(y).double()).backward()
        optimizer.step()
    with torch.no_grad():
        wanted = torch.sigmoid(layer(torch.from_numpy(x)))[:, 0].numpy()
    np.testing.assert_allclose(fit_head(x, y, none(y), x, epochs=7), wanted, rtol=1e-9)


def test_held_out_rows_are_not_learnt_from_but_choose_the_epoch() -> None:
    """Labels that vectors hardly tell: more epochs fit the noise, and the best state is kept."""
    random = np.random.default_rng(7)
    x = random.normal(size=(60, 40))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y, held = (x[:, 0] + 0.1 * random.normal(size=60) > 0).astype(int), np.arange(60) < 20

    def lose(epochs: int) -> float:
        p = fit_head(x[~held], y[~held], none(y[~held]), x[held], epochs=epochs)
        return float(-np.log(np.where(y[held] == 1, p, 1 - p)).mean())

    losses = [lose(epochs) for epochs in range(PATIENCE + 10)]
    best = int(np.argmin(losses))
    found = fit_head(x, y, held, x)
    np.testing.assert_allclose(
        found, fit_head(x[~held], y[~held], none(y[~held]), x, epochs=best), rtol=1e-9
    )
    assert 0 < best < 10 and losses[-1] > losses[best]


def test_the_same_seed_gives_the_same_bits() -> None:
    x, y = make_rows(BATCH + 100, noise=1.0)
    one, again, other = (fit_head(x, y, none(y), x[:9], epochs=2, seed=s) for s in (1, 1, 2))
    assert (one == again).all() and (one != other).any()
