"""An evaluation as one page to look at: tables, curves with bands, examples; all in one file."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.results import Curve, Difference, Evaluation, Hit, Score
from drrgen_training.evaluation.statistics import FEW_PATIENTS
from drrgen_training.pages import cut_text, encode_picture, render_page

_COLOURS = tuple(f"var(--m{i})" for i in range(6))  # of pages.css
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
_MAIN = ("recall@1", "recall@5", "recall@10", "median rank", "mAP@10", "label mAP@10",
         "label Jaccard@10", "macro AUROC", "macro AUPRC", "macro F1")  # fmt: skip
_BY_LABEL = ("AUROC", "AUPRC", "F1", "sensitivity", "specificity")
_LOWER_IS_BETTER = ("median rank",)
_TEXT = 420  # letters of a report
_TEMPLATE = Path(__file__).with_name("page.html")


def make_page(evaluation: Evaluation, test: Embedded) -> str:
    """Make the page.

    Args:
        evaluation: What was found.
        test: Rows that examples name, with pictures and texts.
    """
    models = list(dict.fromkeys(score.model for score in evaluation.scores))
    return render_page(
        _TEMPLATE, models=models, colours=_give_each(models, _COLOURS),
        dashes=_give_each(models, _DASHES), facts=evaluation.facts,
        warnings=evaluation.warnings, main=list(_list_main(evaluation, models)),
        differences=[d for d in evaluation.differences if _is_shown(d)],
        labels=list(_list_labels(evaluation.scores)), measures=_BY_LABEL,
        recall=list(_list_plots(evaluation.curves, "recall")),
        roc=list(_list_plots(evaluation.curves, "roc")),
        precision=list(_list_plots(evaluation.curves, "precision-recall")),
        confusion={m: c for m, c in (evaluation.facts.get("confusion") or {}).items()
                   if {"labels", "shares"} <= c.keys()}, hits=list(_list_hits(evaluation, test)),
        published=evaluation.published, number=show_number, is_enough=_has_enough(evaluation),
    )  # fmt: skip


def show_number(value: float | None, digits: int = 3) -> str:
    """Show a number; a dash where there is none."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def _give_each(models: Sequence[str], styles: Sequence[str]) -> dict[str, str]:
    """Give each model a style; those of the first few are their own."""
    return {m: styles[i % len(styles)] for i, m in enumerate(models)}


def _is_shown(difference: Difference) -> bool:
    """Say whether a difference is one of the main table, and of two models that differ at all."""
    is_main = difference.label is None and difference.measure in _MAIN
    differs = not difference.value == difference.low == difference.high == 0
    return is_main and differs and difference.measure != "macro F1"


def _has_enough(evaluation: Evaluation) -> bool:
    """Say whether there are enough patients to mark who is best."""
    return evaluation.facts.get("patients", 0) >= FEW_PATIENTS


def _list_main(evaluation: Evaluation, models: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Make the lines of the main table; the first model is marked where it beats all others."""
    found: dict[tuple[str, str], dict[str, Score]] = {}
    for score in evaluation.scores:
        if score.label is None and score.measure in _MAIN:
            found.setdefault((score.task, score.measure), {})[score.model] = score
    against: dict[tuple[str, str], list[Difference]] = {}
    for each in evaluation.differences:
        if each.label is None:
            against.setdefault((each.task, each.measure), []).append(each)
    shared = evaluation.facts.get("shared", {})
    for (task, measure), scores in found.items():
        if not any(math.isfinite(score.value) for score in scores.values()):
            continue
        sign = -1 if measure in _LOWER_IS_BETTER else 1
        differences = against.get((task, measure), [])
        hidden = [m for m in models if m not in scores and shared.get(m)]  # as good as the first
        is_whole = not hidden and 0 < len(differences) == len(scores) - 1
        yield {
            "task": task, "measure": measure, "cells": [scores.get(m) for m in models],
            "chance": next(iter(scores.values())).chance,
            "is_best": _has_enough(evaluation) and is_whole and all(
                min(sign * d.low, sign * d.high) > 0 for d in differences
            ),
        }  # fmt: skip


def _list_labels(scores: Sequence[Score]) -> Iterator[dict[str, Any]]:
    """Make a table of findings for each task that has decisions."""
    tasks: dict[str, dict[tuple[str, str], dict[str, Score]]] = {}
    for score in scores:
        if score.label is not None:
            lines = tasks.setdefault(score.task, {})
            lines.setdefault((score.label, score.model), {})[score.measure] = score
    for task, lines in tasks.items():
        if any("F1" in measures for measures in lines.values()):
            yield {"task": task, "lines": [
                {"label": label, "model": model, "cells": [measures.get(m) for m in _BY_LABEL],
                 "one": next(iter(measures.values()))}
                for (label, model), measures in sorted(lines.items())
            ]}  # fmt: skip


def _list_plots(curves: Sequence[Curve], kind: str) -> Iterator[dict[str, Any]]:
    """Make a plot for each task and finding, all models in one."""
    groups: dict[tuple[str, str | None], list[Curve]] = {}
    for curve in curves:
        if curve.kind == kind:
            groups.setdefault((curve.task, curve.label), []).append(curve)
    for (task, label), group in groups.items():
        logarithmic = kind == "recall"
        yield {"task": task, "label": label, "lines": [
            {"model": c.model,
             "path": _draw(c.x, c.y, logarithmic=logarithmic),
             "band": _draw(np.append(c.x, c.x[::-1]), np.append(c.low, c.high[::-1]),
                           logarithmic=logarithmic)}
            for c in group
        ], "chance": _draw(group[0].x, group[0].chance, logarithmic=logarithmic),
            "ends": ("1", f"{group[0].x.max():.0f}") if logarithmic else ("0", "1")}  # fmt: skip


def _draw(x: Float[np.ndarray, " k"], y: Float[np.ndarray, " k"], *, logarithmic: bool) -> str:
    """Write points for SVG, in a square of 100; those that are not there are left out."""
    place = np.log(x) / np.log(max(2.0, float(x.max()))) if logarithmic else x
    there = np.isfinite(place) & np.isfinite(y)
    return " ".join(f"{100 * a:.1f},{100 * (1 - b):.1f}" for a, b in
                    zip(place[there], y[there], strict=True))  # fmt: skip


def _list_hits(evaluation: Evaluation, test: Embedded) -> Iterator[dict[str, Any]]:
    """Make the examples: the query's picture and report, and what was found."""
    pictures: dict[int, str] = {}

    def look(row: int) -> dict[str, Any]:
        if row not in pictures:
            pictures[row] = encode_picture(test.pictures[row]) if test.pictures else ""
        text = test.texts[row] if test.texts else ""
        present = [name for name, told in test.labels.items() if told[row] == 1]
        return {"picture": pictures[row], "text": cut_text(text, _TEXT), "present": present,
                "name": test.names[row]}  # fmt: skip

    for hit in _choose_hits(evaluation.hits):
        found = [look(row) | {"score": s, "is_match": m} for row, s, m in
                 zip(hit.found, hit.scores, hit.is_match, strict=True)]  # fmt: skip
        yield {"task": hit.task, "model": hit.model, "rank": hit.rank, "query": look(hit.query),
               "found": found}  # fmt: skip


def _choose_hits(hits: Sequence[Hit]) -> list[Hit]:
    """Take the examples of the first model that has some."""
    return [hit for hit in hits if hit.model == hits[0].model]
