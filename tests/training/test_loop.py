"""The loop on a made-up data set: what it learns, what it keeps, what it tells."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from drrgen_training import loop
from drrgen_training.encoders import make_ct_encoder
from drrgen_training.loop import CHECKPOINT, Job, Step, fit
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, LAST, TriModal, decay_groups, load_run, read_model
from drrgen_training.pictures import PackSettings, describe_pictures
from drrgen_training.reports import Template
from drrgen_training.samples import read_samples
from drrgen_training.settings import find_recipe, read_settings
from drrgen_training.shards import write_shards
from drrgen_training.targets import embed, identify
from drrgen_training.volumes import describe_volumes, find_places
from trainable import write_trainable

from drrgen.errors import ConfigError, EngineError, InputError, ManifestError

ROOT = Path(__file__).parents[2]
SHORT = ("model.cxr=tiny:32", "model.dim=2048", "data.batch=8", "optim.epochs=3",
         "optim.warmup_steps=0", "optim.lr=1e-3", "data.dev_share=0.3", "run.patience=9",
         "loss.gamma=0", "loss.scale=learned", "optim.ema=0.5")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with CT, a pack of both, and embedded reports."""
    root = tmp_path_factory.mktemp("d")
    samples = read_samples(write_trainable(root, n=32, views=("PA", "LL"), with_ct=True))
    list(write_shards(describe_pictures(samples, PackSettings(size=36)), root / "PACK"))
    places = find_places(samples.root, root / "CT")
    list(write_shards(describe_volumes(samples.volumes, places, "tiny3d"), root / "PACK"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drrgen.jobs.runner.HANDFUL", 1000)
        told = identify(Modality.REPORT, "hashed", Template.SECTIONS)
        list(embed(samples, told, root / "EMB"))
    return root


def make_job(root: Path, out: Path, *overrides: str, **changes: Any) -> Job:
    settings = read_settings(find_recipe("stage2"), (*SHORT, *overrides))
    told = {"targets": (root / "EMB",), "pack": root / "PACK"} | changes
    return Job(dataset=root / "CXR", out=out, settings=settings, **told)


def train(root: Path, out: Path, *overrides: str, **changes: Any) -> list[Step]:
    return list(fit(make_job(root, out, *overrides, **changes)))


def read_weights(run: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    return read_model(run / name)[0]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_a_radiograph_encoder_learns_to_find_reports(root: Path, tmp_path: Path) -> None:
    steps = train(root, tmp_path, "optim.epochs=16", "optim.lr=3e-3", "optim.ema=0.8")
    looks = [step for step in steps if step.score is not None]
    assert len(looks) == 16 and steps[-1].step == steps[-1].steps
    assert steps[-1].loss < 0.6 * steps[0].loss
    assert looks[-1].best is not None and looks[-1].chance is not None
    assert looks[-1].best > 1.7 * looks[-1].chance
    assert {BEST, LAST, CHECKPOINT, "config.toml", "run.json", "log.jsonl"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_what_is_kept_is_what_was_trained_and_it_loads(root: Path, tmp_path: Path) -> None:
    train(root, tmp_path)
    state = read_weights(tmp_path, BEST)
    assert all(name.startswith(("towers.cxr.", "scale.")) for name in state)
    tower = load_run(tmp_path, Modality.CXR).eval()
    made = tower(torch.rand(2, 32, 32))
    assert made.shape == (2, 2048) and made.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert tower.scale is not None and tower.scale > 1
    with pytest.raises(InputError, match=r"has no ct tower; it trained cxr only"):
        load_run(tmp_path, Modality.CT)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["identity"]["targets"].keys() == {"report"} and "torch" in told["versions"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))


def test_a_run_that_stops_in_an_epoch_goes_on_to_the_same_bits(root: Path, tmp_path: Path) -> None:
    train(root, tmp_path / "whole", "run.save_steps=1")
    job = make_job(root, tmp_path / "broken", "run.save_steps=1")
    steps = fit(job)
    for _ in range(4):
        next(steps)
    steps.close()
    assert not list((tmp_path / "broken").glob("*.partial*"))
    left = list(fit(job))
    assert left[0].step == 4 + 1
    assert_same(read_weights(tmp_path / "whole"), read_weights(tmp_path / "broken"))
    assert_same(read_weights(tmp_path / "whole", BEST), read_weights(tmp_path / "broken", BEST))
    assert list(fit(job)) == []  # it has come to its end


KILLED = """
import sys, torch
sys.path[:0] = {path!r}
from pathlib import Path
from drrgen_training.loop import Job, fit
from drrgen_training.settings import find_recipe, read_settings
torch.set_num_threads(1)
settings = read_settings(find_recipe("stage2"), {overrides!r})
job = Job(dataset=Path({root!r}) / "CXR", out=Path({out!r}), settings=settings,
          targets=(Path({root!r}) / "EMB",), pack=Path({root!r}) / "PACK")
for step in fit(job):
    print(step.step, flush=True)
"""


def test_sigkill_in_the_middle_of_an_epoch_costs_no_bit(root: Path, tmp_path: Path) -> None:
    overrides = ("run.save_steps=2", "optim.epochs=4")
    train(root, tmp_path / "whole", *overrides)
    path = [str(ROOT), str(ROOT / "pipelines"), str(ROOT / "training")]
    code = KILLED.format(
        path=path, overrides=(*SHORT, *overrides), root=str(root), out=str(tmp_path / "killed")
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 5:  # of 3 an epoch; the last checkpoint is of step 4
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    left = train(root, tmp_path / "killed", *overrides)
    assert 1 < left[0].step <= 7
    assert_same(read_weights(tmp_path / "whole"), read_weights(tmp_path / "killed"))
    steps = [json.loads(line)["step"]
             for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]  # fmt: skip
    assert steps == list(range(1, len(steps) + 1))


def test_chunks_train_to_the_same_weights(root: Path, tmp_path: Path) -> None:
    train(root, tmp_path / "one")
    train(root, tmp_path / "chunks", "optim.chunk=3")
    one, other = read_weights(tmp_path / "one"), read_weights(tmp_path / "chunks")
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-2, atol=2e-4)


def test_it_stops_when_nothing_gets_better(root: Path, tmp_path: Path) -> None:
    steps = train(root, tmp_path, "optim.epochs=9", "run.patience=2", "optim.lr=0.0")
    looks = [step for step in steps if step.score is not None]
    assert len(looks) == 3  # the first is the best, two are no better


def test_stage_one_aligns_ct_and_report_and_its_towers_embed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """alpha alone: no radiograph is read; then its CT tower is a target of stage two."""
    monkeypatch.setattr("drrgen.jobs.runner.HANDFUL", 1000)
    settings = read_settings(find_recipe("stage1"), (
        "data.batch=8", "optim.epochs=2", "model.dim=16", "data.dev_share=0.3",
    ))  # fmt: skip
    job = Job(dataset=root / "CXR", out=tmp_path / "S1", settings=settings, pack=root / "PACK")
    steps = list(fit(job))
    assert steps[-1].terms.keys() == {"ct-report"}
    samples = read_samples(root / "CXR")
    places = find_places(samples.root, root / "CT")
    folders = []
    for modality in (Modality.CT, Modality.REPORT):
        told = identify(modality, f"run:{tmp_path / 'S1'}", Template.SECTIONS)
        assert told.dim == 16 and told.scale == pytest.approx(steps[-1].scale, rel=0.5)
        list(embed(samples, told, tmp_path / modality, places=places))
        folders.append(tmp_path / modality)
    steps = train(root, tmp_path / "S2", "model.dim=16", "loss.gamma=1", "loss.scale=frozen",
                  "optim.epochs=1", targets=folders)  # fmt: skip
    assert steps[-1].terms.keys() == {"cxr-report", "cxr-ct"}
    assert steps[-1].scale == pytest.approx(told.scale)


def test_two_views_of_a_study_are_both_seen(root: Path, tmp_path: Path) -> None:
    trainer = loop.Trainer(make_job(root, tmp_path))
    names = {
        name for epoch in range(12) for rows in trainer._plan(epoch)
        for name in trainer.train.make(rows).names
    }  # fmt: skip
    assert {name.split("_")[1] for name in names} == {"PA", "LL"}
    batch = trainer.train.make(trainer._plan(0)[0])
    assert len({name.split("_")[0] for name in batch.names}) == len(batch)


def test_norms_biases_and_scales_are_not_decayed(root: Path, tmp_path: Path) -> None:
    model = TriModal(make_job(root, tmp_path).settings)
    decayed, kept = decay_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0.0
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("bias" not in names[id(p)] for p in decayed["params"])
    assert "scale.log_scale" in {names[id(p)] for p in kept["params"]}
    assert len(names) == len(decayed["params"]) + len(kept["params"])


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    optim = read_settings(None, (
        "optim.lr=1.0", "optim.warmup_steps=4", "optim.schedule=cosine", "optim.epochs=1",
    )).optim  # fmt: skip
    rates = [loop.find_rate(optim, step, 104) for step in range(105)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[54] == pytest.approx(0.5) and rates[104] == pytest.approx(0)


# What a user meets.


def test_a_data_set_without_reports_is_told(root: Path, tmp_path: Path) -> None:
    bare = write_trainable(tmp_path, n=12, report_findings=None, report_impression=None)
    settings = make_job(root, tmp_path).settings
    job = Job(dataset=bare, out=tmp_path / "RUN", settings=settings, targets=(root / "EMB",))
    with pytest.raises(InputError, match=r"no sample of .* has a report .* drrgen build --reports"):
        list(fit(job))


def test_missing_or_misfit_targets_are_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.report is cached, but no folder of --targets"):
        train(root, tmp_path, targets=())
    with pytest.raises(
        ConfigError, match=r"have 2048 numbers, model.dim is 64; set model.dim=2048"
    ):
        train(root, tmp_path, "model.dim=64")
    with pytest.raises(ConfigError, match=r"two folders of targets hold embeddings of report"):
        train(root, tmp_path, targets=(root / "EMB", root / "EMB"))
    with pytest.raises(ManifestError, match=r"made by the template sections, wanted findings"):
        train(root, tmp_path, "data.template=findings")


def test_a_frozen_scale_that_nobody_tells_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a frozen scale needs a value"):
        train(root, tmp_path, "loss.scale=frozen")


def test_a_frozen_encoder_of_another_width_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"makes vectors of 2048, model.dim is 64"):
        train(root, tmp_path, "model.report=hashed", "model.dim=64", targets=())


def test_other_settings_or_targets_do_not_go_on_with_a_run(root: Path, tmp_path: Path) -> None:
    train(root, tmp_path, "optim.epochs=1")
    with pytest.raises(ManifestError, match=r"a run of other settings .*use --overwrite"):
        train(root, tmp_path, "optim.epochs=1", "optim.lr=0.5")
    with pytest.raises(ManifestError, match=r"a run of other pack"):
        train(root, tmp_path, "optim.epochs=1", pack=None)
    assert train(root, tmp_path, "optim.epochs=1", "optim.lr=1e-4", overwrite=True)


def test_a_loss_that_is_no_number_names_the_batch(root: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"the loss is nan at step 0 .* in the batch of s0"):
        train(root, tmp_path, "loss.scale_value=1e300", "loss.scale=fixed")


def test_too_little_memory_names_the_setting(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("drrgen_training.loop.encode", refuse)
    with pytest.raises(EngineError, match=r"with 8 samples encoded at once; set optim.chunk to 4"):
        train(root, tmp_path)


def test_a_ct_encoder_in_training_asks_for_packed_ct(root: Path, tmp_path: Path) -> None:
    settings = read_settings(find_recipe("stage1"), ("data.batch=8", "data.dev_share=0.3"))
    job = Job(dataset=root / "CXR", out=tmp_path, settings=settings)
    with pytest.raises(InputError, match=r"make one with drrgen pack --ct-dir"):
        list(fit(job))


def test_ct_packed_for_another_encoder_or_for_a_frozen_one_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_settings(find_recipe("stage1"), ("data.batch=8", "data.dev_share=0.3"))
    job = Job(dataset=root / "CXR", out=tmp_path, settings=settings, pack=root / "PACK")
    head = (root / "PACK" / "volumes.json").read_text()
    (root / "PACK" / "volumes.json").write_text(head.replace("tiny3d", "python:mine:make"))
    with pytest.raises(ManifestError, match=r"packed for python:mine:make, model.ct is tiny3d"):
        list(fit(job))
    (root / "PACK" / "volumes.json").write_text(head)
    samples = read_samples(root / "CXR")
    frozen = make_ct_encoder("tiny3d")
    frozen.is_final = True
    monkeypatch.setattr("drrgen_training.volumes.make_ct_encoder", lambda _: frozen)
    with pytest.raises(ConfigError, match=r"by drrgen embed --of ct"):
        describe_volumes(samples, find_places(samples.root, root / "CT"), "tiny3d")


def test_curves_need_tensorboard_and_say_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install tensorboard"):
        train(root, tmp_path, "run.tensorboard=true")


def test_a_device_that_is_not_there_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(EngineError, match=r"torch sees no CUDA device"):
        loop.find_device("cuda")


@pytest.mark.parametrize("name", ["x2ct-clip", "stage1", "stage2", "demo"])
def test_each_recipe_trains_a_step(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small batches, few epochs and, for the paper's, a small encoder; nothing else changed."""
    monkeypatch.setattr("drrgen.jobs.runner.HANDFUL", 1000)
    template = read_settings(find_recipe(name)).data.template
    samples = read_samples(root / "CXR", template=template)
    tiny = {"x2ct-clip": ("model.cxr=tiny:32",), "stage1": ()}.get(name, ("model.cxr=tiny:32",))
    folders = []
    if name != "stage1":
        tiny = (*tiny, "model.dim=256", "model.report=none", "loss.beta=0", "loss.scale_value=2")
        told = identify(Modality.CT, "tiny3d", template)
        places = find_places(samples.root, root / "CT")
        list(embed(samples, told, tmp_path / "ct", places=places))
        folders.append(tmp_path / "ct")
    settings = read_settings(
        find_recipe(name), ("data.batch=8", "optim.epochs=1", "data.dev_share=0.3", *tiny)
    )
    job = Job(dataset=root / "CXR", out=tmp_path / "RUN", settings=settings, targets=folders,
              pack=root / "PACK")  # fmt: skip
    start = time.perf_counter()
    assert list(fit(job))[-1].score is not None
    assert time.perf_counter() - start < 60
