"""From a number of patients to a cohort on disk."""

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drrgen.cohort.base import find_cache_folder
from drrgen.cohort.settings import SECTIONS, CohortConfig
from drrgen.cohort.tables import read_cohort, write_tables
from drrgen.cohort.task import CohortTask, make_item
from drrgen.config import make_sections, read_toml, to_toml
from drrgen.errors import InputError, ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.jobs.runner import Forecast, Means, Progress, forecast, run
from drrgen.jobs.task import Item

CONFIG_NAME = "cohort.toml"
PART_SIZE = 64
_OURS = ("ct", "masks", "reports.csv", "labels.csv", "metadata.csv", "findings.csv", "README.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortBuild:
    """A cohort that is about to be made.

    Attributes:
        task: What is done for each patient.
        items: The patients.
        ahead: How many of them are to be made.
        overwrite: Start anew.
    """

    task: CohortTask
    items: tuple[Item, ...]
    ahead: Forecast
    overwrite: bool

    @property
    def summary(self) -> str:
        """What is going to happen, in a line."""
        return (
            f"{len(self.items)} virtual patients, {self.ahead.todo} to make, "
            f"{self.ahead.kept} there already"
        )


def plan_cohort(
    n: int,
    out: Path,
    config: CohortConfig,
    *,
    cache: Path | None = None,
    overwrite: bool = False,
) -> CohortBuild:
    """Find what is left to do; writes nothing.

    Args:
        n: Patients. A larger number later adds to the same ones.
        out: Output folder.
        config: All settings.
        cache: Folder that keeps the real CT at its size; None for the user's own.
        overwrite: Start anew.

    Raises:
        InputError: No patients, or the real CT is not installed.
        ManifestError: The output was made with other settings, or holds something else.
    """
    if n < 1:
        raise InputError(f"n must be at least 1 patient, got {n}")
    task = CohortTask(out=out, config=config, cache=cache or find_cache_folder())
    _check_same(out, config, overwrite=overwrite)
    items = tuple(make_item(number) for number in range(1, n + 1))
    ahead = forecast(task, items, out, overwrite=overwrite)
    return CohortBuild(task=task, items=items, ahead=ahead, overwrite=overwrite)


def read_cohort_config(path: Path) -> CohortConfig:
    """Read the settings of a cohort; what the file does not name keeps its default.

    Raises:
        ConfigError: No such file, not TOML, an unknown key or an impossible value.
    """
    return read_toml(path, lambda data: make_sections(data, CohortConfig), "configuration")


def run_cohort(build: CohortBuild, means: Means | None = None) -> Iterator[Progress]:
    """Make what is left to make, then write the tables.

    Args:
        build: The plan.
        means: Processes and time limit.

    Raises:
        ManifestError: Another drrgen writes there now.
        OSError: The output cannot be written.
    """
    task = build.task
    try:
        task.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the output folder {task.out}: {error.strerror}; give another --out"
        ) from error
    if build.overwrite:
        _remove(task.out)
    head = f"# fingerprint: {task.fingerprint}\n\n"
    text = head + to_toml(task.config, sections=SECTIONS)
    write_bytes(task.out / CONFIG_NAME, text.encode())
    task.prepare()  # so that workers find the real CT in the cache
    yield from run(
        task, build.items, task.out, part_size=PART_SIZE, overwrite=build.overwrite, means=means
    )
    write_tables(task.out, read_cohort(task.out))


def _remove(out: Path) -> None:
    """Remove what an earlier cohort wrote beside its manifest, and nothing else."""
    for name in _OURS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _check_same(out: Path, config: CohortConfig, *, overwrite: bool) -> None:
    """Raise ManifestError, with the difference, where other work or another cohort is."""
    path = out / CONFIG_NAME
    if not path.exists():
        if (out / "manifest").exists():
            raise ManifestError(f"{out} holds another data set; use another output folder")
        return
    if overwrite:
        return
    there, now = (dataclasses.asdict(c) for c in (read_cohort_config(path), config))
    changed = [
        f"{section}.{key}: {there[section][key]} there, {value} now"
        for section in now
        for key, value in now[section].items()
        if there[section][key] != value
    ]
    if changed:
        raise ManifestError(
            f"{out} was made with other settings ({'; '.join(changed)}); use --overwrite to start "
            "anew, or another output folder"
        )
