"""Which models are judged: trainings, anybody's embeddings, baselines."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from drrgen.errors import InputError
from drrgen_training.batches import open_sources
from drrgen_training.evaluation import baselines
from drrgen_training.evaluation.embed import (
    embed_run,
    embed_sentences,
    find_report_tower,
)
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.evaluate import EvaluateSettings
from drrgen_training.evaluation.prompts import read_prompts
from drrgen_training.evaluation.tables import join_train, read_embedded, write_embedded
from drrgen_training.loop import Job, fit
from drrgen_training.losses import Modality
from drrgen_training.pictures import PackSettings, Pictures, describe_pictures, open_pictures
from drrgen_training.samples import Samples, read_samples, replace_pictures
from drrgen_training.settings import TrainSettings, read_settings
from drrgen_training.shards import write_shards
from drrgen_training.supervised import SupervisedSettings
from drrgen_training.targets import Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What is to be judged; see ``drrgen evaluate``.

    Attributes:
        dataset: A data set; None where all embeddings are there already.
        out: Output folder.
        checkpoints: Names and folders of trainings on it.
        targets: Folders of the embeddings that they were trained on.
        pack: Folder of ``drrgen pack``.
        embeddings: Names and folders of embeddings that are there already.
        baselines: Names of ``baselines.BASELINES``.
        train_on: Data set that probes learn from, where ``dataset`` is another one.
        report_encoder: Encoder of prompts, where it lies elsewhere now.
        settings: How.
    """

    dataset: Path | None
    out: Path
    checkpoints: tuple[tuple[str | None, Path], ...] = ()
    targets: tuple[Path, ...] = ()
    pack: Path | None = None
    embeddings: tuple[tuple[str | None, Path], ...] = ()
    baselines: tuple[str, ...] = ()
    train_on: Path | None = None
    report_encoder: str | None = None
    settings: EvaluateSettings = field(default_factory=EvaluateSettings)

    @property
    def wants_mean_projection(self) -> bool:
        """Whether the CT must be rendered as mean projections first."""
        return baselines.MEAN_PROJECTION in self.baselines

    @property
    def mean_projection(self) -> Path:
        """Where these radiographs are."""
        return self.out / "baselines" / baselines.MEAN_PROJECTION / "CXR"

    def list_models(self) -> Iterator[Embedded]:
        """Make or read the embeddings of every model, and keep what was made.

        Raises:
            ConfigError: Targets that do not fit the run.
            InputError: Nothing to judge, or something that a baseline needs is missing.
            ManifestError: No data set, or embeddings that are not whole.
        """
        self._check()
        for name, folder in self.embeddings:
            yield read_embedded(folder, name)
        if self.dataset is None:
            return
        trained = [self._make(name, run) for name, run in self.checkpoints]
        made = trained + list(self._list_baselines(trained[0]))
        for model in made:
            write_embedded(model, self.out / "embeddings" / model.model)
            yield model

    def _check(self) -> None:
        """Refuse what says nothing to judge."""
        if self.dataset is None and not self.embeddings:
            raise InputError(
                "nothing to judge; give a data set with --checkpoint, or --embeddings DIR"
            )
        if (self.dataset is None) != (not self.checkpoints):
            raise InputError(
                "a data set goes with --checkpoint RUN, one needs the other; for embeddings alone "
                "give --embeddings DIR"
            )
        from_pictures = set(self.baselines) - {baselines.CHANCE, baselines.CT_SIDE}
        if from_pictures and self.train_on is not None:
            raise InputError(
                f"with --train-on the baselines {', '.join(sorted(from_pictures))} are not made; "
                "evaluate that data set by itself for them"
            )
        if self.baselines and self.dataset is None:
            raise InputError(
                f"the baselines {', '.join(self.baselines)} need the radiographs; give a data set "
                "with --checkpoint"
            )
        names = [n or run.name for n, run in (*self.checkpoints, *self.embeddings)]
        twice = {name for name in (*names, *self.baselines) if
                 (*names, *self.baselines).count(name) > 1}  # fmt: skip
        if twice:
            raise InputError(
                f"two models are called {', '.join(sorted(twice))}; name them, NAME=FOLDER"
            )

    def _make(self, name: str | None, run: Path) -> Embedded:
        """Embed with a trained encoder."""
        told = _read_run_settings(run)
        targets = open_sources(told, self.targets, None).targets
        made = self._embed(self._read(told), told, run, targets, name or run.name)
        if self.train_on is not None:
            samples = read_samples(self.train_on, template=told.data.template, view=told.data.view)
            pictures = open_pictures(samples, None, _read_size(told))
            train = embed_run(
                samples, pictures, run, targets, model=made.model, device=self.settings.device
            )
            return join_train(train, made)
        return made

    def _embed(
        self, samples: Samples, told: TrainSettings, run: Path, targets: Mapping[str, Targets],
        name: str,
    ) -> Embedded:  # fmt: skip
        """Embed radiographs of the data set, and the prompts."""
        made = embed_run(samples, self._open(samples, told), run, targets, model=name,
                         device=self.settings.device)  # fmt: skip
        if Modality.REPORT not in targets:
            return made
        tower = find_report_tower(targets, self.report_encoder)
        sentences = read_prompts(self.settings.prompts).write_all(self.settings.choose_labels(made))
        return replace(made, prompts=embed_sentences(tower, sentences))

    def _read(self, told: TrainSettings) -> Samples:
        """Read the radiographs that a run's settings take."""
        if self.dataset is None:
            raise InputError("there is no data set; give one")
        return read_samples(self.dataset, template=told.data.template, view=told.data.view)

    def _open(self, samples: Samples, told: TrainSettings) -> Pictures:
        """Open the pictures."""
        return open_pictures(samples, self.pack, _read_size(told))

    def _list_baselines(self, first: Embedded) -> Iterator[Embedded]:
        """Make the baselines, on the rows and in the space of the first training."""
        if not self.baselines:
            return
        run = self.checkpoints[0][1]
        told = _read_run_settings(run)
        samples = self._read(told)
        pictures = self._open(samples, told)
        for name in self.baselines:
            match name:
                case baselines.CHANCE:
                    yield baselines.make_chance(first, self.settings.seed)
                case baselines.CT_SIDE:
                    yield baselines.make_ct_side(first)
                case baselines.PIXELS:
                    yield baselines.make_pixels(first, pictures)
                case baselines.SUPERVISED:
                    settings = SupervisedSettings(
                        encoder=told.model.cxr, seed=self.settings.seed, crop=told.data.crop,
                        brightness=told.data.brightness, contrast=told.data.contrast,
                    )  # fmt: skip
                    yield baselines.make_supervised(first, pictures, settings, self.settings.device)
                case baselines.MEAN_PROJECTION:
                    yield self._train_on_mean_projections(samples, told)

    def _train_on_mean_projections(self, samples: Samples, told: TrainSettings) -> Embedded:
        """Train the same recipe on mean projections; embed the data set's own radiographs."""
        folder = self.mean_projection.parent
        swapped = replace_pictures(samples, read_samples(self.mean_projection, view=told.data.view))
        pack = folder / "PACK"
        size = PackSettings(size=_read_size(told))
        for _ in write_shards(describe_pictures(swapped, size), pack):
            pass
        job = Job(
            dataset=samples.root, out=folder / "RUN", settings=told, targets=self.targets,
            pack=pack, pictures=self.mean_projection,
        )  # fmt: skip
        for _ in fit(job):
            pass
        targets = open_sources(told, self.targets, None).targets
        return self._embed(samples, told, job.out, targets, baselines.MEAN_PROJECTION)


def _read_run_settings(run: Path) -> TrainSettings:
    """Read the recipe of a training."""
    folder = run.parent if run.suffix == ".safetensors" else run
    path = folder / "config.toml"
    if not path.is_file():
        raise InputError(f"{folder} is no run of drrgen train: it has no config.toml")
    return read_settings(path)


def _read_size(told: TrainSettings) -> int:
    """Size at which pictures are read from files [pixels]."""
    from drrgen_training.batches import FILE_MARGIN
    from drrgen_training.encoders import make_image_encoder

    return round(make_image_encoder(told.model.cxr).spec.size * FILE_MARGIN)
