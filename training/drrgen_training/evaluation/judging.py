"""Which models are judged: trainings, anybody's embeddings, baselines."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from drrgen.errors import InputError, ManifestError
from drrgen.io.volumes import make_printable
from drrgen_training.batches import find_file_size, open_sources
from drrgen_training.evaluation import baselines
from drrgen_training.evaluation.bench import EvaluateSettings
from drrgen_training.evaluation.embed import (
    embed_run,
    embed_sentences,
    find_report_tower,
)
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.prompts import read_prompts
from drrgen_training.evaluation.tables import join_train, read_embedded, write_embedded
from drrgen_training.loop import Job, fit
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, Tower, find_image_spec, load_run, read_model
from drrgen_training.pictures import PackSettings, Pictures, describe_pictures, open_pictures
from drrgen_training.samples import Samples, read_samples, replace_pictures
from drrgen_training.settings import TrainSettings, read_settings
from drrgen_training.shards import write_shards
from drrgen_training.supervised import SupervisedSettings
from drrgen_training.targets import Targets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A training, and what it sees of the data set.

    Attributes:
        told: Its recipe.
        tower: Its encoder of radiographs.
        samples: Radiographs that the recipe takes.
        pictures: Of the same samples.
        targets: Cached embeddings, by modality.
    """

    told: TrainSettings
    tower: Tower
    samples: Samples
    pictures: Pictures
    targets: Mapping[str, Targets]


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
        train_on: Data set that probes learn from, where ``dataset`` is another one; where there
            is none, embeddings of such: a folder of each model's own, or that of the only one.
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
            InputError: Nothing to judge, options that contradict each other, something that a
                baseline needs is missing, or the data set that probes learn from shares a patient
                with the one that is judged.
            ManifestError: No data set, embeddings that are not whole, or targets that the run was
                not trained on.
        """
        self.check()
        for name, folder in self.embeddings:
            yield self._read(folder, name)
        if self.dataset is None:
            return
        opened = [self._open(run) for _, run in self.checkpoints]
        trained = [
            self._make(_name_model(name, run), each)
            for (name, run), each in zip(self.checkpoints, opened, strict=True)
        ]
        made = trained + list(self._list_baselines(trained[0], opened[0]))
        for model in made:
            write_embedded(model, self.out / "embeddings" / model.model)
            yield model

    def _read(self, folder: Path, name: str | None) -> Embedded:
        """Read embeddings; without a data set also those of the rows that probes learn from."""
        made = read_embedded(folder, name)
        if self.train_on is None or self.dataset is not None:
            return made
        own = self.train_on / made.model
        if len(self.embeddings) > 1 and not own.is_dir():
            raise InputError(
                f"{self.train_on} has no folder {made.model}; where several models are judged, "
                "probes learn from the embeddings of each in --train-on DIR/NAME"
            )
        train = read_embedded(own if own.is_dir() else self.train_on, made.model)
        return self._join(train, made)

    def _join(self, train: Embedded, made: Embedded) -> Embedded:
        """Join the rows that probes learn from with those that are judged, in the same labels."""
        told = self.settings
        return join_train(told.map_labels(train), told.map_labels(made), told.split)

    def check(self) -> None:
        """Refuse what says nothing to judge, or contradicts itself.

        Raises:
            InputError: It does.
        """
        if self.dataset is None and not self.embeddings:
            raise InputError(
                "nothing to judge; give a data set with --checkpoint, or --embeddings DIR"
            )
        if (self.dataset is None) != (not self.checkpoints):
            raise InputError(
                "a data set goes with --checkpoint RUN, one needs the other; for embeddings alone "
                "give --embeddings DIR"
            )
        for_runs = {
            "--targets": self.targets, "--pack": self.pack,
            "--report-encoder": self.report_encoder,
        }  # fmt: skip
        idle = [word for word, value in for_runs.items() if value]
        if self.dataset is None and idle:
            raise InputError(
                f"{', '.join(idle)} go with a data set and --checkpoint, there is neither; "
                "embeddings have their vectors and sentences in their folder"
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
        if self.train_on is not None and self.dataset is not None and self.embeddings:
            raise InputError(
                "--train-on is a data set beside --checkpoint, and embeddings beside --embeddings: "
                "it cannot be both; judge the checkpoint first, then its OUT/embeddings as tables"
            )
        names = [_name_model(*pair) for pair in self.checkpoints]
        names += [name for name, _ in self.embeddings if name]  # tables without tell their own
        twice = {name for name in (*names, *self.baselines) if
                 (*names, *self.baselines).count(name) > 1}  # fmt: skip
        if twice:
            raise InputError(
                f"two models are called {', '.join(sorted(twice))}; name them, NAME=FOLDER"
            )

    def _open(self, run: Path) -> Opened:
        """Open a training, and what of the data set it takes."""
        told = _read_run_settings(run)
        targets = open_sources(told, self.targets, None).targets
        _check_targets(run, targets)
        if self.dataset is None:
            raise InputError("there is no data set; give one")
        samples = read_samples(self.dataset, template=told.data.template, view=told.data.view)
        tower = load_run(run, Modality.CXR)
        pictures = open_pictures(samples, self.pack, _find_size(tower))
        return Opened(told=told, tower=tower, samples=samples, pictures=pictures, targets=targets)

    def _make(self, name: str, opened: Opened) -> Embedded:
        """Embed with a trained encoder; also the rows of others that probes learn from."""
        made = self._embed(name, opened)
        if self.train_on is None:
            return made
        data = opened.told.data
        samples = read_samples(self.train_on, template=data.template, view=data.view)
        pictures = open_pictures(samples, None, _find_size(opened.tower))
        train = embed_run(
            samples, pictures, opened.tower, opened.targets, model=name,
            device=self.settings.device,
        )  # fmt: skip
        return self._join(train, made)

    def _embed(self, name: str, opened: Opened) -> Embedded:
        """Embed radiographs of the data set, and the prompts."""
        made = embed_run(
            opened.samples, opened.pictures, opened.tower, opened.targets, model=name,
            device=self.settings.device,
        )  # fmt: skip
        if Modality.REPORT not in opened.targets:
            return made
        tower = find_report_tower(opened.targets, self.report_encoder)
        sentences = read_prompts(self.settings.prompts).write_all(self.settings.choose_labels(made))
        return replace(made, prompts=embed_sentences(tower, sentences))

    def _list_baselines(self, first: Embedded, opened: Opened) -> Iterator[Embedded]:
        """Make the baselines, on the rows and in the space of the first training."""
        told, pictures = opened.told, opened.pictures
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
                    yield self._train_on_mean_projections(opened)

    def _train_on_mean_projections(self, opened: Opened) -> Embedded:
        """Train the same recipe on mean projections; embed the data set's own radiographs."""
        folder, told, samples = self.mean_projection.parent, opened.told, opened.samples
        swapped = replace_pictures(samples, read_samples(self.mean_projection, view=told.data.view))
        pack = folder / "PACK"
        size = PackSettings(size=_find_size(opened.tower))
        for _ in write_shards(describe_pictures(swapped, size), pack):
            pass
        job = Job(
            dataset=samples.root, out=folder / "RUN", settings=told, targets=self.targets,
            pack=pack, pictures=self.mean_projection,
        )  # fmt: skip
        for _ in fit(job):
            pass
        trained = replace(opened, tower=load_run(job.out, Modality.CXR))
        return self._embed(baselines.MEAN_PROJECTION, trained)


def _name_model(name: str | None, folder: Path) -> str:
    """Name a model: as it was asked, or as its folder is called."""
    return name or make_printable(folder.resolve().name)


def _check_targets(run: Path, targets: Mapping[str, Targets]) -> None:
    """Refuse targets of another encoder than the run was trained on, where it tells one."""
    _, meta = read_model(run if run.suffix == ".safetensors" else run / BEST)
    identity = meta.get("identity")
    told = identity.get("targets") if isinstance(identity, dict) else None
    for name, target in targets.items():
        wanted = told.get(name) if isinstance(told, dict) else None
        if wanted and wanted != target.provenance.encoder_id:
            raise ManifestError(
                f"the {name} targets are of the encoder {target.provenance.encoder_id}, {run} was "
                f"trained on {wanted}; cosines between the two mean nothing: give the targets that "
                "it was trained on"
            )


def _read_run_settings(run: Path) -> TrainSettings:
    """Read the recipe of a training."""
    folder = run.parent if run.suffix == ".safetensors" else run
    path = folder / "config.toml"
    if not path.is_file():
        raise InputError(f"{folder} is no run of drrgen train: it has no config.toml")
    return read_settings(path)


def _find_size(tower: Tower) -> int:
    """Size at which pictures are read from files [pixels]."""
    return find_file_size(find_image_spec(tower))
