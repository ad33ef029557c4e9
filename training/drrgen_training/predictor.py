"""What tells of a radiograph: an encoder with its training's ways, sentences, reports."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from drrgen.choices import View
from drrgen.errors import InputError, ManifestError
from drrgen.io.volumes import make_printable
from drrgen_training.batches import find_file_size
from drrgen_training.evaluation.embed import embed_sentences, find_report_tower
from drrgen_training.evaluation.mappings import read_mapping
from drrgen_training.evaluation.prompts import PromptSet, read_prompts
from drrgen_training.evaluation.zero_shot import score_zero_shot
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, Tower, find_image_spec, load_run, read_model
from drrgen_training.pictures import Fit, PackSettings
from drrgen_training.reports import Template
from drrgen_training.samples import read_samples
from drrgen_training.settings import CACHED, NONE, read_settings
from drrgen_training.targets import Targets, digest_weights, identify, load_tower, read_targets

LABELS = "ct-rate"  # whose labels are told where none are named
_EXPORTED = "model.safetensors"  # of drrgen export-model
_HOW = ("name the one that the run was trained on with --report-encoder, or give the embedded "
        "reports with --targets")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSettings:
    """What is told of each radiograph.

    Attributes:
        labels: Findings; none takes those of CT-RATE.
        prompts: Sentences that say them, see ``evaluation.prompts.read_prompts``.
        report_encoder: Encoder of these sentences; None takes the one that ``targets`` names, or
            the run's own.
        targets: Folder of the embedded reports that the run was trained on.
        like: Data set whose nearest reports are told; its reports are those of ``targets``.
        neighbours: How many of them.
        device: Where the radiograph encoder runs.

    Raises:
        InputError: A label that is empty or no text, ``like`` without ``targets``, or no neighbour.
    """

    labels: tuple[str, ...] = ()
    prompts: str = "x2ct"
    report_encoder: str | None = None
    targets: Path | None = None
    like: Path | None = None
    neighbours: int = 3
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.like is not None and self.targets is None:
            raise InputError(
                f"the reports of {self.like} have no embeddings; give the folder of drrgen embed "
                "--of report with --targets"
            )
        if self.neighbours < 1:
            raise InputError(f"neighbours: got {self.neighbours}, wanted at least 1")
        if any(not label.strip() for label in self.labels):
            raise InputError("a label is empty; give each finding a name")
        odd = [label for label in self.labels if make_printable(label) != label]
        if odd:
            raise InputError(f"the label {make_printable(odd[0])} is no text in UTF-8; rename it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A report near a radiograph.

    Attributes:
        name: ``sample_id`` of the first row of the manifest that has it.
        cosine: How near.
        text: The report.
    """

    name: str
    cosine: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Findings:
    """What sentences say.

    Attributes:
        labels: Findings.
        prompts: Their sentences.
        sentences: Unit vectors of these.
    """

    labels: tuple[str, ...]
    prompts: PromptSet
    sentences: Mapping[str, Float32[np.ndarray, " e"]]

    def score(
        self, vectors: Float32[np.ndarray, "n e"], scale: float | None
    ) -> list[dict[str, float]]:
        """Score each radiograph, see ``evaluation.zero_shot.score_zero_shot``."""
        found = score_zero_shot(vectors, self.sentences, self.prompts, self.labels, scale)
        return [{label: float(found[label][i]) for label in self.labels}
                for i in range(len(vectors))]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reports:
    """Reports that may be near.

    Attributes:
        names: ``sample_id`` of each.
        texts: Of each.
        vectors: Unit vectors.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: Float32[np.ndarray, "n e"]

    def find(self, vectors: Float32[np.ndarray, "b e"], most: int) -> list[tuple[Neighbour, ...]]:
        """Find the nearest reports of each radiograph; of equal ones the first."""
        cosines = vectors @ self.vectors.T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :most]
        return [
            tuple(Neighbour(name=self.names[j], cosine=float(row[j]), text=self.texts[j])
                  for j in nearest)
            for row, nearest in zip(cosines, order.tolist(), strict=True)
        ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictor:
    """A trained encoder, and what it is asked.

    Attributes:
        tower: Embeds radiographs.
        digest: Of its weights.
        square: How a picture becomes a square.
        settings: What is asked.
        views: Views that it was trained on; empty for all, or not known.
        findings: Sentences; None without an encoder of reports.
        reports: Reports; None where none are asked for.
        notes: What the user should know.
    """

    tower: Tower
    digest: str
    square: PackSettings
    settings: PredictSettings
    views: tuple[View, ...] = ()
    findings: Findings | None = None
    reports: Reports | None = None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Findings that are told."""
        return self.findings.labels if self.findings else ()

    @property
    def n_reports(self) -> int:
        """How many reports are told of each radiograph."""
        return min(self.settings.neighbours, len(self.reports.names)) if self.reports else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What a training says of itself; ``own`` names its encoder of reports, if it ran one."""

    path: Path
    identity: Mapping[str, Any]
    views: tuple[View, ...] | None
    own: str | None


def load_predictor(checkpoint: Path, settings: PredictSettings) -> Predictor:
    """Load a trained encoder, and embed the sentences and reports that it is asked for.

    Args:
        checkpoint: Folder of ``drrgen train`` or ``drrgen export-model``, or weights of one.
        settings: What is asked.

    Raises:
        ConfigError: No such prompts, or no such encoder of reports.
        InputError: No trained radiograph encoder, vectors of another width, or labels without an
            encoder of reports.
        ManifestError: The encoder of reports or the targets are not those of the training.
    """
    run = _read_run(checkpoint)
    tower = load_run(run.path, Modality.CXR).eval().requires_grad_(requires_grad=False)
    targets = _read_reports_of(settings.targets) if settings.targets else None
    sentences = _find_encoder(run, settings, targets)
    for name, dim in (("targets", targets and targets.provenance.dim),
                      ("report encoder", sentences and sentences.dim)):  # fmt: skip
        if dim is not None and dim != tower.dim:
            raise InputError(
                f"{checkpoint} makes vectors of {tower.dim} numbers, the {name} of {dim}; give "
                "what it was trained on"
            )
    findings = None if sentences is None else _ask(sentences, settings)
    reports = None
    if targets is not None and settings.like is not None:
        reports = _list_reports(settings.like, targets)
    return Predictor(
        tower=tower.to(settings.device), digest=digest_weights(tower)[:16],
        square=_find_square(run, tower), settings=settings, views=run.views or (),
        findings=findings, reports=reports,
        notes=tuple(_list_notes(run, tower, findings, reports, settings)),
    )  # fmt: skip


def _read_run(checkpoint: Path) -> _Run:
    """Read what a training says of itself."""
    path = checkpoint
    if checkpoint.suffix != ".safetensors":
        exported = checkpoint / _EXPORTED
        path = exported if exported.is_file() else checkpoint / BEST
    _, meta = read_model(path)
    model = meta["model"]
    identity = meta.get("identity") or _read_identity(path.parent)
    if not isinstance(identity, dict) or not isinstance(identity.get("targets") or {}, dict):
        raise InputError(
            f"{path} does not tell what it was trained on; get a whole copy of the run"
        )
    own = None
    if Modality.REPORT in model["train"]:
        own = f"run:{path}"
    elif model["report"] not in (CACHED, NONE):
        own = model["report"]
    return _Run(
        path=path,
        identity=identity,
        views=_find_views(meta, path.parent / "config.toml"),
        own=own,
    )


def _find_views(meta: Mapping[str, Any], recipe: Path) -> tuple[View, ...] | None:
    """Find the views that a run was trained on; older weights tell none, but their recipe does."""
    told = meta.get("views")
    if isinstance(told, list) and set(told) <= set(View):
        return tuple(map(View, told))
    return read_settings(recipe).data.view if recipe.is_file() else None


def _read_identity(folder: Path) -> dict[str, Any]:
    """Read ``run.json``, where the weights tell nothing; empty where there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / "run.json").read_text())["identity"] or {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found


def _find_square(run: _Run, tower: Tower) -> PackSettings:
    """Find how pictures became squares in the training: as packed, or as files are read."""
    packed = run.identity.get("pack")
    if packed:
        try:
            return PackSettings(size=packed["size"], fit=Fit(packed["fit"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{run.path} was trained on pictures packed by {packed}, wanted a size and a fit; "
                "get a whole copy of the run"
            ) from error
    return PackSettings(size=find_file_size(find_image_spec(tower)))


def _read_reports_of(folder: Path) -> Targets:
    """Read the embeddings of reports."""
    targets = read_targets(folder)
    if targets.provenance.modality is not Modality.REPORT:
        raise InputError(
            f"{folder} holds embeddings of {targets.provenance.modality}, wanted reports; give the "
            "folder of drrgen embed --of report"
        )
    return targets


def _find_encoder(run: _Run, settings: PredictSettings, targets: Targets | None) -> Any:
    """Find the encoder of sentences, and see that it is the training's; None without one."""
    name = settings.report_encoder or (None if targets else run.own)
    if name is None and targets is None:
        if settings.labels:
            raise InputError(f"labels need an encoder of reports; {_HOW}")
        return None
    given = {targets.provenance.encoder_id} if targets else _list_ids(name or "")
    wanted = _find_wanted(run)
    if wanted and not wanted & given:
        raise ManifestError(
            f"{settings.targets or name} is of the report encoder {min(given)}, {run.path} was "
            f"trained on {min(wanted)}; cosines between the two mean nothing: give the one that it "
            "was trained on, with --report-encoder or --targets"
        )
    if targets is None:
        return load_tower(Modality.REPORT, name or "", "cpu")
    try:
        return find_report_tower({Modality.REPORT: targets}, name)
    except InputError as error:
        if settings.report_encoder:
            raise
        raise InputError(f"{error}; where it lies elsewhere now, name it with --report-encoder"
                         ) from error  # fmt: skip


def _find_wanted(run: _Run) -> set[str]:
    """Find the ids of the training's encoder of reports; none where it had none."""
    told = (run.identity.get("targets") or {}).get(Modality.REPORT)
    if told:
        return {told}
    return _list_ids(run.own) if run.own else set()


def _list_ids(name: str) -> set[str]:
    """List the ids of an encoder: one for each way that reports become text, which no matter is."""
    return {identify(Modality.REPORT, name, template).encoder_id for template in Template}


def _ask(tower: Tower, settings: PredictSettings) -> Findings:
    """Embed the sentences."""
    prompts = read_prompts(settings.prompts)
    labels = tuple(dict.fromkeys(settings.labels or read_mapping(LABELS).labels))
    made = embed_sentences(tower, prompts.write_all(labels))
    return Findings(labels=labels, prompts=prompts, sentences=made)


def _list_reports(dataset: Path, targets: Targets) -> Reports:
    """List the reports of a data set, each text once."""
    samples = read_samples(dataset, template=targets.provenance.template or Template.SECTIONS)
    rows = [(row, int(n)) for row, n in zip(samples.rows, samples.report, strict=True) if n >= 0]
    first = {n: row for row, n in reversed(rows)}
    numbers = sorted(first)
    places = targets.find([first[n]["text"] for n in numbers])
    kept = [(n, place) for n, place in zip(numbers, places.tolist(), strict=True) if place >= 0]
    if not kept:
        raise InputError(
            f"none of the {len(numbers)} reports of {dataset} is among the targets; embed them "
            "with drrgen embed --of report"
        )
    return Reports(
        names=tuple(first[n]["sample_id"] for n, _ in kept),
        texts=tuple(samples.texts[n] for n, _ in kept),
        vectors=targets.vectors[[place for _, place in kept]],
    )


def _list_notes(
    run: _Run, tower: Tower, findings: Findings | None, reports: Reports | None,
    settings: PredictSettings,
) -> Iterator[str]:  # fmt: skip
    """Say what the user should know."""
    if "pack" not in run.identity:
        yield "the run does not tell how its pictures became squares: they are padded"
    if run.views is None:
        yield "the weights do not tell the views that they were trained on"
    if findings is None:
        yield f"embeddings only: findings need an encoder of reports; {_HOW}"
    elif not _find_wanted(run):
        yield ("the run does not tell an encoder of reports: whether the one given shares its "
               "space is not known")  # fmt: skip
    if findings is not None and tower.scale is None:
        yield "the run tells no factor of the cosines: probabilities lie near 0.5, mind their order"
    if settings.targets is not None and reports is None:
        yield "for the nearest reports, name the data set that they are of with --like"
