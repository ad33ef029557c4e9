"""``drrgen evaluate``: how well encoders find CT, reports and findings, with honest intervals."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from drrgen.choices import AcquisitionName, View
from drrgen.cli.console import exit_on_error, set_up_logging, stderr, stdout
from drrgen.errors import InputError

if TYPE_CHECKING:
    from drrgen_training.evaluation.judging import Judging
    from drrgen_training.evaluation.results import Evaluation, Score

_BASELINE = "chance, pixels, mean-projection, supervised, ct, or all; repeatable."
_SHOWN = ("recall@10", "median rank", "macro AUROC")


def evaluate(
    out: Annotated[Path, typer.Option(help="Folder to write: metrics.json, index.html and more.")],
    dataset: Annotated[
        Path | None, typer.Argument(help="Output folder of drrgen build; none with --embeddings.")
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="[NAME=]RUN of drrgen train; repeatable.")
    ] = None,
    targets: Annotated[
        list[Path] | None, typer.Option(help="Folder of drrgen embed; one of each modality.")
    ] = None,
    pack: Annotated[Path | None, typer.Option(help="Folder of drrgen pack.")] = None,
    embeddings: Annotated[
        list[str] | None, typer.Option(help="[NAME=]DIR with rows.parquet; repeatable.")
    ] = None,
    baseline: Annotated[list[str] | None, typer.Option(help=f"Also: {_BASELINE}")] = None,
    ct_dir: Annotated[
        str | None, typer.Option(help="Where the CT lie, for the baseline mean-projection.")
    ] = None,
    salt_file: Annotated[
        Path | None, typer.Option(help="Salt of the data set, for the same.")
    ] = None,
    train_on: Annotated[
        Path | None,
        typer.Option(
            help="Probes learn from this data set, DATASET is external; with --embeddings alone "
            "from embeddings, DIR or DIR/NAME."
        ),
    ] = None,
    report_encoder: Annotated[
        str | None, typer.Option(help="Encoder of prompts, where it lies elsewhere now.")
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="Sentences of zero-shot: x2ct, ctclip, ensemble or FILE.toml.")
    ] = "x2ct",
    mapping: Annotated[
        str | None,
        typer.Option(help="Labels of external data: rad-chestct-15, mimic-ct ... or FILE.toml."),
    ] = None,
    split: Annotated[str, typer.Option(help="Rows to judge: test, dev, or all.")] = "test",
    view: Annotated[
        View | None,
        typer.Option(help="Only this view; without it PA of each scan, else AP, LL, RL."),
    ] = None,
    probes: Annotated[bool, typer.Option(help="Also linear and few-shot probes.")] = True,
    probe: Annotated[
        str, typer.Option(help="logistic, adamw (as X2CT-CLIP), adamw-text (from the prompts on).")
    ] = "logistic",
    replicates: Annotated[
        int, typer.Option(min=100, help="Resamples of the patients, for intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Judge encoders on held-out patients: retrieval, zero-shot, probes, each with its interval.

    Give a data set and the run that was trained on it, or embeddings of any model; several models
    are compared on the same resampled patients. The published definitions of CT-CLIP and X2CT-CLIP
    stand beside the right numbers. What was judged is kept in OUT/embeddings/NAME.

    Example: drrgen evaluate DATASET --checkpoint RUN --targets EMB/report --out EVAL
    """
    with exit_on_error(resumes=False):
        set_up_logging(-1 if quiet else 0, None)
        from drrgen_training.evaluation.bench import EvaluateSettings
        from drrgen_training.evaluation.evaluate import evaluate as judge
        from drrgen_training.evaluation.judging import Judging
        from drrgen_training.evaluation.write import (
            METRICS,
            PAGE,
            PER_LABEL,
            PREDICTIONS,
            write_evaluation,
        )
        from drrgen_training.processes import find_device

        from drrgen.io.atomic import check_writable

        settings = EvaluateSettings(
            prompts=prompts, mapping=mapping, probes=probes, probe=probe, replicates=replicates,
            seed=seed, split=split, view=view, device=str(find_device(device)),
            external=train_on is not None,
        )  # fmt: skip
        judging = Judging(
            dataset=dataset, out=out, checkpoints=_split_names(checkpoint),
            targets=tuple(targets or ()), pack=pack, embeddings=_split_names(embeddings),
            baselines=_choose_baselines(baseline), train_on=train_on,
            report_encoder=report_encoder, settings=settings,
        )  # fmt: skip
        judging.check()
        check_writable(out)
        if judging.wants_mean_projection:
            _render_mean_projection(judging, ct_dir, salt_file, quiet=quiet)
        models = []
        for model in judging.list_models():
            models.append(model)
            if not quiet:
                stderr.print(f"{model.model}: {len(model)} rows", markup=False)
        found, test = judge(models, settings)
        write_evaluation(found, test, out)
        if not quiet:
            stdout.print(_make_table(found))
            stderr.print(_describe(found.facts), markup=False)
            for warning in found.warnings:
                stderr.print(f"note: {warning}", markup=False)
        for name in (PAGE, METRICS, PER_LABEL, PREDICTIONS):
            typer.echo(str(out / name))


def _describe(facts: "Mapping[str, Any]") -> str:
    """Say what the numbers are of."""
    views = ", ".join(f"{n} {view}" for view, n in facts["views"].items())
    return f"{facts['scans']} scans of {facts['patients']} patients, split {facts['split']}" + (
        f"; radiographs: {views}" if views else ""
    )


def _split_names(words: Sequence[str] | None) -> tuple[tuple[str | None, Path], ...]:
    """Split NAME=PATH at the first =; the name may be missing, and a path may have a = in it."""
    return tuple(map(_split_name, words or ()))


def _split_name(word: str) -> tuple[str | None, Path]:
    """Split one; a name becomes the name of a folder."""
    name, mark, path = word.partition("=")
    if not mark or Path(word).exists():
        return None, Path(word)
    if not path or name in (".", "..") or "/" in name or not name.isprintable():
        raise InputError(
            f"got {word!r}, wanted NAME=FOLDER with a plain name of a folder, without /, or FOLDER"
        )
    return name or None, Path(path)


def _choose_baselines(words: Sequence[str] | None) -> tuple[str, ...]:
    """Check the names of baselines."""
    from drrgen_training.evaluation.baselines import BASELINES

    wanted = tuple(BASELINES if "all" in (words or ()) else dict.fromkeys(words or ()))
    unknown = [word for word in wanted if word not in BASELINES]
    if unknown:
        raise InputError(f"there is no baseline {unknown[0]}; wanted {', '.join(BASELINES)}, all")
    return wanted


def _render_mean_projection(
    judging: "Judging", ct_dir: str | None, salt_file: Path | None, *, quiet: bool
) -> None:
    """Render the CT of the data set once more, as means of HU along parallel rays."""
    from dataclasses import replace

    from drrgen_pipelines.build import find_build, read_built_config, run_build
    from drrgen_pipelines.sources import Sources

    from drrgen.cli.render import find_own_salt
    from drrgen.cli.running import describe_plan, show
    from drrgen.io.stores import open_place

    if ct_dir is None or judging.dataset is None:
        raise InputError(
            "the baseline mean-projection renders the CT again; say where they lie with --ct-dir, "
            "beside the data set and --checkpoint"
        )
    config = read_built_config(open_place(str(judging.dataset)))
    render = replace(config.render, acquisition=AcquisitionName.MEAN_PROJECTION, views_per_ct=1)
    build = find_build(
        Sources(ct=ct_dir), open_place(str(judging.mean_projection)),
        replace(config, render=render), salt_file=salt_file or find_own_salt(quiet=quiet),
    )  # fmt: skip
    show(run_build(build), quiet=quiet, head=lambda **n: describe_plan(build, **n))


def _make_table(found: "Evaluation") -> Table:
    """Lay out the main numbers, a column a model; the interval of the first, the page has all."""
    models = list(dict.fromkeys(score.model for score in found.scores))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in ("task", "measure", *models[:1], "95 %", *models[1:], "by chance"):
        is_model = name in models
        table.add_column(
            name,
            no_wrap=not is_model,
            overflow="fold",
            min_width=is_model * max(5, min(len(name), 12)),
        )
    rows: dict[tuple[str, str], dict[str, Score]] = {}
    for score in found.scores:
        if score.label is None and score.measure in _SHOWN:
            rows.setdefault((score.task, score.measure), {})[score.model] = score
    for (task, measure), scores in rows.items():
        first, *others = (scores.get(model) for model in models)
        interval = f"{_show(first.low)}–{_show(first.high)}" if first else ""
        table.add_row(
            task, measure, _show(first.value if first else None), interval,
            *(_show(other.value if other else None) for other in others),
            _show(next(iter(scores.values())).chance),
        )  # fmt: skip
    return table


def _show(value: float | None) -> str:
    """Show a number; a dash for one that is not defined, nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.{3 if abs(value) < 10 else 1}f}" if math.isfinite(value) else "–"
