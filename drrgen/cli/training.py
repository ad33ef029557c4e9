"""``drrgen pack``, ``embed`` and ``train``: from a data set to an encoder of radiographs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drrgen.choices import View
from drrgen.cli.console import ExitCode, exit_on_error, set_up_logging, stderr
from drrgen.cli.running import show

if TYPE_CHECKING:
    from drrgen_training.loop import Step

_DATASET = typer.Argument(help="Output folder of drrgen render or build.")
_CT_DIR = typer.Option(help="Folder of CT that drrgen render read; none for DICOM, which is found.")
_METADATA = typer.Option(help="CSV that told the HU scale of the CT, as CT-RATE's.")
_TEMPLATE = typer.Option(help="Text of a report: which sections, and how joined.")


def pack(
    dataset: Annotated[Path, _DATASET],
    out: Annotated[Path, typer.Option(help="Folder of the pack; the same command goes on.")],
    size: Annotated[int, typer.Option(help="Rows and columns of a packed picture.")] = 256,
    fit: Annotated[
        Literal["pad", "crop"], typer.Option(help="Of what is no square: black beside it, or cut.")
    ] = "pad",
    view: Annotated[list[View] | None, typer.Option(help="This view only; repeatable.")] = None,
    ct_dir: Annotated[Path | None, _CT_DIR] = None,
    ct: Annotated[
        str | None, typer.Option(help="Pack the CT too, for this encoder; tiny3d with --ct-dir.")
    ] = None,
    metadata: Annotated[Path | None, _METADATA] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Pack the radiographs as bytes that training maps into memory, instead of decoding them.

    Shards that are there are kept. With --ct-dir the CT are packed too, small, for an encoder that
    trains on them.

    Example: drrgen pack CXR --out PACK
    """
    with exit_on_error():
        set_up_logging(-1 if quiet else 0, None)
        from drrgen_training.pictures import Fit, PackSettings, describe_pictures
        from drrgen_training.samples import read_samples
        from drrgen_training.shards import write_shards
        from drrgen_training.volumes import describe_volumes, find_places

        from drrgen.jobs.runner import Progress

        samples = read_samples(dataset, view=view or ())
        contents = [describe_pictures(samples, PackSettings(size=size, fit=Fit(fit)))]
        if ct or ct_dir:
            places = find_places(dataset, ct_dir, metadata)
            contents.append(describe_volumes(samples.volumes, places, ct or "tiny3d"))

        def follow(kind: int) -> Iterator[Progress]:
            for step in write_shards(contents[kind], out):
                left = step.total - step.kept
                yield Progress(done=step.done, total=left, kept=step.kept, refused=0, failed=0)

        for i, content in enumerate(contents):
            show(
                follow(i), quiet=quiet, unit="", head=lambda kept, todo, k=content.kind: (
                    f"{k}: {todo} to pack, {kept} there already"
                ),
            )  # fmt: skip
            typer.echo(str(out / f"{content.kind}.json"))


def embed(
    dataset: Annotated[Path, _DATASET],
    of: Annotated[Literal["ct", "report", "cxr"], typer.Option(help="What to embed.")],
    encoder: Annotated[
        str, typer.Option(help="tiny3d, hashed, ctclip:FILE, hf:DIR, run:RUN and more.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the embeddings, of this encoder only.")],
    ct_dir: Annotated[Path | None, _CT_DIR] = None,
    metadata: Annotated[Path | None, _METADATA] = None,
    template: Annotated[
        Literal["sections", "findings", "impression", "ctclip"], _TEMPLATE
    ] = "sections",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes; by cores and memory. On a GPU best 1.")
    ] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Time limit of an item.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    log_file: Annotated[Path | None, typer.Option(help="Write the log there too.")] = None,
) -> None:
    """Embed every CT, report or radiograph of a data set, once, as Parquet with its provenance.

    The same command goes on where it was interrupted. Embeddings of two encoders never come into
    one folder. Exit code 3 says that some could not be embedded: they are rows with the reason.

    Example: drrgen embed CXR --of report --encoder hashed --out EMB/report
    """
    with exit_on_error():
        set_up_logging(-1 if quiet else 0, log_file)
        from drrgen_training import targets
        from drrgen_training.losses import Modality
        from drrgen_training.processes import find_device
        from drrgen_training.reports import Template
        from drrgen_training.samples import read_samples
        from drrgen_training.volumes import find_places

        from drrgen.jobs.runner import Means

        samples = read_samples(dataset, template=Template(template))
        provenance = targets.identify(Modality(of), encoder, Template(template))
        steps = targets.embed(
            samples,
            provenance,
            out,
            places=find_places(dataset, ct_dir, metadata),
            device=str(find_device(device)),
            overwrite=overwrite,
            means=Means(workers=workers, timeout_s=timeout_s),
        )
        done = show(
            steps, quiet=quiet, unit="", head=lambda todo, kept: (
                f"{todo} to embed, {kept} there already; encoder {provenance.encoder_id}"
            ),
        )  # fmt: skip
        typer.echo(str(out / "manifest.json"))
        raise typer.Exit(ExitCode.SOME_FAILED if done.refused or done.failed else ExitCode.DONE)


def train(
    dataset: Annotated[Path, _DATASET],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on.")],
    recipe: Annotated[
        str, typer.Option(help="x2ct-clip, stage1, stage2, demo, or FILE.toml.")
    ] = "x2ct-clip",
    targets: Annotated[
        list[Path] | None, typer.Option(help="Folder of drrgen embed; one of each modality.")
    ] = None,
    pack: Annotated[Path | None, typer.Option(help="Folder of drrgen pack.")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Another data set of the same CT: train on its radiographs instead."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Such as optim.lr=1e-4; repeatable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings; train nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    log_file: Annotated[Path | None, typer.Option(help="Write the log there too.")] = None,
) -> None:
    """Train encoders so that CT, radiograph and report of one patient find each other.

    A run that is killed goes on from its last checkpoint, to the same bits. Under torchrun the
    processes share a batch. Development patients come from the train split, never from the test.

    Example: drrgen train CXR --recipe stage1 --pack PACK --out STAGE1
    """
    with exit_on_error():
        set_up_logging(-1 if quiet else 0, log_file)
        from drrgen_training.settings import find_recipe, read_settings

        settings = read_settings(find_recipe(recipe), set_ or ())
        if dry_run:
            typer.echo(settings.to_toml())
            return
        from drrgen_training.loop import Job, fit

        job = Job(dataset=dataset, out=out, settings=settings, targets=tuple(targets or ()),
                  pack=pack, pictures=pictures, overwrite=overwrite)  # fmt: skip
        last = _show_steps(fit(job), quiet=quiet)
        if not quiet and last is None:
            stderr.print("nothing to do: this run has come to its end")
        elif not quiet and last is not None and last.step < last.steps:
            stderr.print(
                f"stopped after epoch {last.epoch + 1} of {settings.optim.epochs}: no better on "
                f"the dev patients for {settings.run.patience} looks (run.patience)"
            )
        for name in ("best.safetensors", "log.jsonl"):
            typer.echo(str(out / name))


def _show_steps(steps: "Iterator[Step]", *, quiet: bool) -> "Step | None":
    """Train, with a bar of rate and time left, and a line for every look at the dev patients."""
    from tqdm import tqdm

    last = None
    data_s = step_s = 0.0
    with tqdm(unit="step", file=sys.stderr, disable=quiet, mininterval=0.5) as bar:
        for step in steps:
            if last is None:
                bar.reset(step.steps)
                bar.update(step.step - 1)
            last = step
            data_s, step_s = data_s + step.data_s, step_s + step.step_s
            bar.set_postfix(loss=f"{step.loss:.3f}", wait=f"{data_s / step_s:.0%}", refresh=False)
            bar.update()
            if step.score is not None and not quiet:
                bar.write(
                    f"epoch {step.epoch + 1}: loss {step.loss:.3f}, mean of 1/rank on "
                    f"dev patients {step.score:.3f} (chance {step.chance:.3f}, "
                    f"best {step.best:.3f})",
                    file=sys.stderr,
                )
    return last
