from pathlib import Path

import pytest
from drrgen_training.losses import Modality
from drrgen_training.settings import TrainSettings, find_recipe, read_settings

from drrgen.errors import ConfigError

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.toml"))


def read(*overrides: str) -> TrainSettings:
    return read_settings(None, overrides)


def test_the_recipe_of_the_paper_has_its_numbers() -> None:
    """You et al. 2025, arXiv 2503.02162, and its published configuration."""
    s = read_settings(find_recipe("x2ct-clip"))
    assert (s.data.batch, s.optim.lr, s.optim.weight_decay, s.optim.clip) == (360, 5e-5, 1e-4, 0.5)
    assert (s.loss.alpha, s.loss.beta, s.loss.gamma, s.loss.scale) == (0, 1, 1, "frozen")
    assert (s.model.cxr, s.model.dim, s.data.key) == ("hf:swin-tiny", 512, "study")
    assert s.optim.betas == (0.9, 0.99) and s.optim.schedule == "constant"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_says_what_it_is_and_survives_toml(path: Path, tmp_path: Path) -> None:
    assert path.read_text().startswith("# ")
    settings = read_settings(path)
    again = tmp_path / "again.toml"
    again.write_text(settings.to_toml())
    assert read_settings(again) == settings


def test_what_is_set_beats_the_recipe() -> None:
    s = read("optim.lr=1e-3", 'data.view=["PA", "LAT"]', "model.cxr=tiny:64", "run.patience=3")
    assert (s.optim.lr, s.model.cxr, s.run.patience) == (1e-3, "tiny:64", 3)
    assert s.data.view == ("PA", "LL")


@pytest.mark.parametrize(("override", "said"), [
    ("optim.epoch=1", "unknown key epoch; did you mean epochs?"),
    ("optimiser.lr=1", "unknown section optimiser; did you mean optim?"),
    ("lr=1", "wanted section.key=value"),
    ("optim.lr=fast", "lr: got 'fast', wanted float"),
    ("data.batch=1", "batch: got 1, wanted 2 to 1e"),
    ("optim.betas=[0.9, 1.0]", "betas: got"),
    ("loss.beta=-1", "wanted numbers from 0"),
    ("run.device=gpu", "wanted auto, cpu, cuda or cuda:N"),
    ("model.train=[]", "at least one of cxr, ct, report"),
    ("model.ct=none", "the term cxr-ct has weight 1, but model.ct is none"),
])  # fmt: skip
def test_impossible_settings_are_told(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(override)
    assert said in str(caught.value)


def test_a_term_that_nobody_learns_from_is_an_error() -> None:
    """alpha on cached targets would be a constant."""
    with pytest.raises(ConfigError, match="neither is trained, so it would be a constant"):
        read("loss.alpha=1")
    with pytest.raises(ConfigError, match="cached ones are frozen"):
        read("loss.alpha=1", 'model.train=["cxr", "ct"]')
    with pytest.raises(ConfigError, match="no term of the loss has"):
        read("loss.alpha=1", "loss.beta=0", "loss.gamma=0", "model.ct=tiny3d",
             'model.train=["cxr", "ct"]')  # fmt: skip
    alive = read("loss.alpha=1", "model.ct=tiny3d", 'model.train=["cxr", "ct"]')
    assert alive.modalities == set(Modality)


def test_the_fingerprint_follows_what_decides_the_weights() -> None:
    assert read().fingerprint == read("run.device=cpu", "run.save_steps=7").fingerprint
    assert read().fingerprint != read("optim.lr=1e-4").fingerprint


def test_an_unknown_recipe_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wanted one of demo, stage1, stage2, x2ct-clip"):
        find_recipe("x2ct")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        read_settings(find_recipe(str(tmp_path / "none.toml")))
