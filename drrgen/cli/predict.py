"""``drrgen predict``: a trained encoder on anybody's radiographs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drrgen.cli.console import ExitCode, exit_on_error, set_up_logging, stderr
from drrgen.errors import InputError

if TYPE_CHECKING:
    from drrgen_training.predict import Prediction
    from drrgen_training.predictor import Predictor

    from drrgen.io.radiograph_listing import RadiographListing

_MOST_NEIGHBOURS = 100


def predict(
    checkpoint: Annotated[
        Path, typer.Option(help="RUN of drrgen train, MODEL of drrgen export-model, or weights.")
    ],
    images: Annotated[str, typer.Option(help="Folder, file or glob: PNG, DICOM, JPEG, TIFF.")],
    out: Annotated[Path, typer.Option(help="Folder to write: predictions.csv, index.html, more.")],
    report_encoder: Annotated[
        str | None, typer.Option(help="That of the training: run:S1, ctclip:FILE, hf:DIR ...")
    ] = None,
    targets: Annotated[
        Path | None, typer.Option(help="Embedded reports of the training; they name the encoder.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Finding, repeatable; the 18 of CT-RATE by default.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="File of findings, one a line.")] = None,
    prompts: Annotated[
        str, typer.Option(help="Sentences of findings: x2ct, ctclip, ensemble or FILE.toml.")
    ] = "x2ct",
    like: Annotated[
        Path | None, typer.Option(help="Data set whose nearest reports are told, with --targets.")
    ] = None,
    neighbours: Annotated[
        int, typer.Option(min=1, max=_MOST_NEIGHBOURS, help="How many reports.")
    ] = 3,
    format_: Annotated[
        Literal["csv", "parquet"], typer.Option("--format", help="Of the predictions.")
    ] = "csv",
    page_limit: Annotated[
        int, typer.Option(min=0, help="Most radiographs on the page; the first ones.")
    ] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    log_file: Annotated[Path | None, typer.Option(help="Write the log there too.")] = None,
) -> None:
    """Tell findings and the nearest reports of your own radiographs; embed them; not for diagnosis.

    Findings are told by sentences, with the encoder of reports that the run was trained on; without
    it there are embeddings only. Exit code 3 says that some files could not be read: they are rows
    with the reason.

    Example: drrgen predict --checkpoint RUN --images HOSPITAL --targets EMB/report --out TOLD
    """
    with exit_on_error(resumes=False):
        set_up_logging(-1 if quiet else 0, log_file)
        from drrgen_training.predicted import (
            TableFormat,
            check_columns,
            write_predictions,
        )
        from drrgen_training.predictor import PredictSettings, load_predictor
        from drrgen_training.processes import find_device

        from drrgen.io.atomic import check_writable
        from drrgen.io.radiograph_listing import find_radiographs

        settings = PredictSettings(
            labels=(*(label or ()), *_read_labels(labels)), prompts=prompts,
            report_encoder=report_encoder, targets=targets, like=like, neighbours=neighbours,
            device=str(find_device(device)),
        )  # fmt: skip
        listing = find_radiographs(images)
        check_writable(out)
        predictor = load_predictor(checkpoint, settings)
        check_columns(predictor)
        _say_notes(predictor, listing, quiet=quiet)
        told = _predict(predictor, listing, page_limit, quiet=quiet)
        for path in write_predictions(
            predictor, told, out, format=TableFormat(format_), page_limit=page_limit
        ):
            typer.echo(str(path))
        is_whole = all(each.reason is None for each in told)
        raise typer.Exit(ExitCode.DONE if is_whole else ExitCode.SOME_FAILED)


def _predict(
    predictor: "Predictor", listing: "RadiographListing", page_limit: int, *, quiet: bool
) -> "list[Prediction]":
    """Tell of all files, with a bar of rate, time left and failures."""
    from drrgen_training.predict import predict as tell
    from tqdm import tqdm

    told: list[Prediction] = []
    bad = 0
    n = len(listing.found)
    with tqdm(total=n, unit="file", file=sys.stderr, disable=quiet, mininterval=0.5) as bar:
        for batch in tell(predictor, listing.found, thumbnails=page_limit):
            told += batch
            bad += sum(each.reason is not None for each in batch)
            bar.update(len(batch))
            bar.set_postfix(refused=bad, refresh=False)
    return told


def _say_notes(predictor: "Predictor", listing: "RadiographListing", *, quiet: bool) -> None:
    """Say what the user should know before it begins."""
    aside = [f"{n} files are left aside: {why}" for why, n in sorted(listing.ignored.items())]
    for note in () if quiet else (*predictor.notes, *aside):
        stderr.print(f"note: {note}", markup=False)


def _read_labels(path: Path | None) -> Sequence[str]:
    """Read findings, one a line."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise InputError(f"{path} is no text in UTF-8; write one finding a line") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InputError(f"{path} names no finding; write one a line")
    return found
