"""The training loop: plain torch, on one process or several of torchrun.

    RUN/config.toml          the recipe, resolved
    RUN/run.json             what it was made of: digests of data, targets, code versions
    RUN/log.jsonl            a line a step, and a line a look at the dev patients
    RUN/checkpoint.pt        what a resumed run needs: only what is trained, and where it stands
    RUN/best.safetensors     the weights that did best on the dev patients
    RUN/last.safetensors     the weights of the last epoch

Batches, views and augmentation follow from the seed, the epoch and the step alone, so a run that is
killed goes on from its checkpoint and ends with the same bits as one that was not.
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int64
from torch import Tensor, nn

from drrgen.errors import EngineError, InputError, ManifestError
from drrgen.io.atomic import atomic_path, remove_partials, write_bytes
from drrgen_training.averaging import Average
from drrgen_training.batches import Batch, BatchMaker, Sources, encode, make_ahead, open_sources
from drrgen_training.look import choose_precision, look_at_dev
from drrgen_training.losses import (
    Embeddings,
    Modality,
    average_gradients,
    backward_in_chunks,
    count_processes,
    gather,
    gather_identity,
    tri_modal_loss,
)
from drrgen_training.model import BEST, LAST, TriModal, decay_groups, save_model
from drrgen_training.processes import find_device, find_rank, is_first, joined_processes
from drrgen_training.samples import (
    Samples,
    plan_epoch,
    read_samples,
    replace_pictures,
    split_samples,
)
from drrgen_training.settings import OptimSettings, Schedule, TrainSettings
from drrgen_training.shards import read_head

CHECKPOINT = "checkpoint.pt"
_PACKAGES = ("torch", "transformers", "numpy", "drrgen")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training.

    Attributes:
        dataset: Output folder of ``drrgen render`` or ``build``.
        out: Folder of the run.
        settings: The recipe.
        targets: Folders of ``drrgen embed``.
        pack: Folder of ``drrgen pack``; without it pictures are read from their files.
        pictures: Another data set, whose radiographs of the same CT are trained on instead.
        overwrite: Start anew.
    """

    dataset: Path
    out: Path
    settings: TrainSettings
    targets: Sequence[Path] = ()
    pack: Path | None = None
    pictures: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a step tells.

    Attributes:
        step: Steps done.
        steps: Steps in all, unless it stops early.
        epoch: Which epoch, from 0.
        loss: The loss.
        terms: Each term without its weight.
        lr: Learning rate.
        scale: Factor of the cosines.
        data_s: How long the step waited for its batch [s].
        step_s: How long it took, with waiting [s].
        score: Mean reciprocal rank of the dev patients, where this step ends with a look at them.
        chance: The same for a random order.
        best: The best score so far.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    terms: dict[str, float]
    lr: float
    scale: float
    data_s: float
    step_s: float
    score: float | None = None
    chance: float | None = None
    best: float | None = None


@dataclass(slots=True, kw_only=True)
class State:
    """Where a training stands; all of it is in the checkpoint."""

    step: int = 0
    epoch: int = 0
    best: float = -1.0
    looks_since_best: int = 0
    is_done: bool = False


def fit(job: Job) -> Iterator[Step]:
    """Train; go on where an earlier run of the same settings stopped.

    Args:
        job: The training.

    Yields:
        Every step.

    Raises:
        ConfigError: Settings that contradict each other or the targets.
        InputError: An empty split, or a modality that nobody has.
        ManifestError: A data set, pack or targets that are not whole, or a run of other settings.
        EngineError: No such device, too little memory, or a loss that is not a number.
    """
    with joined_processes():
        trainer = Trainer(job)
        yield from trainer.run()


class Trainer:
    """All that a training holds; see ``fit``.

    Args:
        job: The training.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings
        self.device = find_device(job.settings.run.device)
        samples = read_job_samples(job)
        sources = open_sources(self.settings, job.targets, job.pack)
        torch.manual_seed(self.settings.run.seed)
        ct = sources.targets.get(Modality.CT)
        self.model = TriModal(self.settings, ct.provenance.scale if ct else None).to(self.device)
        train, dev = split_samples(samples, dev_share=self.settings.data.dev_share)
        self.train = BatchMaker(train, self.settings, self.model, sources)
        self.dev = BatchMaker(dev, self.settings, self.model, sources)
        optim = self.settings.optim
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.model, optim.weight_decay), lr=optim.lr, betas=optim.betas
        )
        self.ema = Average(self.model, optim.ema) if optim.ema else None
        self.state = State()
        self.per_epoch = len(self._plan(0))
        self.identity = describe_run(job, samples, sources)
        self.board = _open_board(job.out) if self.settings.run.tensorboard and is_first() else None

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.per_epoch * self.settings.optim.epochs

    def run(self) -> Iterator[Step]:
        """Train to the end."""
        self._resume_or_begin()
        while not self.state.is_done:
            yield from self._run_epoch()

    def _run_epoch(self) -> Iterator[Step]:
        """Train what is left of an epoch, look at the dev patients, save."""
        epoch = self.state.epoch
        left = list(enumerate(self._plan(epoch)))[self.state.step - epoch * self.per_epoch :]
        batches = make_ahead(lambda numbered: self._make(epoch, *numbered), left)
        start, told = time.perf_counter(), None
        for batch in batches:
            waited = time.perf_counter() - start
            told = self._step(batch, waited, start)
            if self.state.step % self.per_epoch:
                self._log(told)
                if self.state.step % self.settings.run.save_steps == 0:
                    self._save()
                yield told
            start = time.perf_counter()
        if told is not None:
            yield self._end_epoch(told)

    def _end_epoch(self, told: Step) -> Step:
        """Look at the dev patients when it is time; keep the best weights; save."""
        state, run = self.state, self.settings.run
        state.epoch += 1
        is_last = state.epoch == self.settings.optim.epochs
        score = chance = None
        if state.epoch % run.evaluate_epochs == 0 or is_last:
            score, chance = self._look()
            state.looks_since_best += 1
            if score > state.best:
                state.best, state.looks_since_best = score, 0
                self._save_weights(BEST)
        self._save_weights(LAST)
        out_of_patience = run.patience is not None and state.looks_since_best >= run.patience
        state.is_done = is_last or out_of_patience
        told = Step(**{n: getattr(told, n) for n in Step.__slots__}
                    | {"score": score, "chance": chance, "best": state.best})  # fmt: skip
        self._log(told)
        self._save()
        return told

    def _look(self) -> tuple[float, float]:
        """Look at the dev patients, with the averaged weights where they are averaged."""
        kept = self.ema.swap_in(self.model) if self.ema else None
        found = look_at_dev(self.model, self.dev, self.settings, self.device)
        if self.ema and kept is not None:
            self.ema.swap_out(self.model, kept)
        return found

    def _plan(self, epoch: int) -> list[Int64[np.ndarray, " b"]]:
        """Draw the batches of an epoch; of each the share of this process."""
        data, n = self.settings.data, count_processes()
        seed = self.settings.run.seed
        planned = plan_epoch(
            self.train.samples, key=data.key, batch=data.batch, seed=seed, epoch=epoch
        )
        if n == 1:
            return planned
        # Every process takes as many, so that their rows can be joined.
        return [each[find_rank() : len(each) - len(each) % n : n] for each in planned]

    def _make(self, epoch: int, number: int, rows: Int64[np.ndarray, " b"]) -> Batch:
        """Make a batch; its chance hangs on nothing but where it stands."""
        seed = derive_seed(self.settings.run.seed, epoch, number, find_rank())
        generator = torch.Generator().manual_seed(seed)
        return self.train.make(rows, generator)

    def _step(self, batch: Batch, waited: float, start: float) -> Step:
        """Take one step."""
        optim, state = self.settings.optim, self.state
        rate = find_rate(optim, state.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(derive_seed(self.settings.run.seed, state.step, find_rank()))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with explain_memory(len(batch), optim):
            loss, terms = self._take_gradient(batch)
        value = float(loss)
        if not math.isfinite(value):
            raise EngineError(
                f"the loss is {value} at step {state.step} (epoch {state.epoch}), in the batch of "
                f"{', '.join(batch.names[:8])}{' ...' if len(batch) > 8 else ''}; lower optim.lr, "
                "give optim.clip, or look at these pictures"
            )
        trained = [p for _, p in self.model.find_trained()]
        average_gradients(trained)
        if optim.clip is not None:
            nn.utils.clip_grad_norm_(trained, optim.clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.follow(self.model, state.step)
        state.step += 1
        return Step(
            step=state.step, steps=self.steps, epoch=state.epoch, loss=value, terms=terms,
            lr=rate, scale=float(self.model.scale.log_scale.detach().exp()), data_s=waited,
            step_s=time.perf_counter() - start,
        )  # fmt: skip

    def _take_gradient(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Take the gradient of the loss over the batches of all processes."""
        identity = gather_identity(batch.identity.to(self.device))
        loss = self.settings.loss

        def loss_of(mine: Embeddings) -> tuple[Tensor, dict[str, float]]:
            every = {name: gather(embedding.float()) for name, embedding in mine.items()}
            return tri_modal_loss(
                every, identity, self.model.scale, weights=loss.weights, kind=loss.kind
            )

        def encode_part(part: slice) -> Embeddings:
            with choose_precision(self.settings, self.device):
                return encode(self.model, batch, part, self.device)

        return backward_in_chunks(
            encode_part, loss_of, batch=len(batch), chunk=self.settings.optim.chunk or len(batch)
        )

    # What is written. Only the first process writes.

    def _resume_or_begin(self) -> None:
        """Take up the checkpoint of the same run, or write what a new one starts with."""
        out = self.job.out
        found = out / "run.json"
        if found.is_file() and not self.job.overwrite:
            told = json.loads(found.read_text(encoding="utf-8"))["identity"]
            check_same_run(out, told, self.identity["identity"])
        elif is_first():
            for name in (CHECKPOINT, BEST, LAST, "log.jsonl", "run.json"):
                (out / name).unlink(missing_ok=True)
        if count_processes() > 1:
            dist.barrier()
        if (out / CHECKPOINT).is_file():
            self._load()
        if is_first():
            remove_partials(out)
            write_bytes(out / "config.toml", self.settings.to_toml().encode())
            text = json.dumps(self.identity, indent=2, sort_keys=True) + "\n"
            write_bytes(found, text.encode())
            self._cut_log()

    def _save(self) -> None:
        """Write the checkpoint."""
        if not is_first():
            return
        state = {name: getattr(self.state, name) for name in State.__slots__}
        saved = {
            "model": self.model.own_state(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.weights if self.ema else None,
            "state": state,
        }
        with atomic_path(self.job.out / CHECKPOINT) as partial:
            torch.save(saved, partial)

    def _load(self) -> None:
        """Take up the checkpoint."""
        saved = torch.load(self.job.out / CHECKPOINT, map_location=self.device, weights_only=True)
        self.model.load_own(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema:
            self.ema.weights = saved["ema"]
        self.state = State(**saved["state"])
        log.info("goes on at step %d of %d", self.state.step, self.steps)

    def _save_weights(self, name: str) -> None:
        """Write the weights to use: averaged ones, where they are averaged."""
        if is_first():
            state = self.ema.weights if self.ema else self.model.own_state()
            told = {"step": self.state.step, "epoch": self.state.epoch, "score": self.state.best,
                    "identity": self.identity["identity"]}  # fmt: skip
            save_model(self.job.out / name, state, self.settings, told)

    def _log(self, told: Step) -> None:
        """Add a line to the log."""
        if not is_first():
            return
        if self.board is not None:
            shown = {"loss": told.loss, "lr": told.lr, "scale": told.scale, "score": told.score}
            for name, value in (shown | told.terms).items():
                if value is not None:
                    self.board.add_scalar(name, value, told.step)
        line = json.dumps({name: getattr(told, name) for name in Step.__slots__})
        with (self.job.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _cut_log(self) -> None:
        """Take out of the log what lies behind the checkpoint: it is done again."""
        path = self.job.out / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if line.endswith("}")
                and json.loads(line)["step"] <= self.state.step]  # fmt: skip
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())


def read_job_samples(job: Job) -> Samples:
    """Read the samples that a training draws from.

    Raises:
        ManifestError: There is no finished manifest.
        InputError: No radiograph is among it.
    """
    data = job.settings.data
    samples = read_samples(job.dataset, template=data.template, view=data.view)
    if job.pictures is None:
        return samples
    return replace_pictures(samples, read_samples(job.pictures, view=data.view))


def find_rate(optim: OptimSettings, step: int, steps: int) -> float:
    """Learning rate of a step: linear warm-up, then constant or half a cosine down to zero."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule is Schedule.CONSTANT:
        return optim.lr
    share = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.lr * (1 + math.cos(math.pi * share)) / 2


def derive_seed(*numbers: int) -> int:
    """Make one seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def explain_memory(batch: int, optim: OptimSettings) -> Iterator[None]:
    """Say which setting to change when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not is_memory and "not enough memory" not in str(error):
            raise
        at_once = optim.chunk or batch
        raise EngineError(
            f"out of memory with {at_once} samples encoded at once; set optim.chunk to "
            f"{max(1, at_once // 2)} or less: the batch and its gradient stay the same"
        ) from error


def _open_board(out: Path) -> Any:
    """Open the curves for TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "run.tensorboard needs tensorboard, which is not there; pip install tensorboard, or "
            "set run.tensorboard=false (log.jsonl has the same numbers)"
        ) from error
    return SummaryWriter(str(out / "tensorboard"))


def describe_run(job: Job, samples: Samples, sources: Sources) -> dict[str, Any]:
    """Describe what a run is made of; ``identity`` decides whether another may go on with it."""
    packed = read_head(job.pack, "pictures")["settings"] if job.pack and _has(job.pack) else None
    identity = {
        "settings": job.settings.fingerprint,
        "dataset": samples.fingerprint,
        "rows": len(samples),
        "targets": {name: t.provenance.encoder_id for name, t in sources.targets.items()},
        "pack": packed,
        "processes": count_processes(),
    }
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    return {"identity": identity, "versions": versions}


def _has(pack: Path) -> bool:
    """Say whether a pack has pictures."""
    return (pack / "pictures.json").is_file()


def check_same_run(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run of other settings, data or targets.

    Raises:
        ManifestError: Something differs; the message says what.
    """
    differing = [key for key in now if before.get(key) != now[key]]
    if differing:
        told = "; ".join(f"{key} was {before.get(key)}, is {now[key]}" for key in differing)
        raise ManifestError(
            f"{out} is a run of other {', '.join(differing)} ({told}); use --overwrite to start "
            "anew, or give another --out"
        )
