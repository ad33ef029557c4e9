"""All ways in which a model tells findings: its own scores, zero-shot, probes."""

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np

from drrgen.errors import InputError
from drrgen_training.evaluation.bench import SENTENCES, Bench, EvaluateSettings
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.findings import (
    Told,
    choose_thresholds,
)
from drrgen_training.evaluation.mappings import read_mapping
from drrgen_training.evaluation.probe import (
    ProbeKind,
    check_apart,
    run_probes,
)
from drrgen_training.evaluation.prompts import read_prompts
from drrgen_training.evaluation.zero_shot import find_directions, score_zero_shot
from drrgen_training.losses import Modality

CLASSIFIER, ZERO_SHOT, PROBE = "classifier", "zero-shot from", "probe of"


def list_told(
    bench: Bench, settings: EvaluateSettings, known: Set[str], warnings: list[str]
) -> Iterator[Told]:
    """List all ways in which a model tells findings.

    Args:
        bench: Rows of the model.
        settings: How it is judged.
        known: As of ``bench.find_shared``: what only hangs on these is left out.
        warnings: Gets what could not be told, and why.

    Raises:
        InputError: A patient is in train and test, or a probe starts from sentences that are not
            there.
    """
    test = bench.test
    if not test.labels:
        warnings.append(f"{test.model}: no labels, so only retrieval")
        return
    sides = _find_sides(test, warnings)
    if test.findings:
        yield _map(test, bench.dev, settings, CLASSIFIER, (test.findings, bench.dev.findings))
    if test.prompts:
        for side in sides:
            if {side, SENTENCES} <= known:
                continue
            dev = bench.dev.take(bench.dev.has(side))
            told = tuple(_score_prompts(rows, side, settings) for rows in (test, dev))
            yield _map(test, dev, settings, f"{ZERO_SHOT} {side}", told)
    if settings.probes:
        starts = {SENTENCES} if settings.probe == ProbeKind.ADAMW_TEXT else set()
        others = [side for side in sides if not {side, *starts} <= known]
        yield from _list_probes(bench, others, settings, warnings)


def _find_sides(test: Embedded, warnings: list[str]) -> list[Modality]:
    """Find what findings are told from: what all test rows have."""
    sides = [side for side in (Modality.CXR, Modality.CT) if side in test.vectors]
    lacking = {side: int((~test.has(side)).sum()) for side in sides}
    warnings += [
        f"{test.model}: {n} of {len(test)} test scans have no {side}, so no findings are told from "
        "it" for side, n in lacking.items() if n
    ]  # fmt: skip
    return [side for side in sides if not lacking[side]]


def _score_prompts(
    rows: Embedded, side: Modality, settings: EvaluateSettings
) -> dict[str, np.ndarray]:
    """Score the rows by sentences."""
    if not len(rows):
        return {}
    return score_zero_shot(
        rows.vectors[side], rows.prompts, read_prompts(settings.prompts),
        settings.choose_labels(rows), rows.scale,
    )  # fmt: skip


def _map(
    test: Embedded,
    dev: Embedded,
    settings: EvaluateSettings,
    task: str,
    told: tuple[Mapping[str, np.ndarray], ...],
) -> Told:
    """Map scores of both to the labels of external data, and choose thresholds on dev rows."""
    scores, on_dev = told
    if settings.mapping is not None:
        mapping = read_mapping(settings.mapping)
        scores = mapping.map_scores(scores)
        on_dev = mapping.map_scores(on_dev) if on_dev else {}
    thresholds = choose_thresholds(on_dev, dev.labels) if on_dev else {}
    return Told(task=task, scores=({name: scores[name] for name in test.labels if name in scores},),
                thresholds=thresholds)  # fmt: skip


def _list_probes(
    bench: Bench, sides: Sequence[Modality], settings: EvaluateSettings, warnings: list[str]
) -> Iterator[Told]:
    """Train probes on each modality that some train row has."""
    test = bench.test
    if not len(bench.train):
        warnings.append(f"{test.model}: no train rows, so no probes")
        return
    check_apart(bench.train, bench.whole)
    for side in sides:
        if not bench.train.has(side).any():
            warnings.append(f"{test.model}: no train rows with {side}, so no probes of it")
        else:
            yield from _probe(bench, side, settings)


def _probe(bench: Bench, side: Modality, settings: EvaluateSettings) -> Iterator[Told]:
    """Train probes; the draws of a share are one thing that is told."""
    draws: dict[str, list[Mapping[str, np.ndarray]]] = {}
    for probe in run_probes(
        bench.train, bench.test, side, fractions=settings.fractions, shots=settings.shots,
        seeds=settings.seeds, kind=ProbeKind(settings.probe),
        starts=_find_starts(bench.test, side, settings),
    ):  # fmt: skip
        draws.setdefault(probe.name, []).append(probe.scores)
    for name, scores in draws.items():
        yield Told(task=f"{PROBE} {side}, {name}", scores=tuple(scores))


def _find_starts(
    test: Embedded, side: Modality, settings: EvaluateSettings
) -> dict[str, np.ndarray] | None:
    """Find where heads start that start from sentences; of several parts, at their mean."""
    if settings.probe != ProbeKind.ADAMW_TEXT:
        return None
    if not test.prompts:
        raise InputError(
            f"{test.model} has no embedded sentences, which the probe {settings.probe} starts "
            "from; give the report targets, or another --probe"
        )
    ways = find_directions(
        test.vectors[side].shape[1], test.prompts, read_prompts(settings.prompts),
        settings.choose_labels(test), test.scale,
    )  # fmt: skip
    if settings.mapping is None:
        return ways
    parts = read_mapping(settings.mapping).labels
    return {name: np.mean([ways[part] for part in each], axis=0) for name, each in parts.items()}
