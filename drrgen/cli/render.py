"""``drrgen render``: a folder of CT in, radiographs and a manifest out."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drrgen.choices import AcquisitionName, Display, Engine, Framing, ImageFormat, View
from drrgen.cli.console import exit_on_error, set_up_logging, stderr
from drrgen.cli.running import describe_plan, report, show
from drrgen.config import Config, RenderConfig, RunConfig, read_config, with_overrides

if TYPE_CHECKING:
    from drrgen_pipelines.build import Build
    from drrgen_pipelines.recipe import Recipe

_RENDER_KEYS = (
    "dataset", "series", "view", "size", "pitch_mm", "framing", "acquisition", "display", "sid_mm",
    "sod_mm", "rotation_deg", "isocenter", "kvp", "kev", "dose_ugy", "keep_table", "seed",
    "views_per_ct", "pairs", "format",
)  # fmt: skip
RUN_KEYS = ("engine", "device", "workers", "timeout_s", "cluster", "site")


def parse_view(word: str) -> View:
    """Read a view, LAT included."""
    try:
        return View(word)
    except ValueError as error:
        raise typer.BadParameter(f"{word!r} is not one of PA, AP, LL, RL, LAT") from error


def render(
    ctx: typer.Context,
    ct_dir: Annotated[
        str, typer.Option(help="Folder, file or glob of CT: DICOM, NIfTI, NRRD, MetaImage, npz.")
    ],
    out: Annotated[
        str, typer.Option(help="Output folder or URL; continued when it is there already.")
    ],
    view: Annotated[
        list[View] | None,
        typer.Option(parser=parse_view, metavar="[PA|AP|LL|RL]", help="Repeatable; PA and LL."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Long side of the picture [pixels]; 1024.")
    ] = None,
    pitch_mm: Annotated[
        float | None, typer.Option(help="Detector pitch; by default the field fills --size.")
    ] = None,
    framing: Annotated[
        Framing | None, typer.Option(help="End where the CT ends (default), or 430 x 430 mm.")
    ] = None,
    acquisition: Annotated[
        AcquisitionName | None, typer.Option(help="Preset of distances; by default chosen by view.")
    ] = None,
    display: Annotated[
        Display | None, typer.Option(help="Like a radiograph (default), or in proportion.")
    ] = None,
    sid_mm: Annotated[float | None, typer.Option(help="Source to detector.")] = None,
    sod_mm: Annotated[float | None, typer.Option(help="Source to isocenter.")] = None,
    rotation_deg: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="RX RY RZ", help="Turn of source and detector about x, then y, z."),
    ] = None,
    isocenter: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="X Y Z", help="Point of the central ray, LPS [mm]; body's centre."),
    ] = None,
    kvp: Annotated[float | None, typer.Option(help="Tube voltage [kV].")] = None,
    kev: Annotated[
        float | None, typer.Option(help="One photon energy [keV], instead of a spectrum.")
    ] = None,
    dose_ugy: Annotated[
        float | None, typer.Option(help="Air kerma at the detector behind the body [uGy].")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Label map of the CT, or a folder of them: project its structures too."),
    ] = None,
    pairs: Annotated[
        str | None, typer.Option(help="bone,soft: show them alone too, from the same rays.")
    ] = None,
    keep_table: Annotated[
        bool | None, typer.Option("--keep-table", help="Keep table, cushions and clothes.")
    ] = None,
    views_per_ct: Annotated[
        int | None, typer.Option(help="Pictures a view: a plain one, others drawn around it; 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of noise and draws; 0.")] = None,
    engine: Annotated[Engine | None, typer.Option(help="What integrates the rays; auto.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    image_format: Annotated[
        list[ImageFormat] | None,
        typer.Option("--format", help="Repeatable; png16. dicom: DX; npy, tiff: line integrals."),
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Which series of a DICOM study: best (default), all, a UID.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set; local.")] = None,
    salt_file: Annotated[
        Path | None, typer.Option(help="Key of the pseudonyms; by default your own, made once.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by cores and memory, none for a handful of CT.")
    ] = None,
    timeout_s: Annotated[
        float | None, typer.Option(help="Time limit of a CT; 1800 in a worker process.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="local (default), slurm, kubernetes, cuda or tcp://HOST:PORT."),
    ] = None,
    site: Annotated[
        str | None, typer.Option(metavar="FILE", help="The cluster as TOML: queue, memory, image.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many CT.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings as TOML (see drrgen config); options beat it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew.")] = False,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Also try again what was refused before.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done, print the job; do nothing."),
    ] = False,
    verbose: Annotated[int, typer.Option("-v", count=True, help="Say more; -vv all.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    log_file: Annotated[Path | None, typer.Option(help="Write the log there too.")] = None,
) -> None:
    """Render every CT under a folder to radiographs, with a manifest.

    The same command continues what was interrupted. Exit code 3 says that some studies were
    refused or failed: they are rows of the manifest, with the reason.

    Example: drrgen render --ct-dir CT --out CXR --view PA --view LL
    """
    with exit_on_error():
        make_dataset(ctx.params)


def make_dataset(options: Mapping[str, Any]) -> None:
    """Do what ``render`` and ``build`` have in common, which is nearly all.

    Args:
        options: Those of ``render``; with those of ``build``, under ``tables``, what it reads.
    """
    from drrgen_pipelines.build import forecast_build, run_build

    build = find_dataset(options)
    quiet = bool(options["quiet"])
    if options["dry_run"]:
        ahead = forecast_build(build)
        stderr.print(describe_plan(build, todo=ahead.todo, kept=ahead.kept))
        show_job(build.config.run)
        return
    steps = run_build(build, retry_refused=options["retry_refused"])
    show(steps, quiet=quiet, head=partial(describe_plan, build))
    raise typer.Exit(report(build.out, quiet=quiet))


def find_dataset(options: Mapping[str, Any]) -> "Build":
    """Find what there is to do; see ``make_dataset``."""
    quiet = bool(options["quiet"])
    set_up_logging(-1 if quiet else options["verbose"], _path(options, "log_file"))
    from drrgen_pipelines.build import find_build
    from drrgen_pipelines.sources import Sources

    from drrgen.io.stores import open_place

    config = _path(options, "config")
    sources = Sources(ct=options["ct_dir"], **options.get("tables", {}))
    settings = _merge(read_config(config) if config else Config(), options, sources.recipe)
    salt_file = _path(options, "salt_file")
    return find_build(
        sources, open_place(options["out"]), settings,
        salt_file=salt_file or find_own_salt(quiet=quiet), make_salt=salt_file is None,
        limit=options["limit"], mask=_path(options, "mask"), overwrite=options["overwrite"],
    )  # fmt: skip


def _path(options: Mapping[str, Any], key: str) -> Path | None:
    """Take an option that names a file."""
    return Path(options[key]) if options[key] is not None else None


def _merge(settings: Config, options: Mapping[str, Any], recipe: "Recipe | None") -> Config:
    """Let the options that were given beat the file; the data set is called as its recipe says."""
    pairs = options["pairs"]
    given = {**options, "format": options["image_format"], "pairs": pairs and pairs.split(",")}
    chosen = {key: value for key in _RENDER_KEYS if (value := given[key]) not in (None, (), [])}
    if options["mask"] is not None:
        chosen["mask"] = True
    if recipe is not None and settings.render.dataset == RenderConfig().dataset:
        chosen.setdefault("dataset", recipe.recipe.dataset)
    running = {key: options[key] for key in RUN_KEYS}
    return Config(
        render=with_overrides(settings.render, chosen),
        augment=settings.augment,
        run=with_overrides(settings.run, running),
    )


def find_own_salt(*, quiet: bool) -> Path:
    """Name the user's own salt file, and say so when it is about to be made."""
    path = Path(typer.get_app_dir("drrgen")) / "salt.txt"
    if not path.exists() and not quiet:
        stderr.print(f"made a salt for pseudonyms, keep it: {path}")
    return path


def show_job(run: RunConfig) -> None:
    """Print the job script or the manifest that would be submitted, where one would be."""
    from drrgen.jobs.cluster import describe_cluster
    from drrgen.jobs.sites import read_cluster

    if text := describe_cluster(read_cluster(run), run.workers):
        typer.echo(text)
