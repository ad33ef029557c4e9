"""From a folder of CT to a data set: the one path that every command takes."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drrgen.config import AugmentConfig, Config, RenderConfig, read_config, to_toml
from drrgen.errors import InputError, ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.jobs.runner import Means, Plan, Progress, make_plan, run
from drrgen.jobs.task import Item
from drrgen.renderer.render import choose_engine
from drrgen_pipelines.contact_sheet import make_contact_sheet
from drrgen_pipelines.discover import Study, find_studies, write_locator
from drrgen_pipelines.projection import find_setup
from drrgen_pipelines.pseudonyms import keyed_hash, read_salt
from drrgen_pipelines.sources import Sources
from drrgen_pipelines.task import RenderTask, make_item

CONFIG_NAME = "config.toml"
_SALT_LINE = re.compile(r"^# salt check: ([0-9a-f]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A data set that is about to be made.

    Attributes:
        out: Output folder.
        config: All settings.
        salt_check: Four digits that tell a wrong salt from the right one.
        studies: All CT found.
        plan: Which of them are done now.
        ignored: Files and series left aside, by why.
        overwrite: Start anew.
    """

    out: Path
    config: Config
    salt_check: str
    studies: tuple[Study, ...]
    plan: Plan
    ignored: Counter[str]
    overwrite: bool

    @property
    def task(self) -> RenderTask:
        """What is done to each study."""
        return _make_task(self.out, self.config)

    @property
    def items(self) -> list[Item]:
        """The studies, as the runner wants them."""
        return [make_item(study) for study in self.studies]

    @property
    def summary(self) -> str:
        """What is going to happen, in a line."""
        aside = ", ".join(f"{n} {why}" for why, n in sorted(self.ignored.items())) or "none"
        return (
            f"{len(self.studies)} CT found, {len(self.plan.todo)} to render, {len(self.plan.kept)} "
            f"there already; ignored files: {aside}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How a data set stands, in rows."""

    out: Path
    ok: int
    refused: int
    failed: int
    reasons: dict[str, int]

    @property
    def summary(self) -> str:
        """The totals in a line."""
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(self.reasons.items()))
        return f"{self.ok} radiographs; {self.refused} refused, {self.failed} failed" + (
            f" ({why}); see reason and detail in the manifest" if why else ""
        )

    @property
    def results(self) -> list[Path]:
        """What to open first."""
        names = ("manifest", "images", "contact-sheet.png")
        return [self.out / name for name in names if (self.out / name).exists()]


def plan_build(
    sources: Sources,
    out: Path,
    config: Config,
    *,
    salt_file: Path,
    make_salt: bool = False,
    limit: int | None = None,
    mask: Path | None = None,
    overwrite: bool = False,
) -> Build:
    """Find the CT and what is left to do; writes nothing but a missing salt.

    Args:
        sources: Where CT, radiographs and tables lie.
        out: Output folder.
        config: All settings.
        salt_file: Key of the pseudonyms.
        make_salt: Make the key if it is not there.
        limit: Take only so many CT.
        mask: Label map, or folder of them; the settings have ``mask`` on with it.
        overwrite: Start anew.

    Raises:
        InputError: No CT there, impossible settings, or no salt.
        EngineError: The engine or device is not to be had here.
        ManifestError: The output was made with other settings or another salt.
    """
    for view in config.render.view:
        find_setup(view, config.render)
    choose_engine(config.run.engine, config.run.device)
    salt = read_salt(salt_file, make=make_salt)
    check = keyed_hash(salt, "salt check").hex()[:4]
    if not overwrite:
        _check_same(out, config, check)
    found = find_studies(
        sources, dataset=config.render.dataset, salt=salt, series=config.render.series, limit=limit,
        mask=mask,
    )  # fmt: skip
    task = _make_task(out, config)
    studies = tuple(sorted(found.studies, key=lambda study: study.sample_id))
    items = [make_item(study) for study in studies]
    return Build(
        out=out,
        config=config,
        salt_check=check,
        studies=studies,
        plan=make_plan(task, items, out, overwrite=overwrite),
        ignored=found.ignored,
        overwrite=overwrite,
    )


def run_build(build: Build) -> Iterator[Progress]:
    """Render what is left to do, then draw the contact sheet.

    Raises:
        InputError: The output folder cannot be made.
        ManifestError: Another drrgen writes there now.
        OSError: The output cannot be written.
    """
    try:
        build.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the output folder {build.out}: {error.strerror}; give another --out"
        ) from error
    running = build.config.run
    head = f"# fingerprint: {build.task.fingerprint}\n# salt check: {build.salt_check}\n\n"
    text = head + to_toml(build.config, sections=("render", "augment"))
    write_bytes(build.out / CONFIG_NAME, text.encode())
    write_locator(build.out, build.studies)
    yield from run(
        build.task,
        build.items,
        build.out,
        part_size=running.shard_size,
        overwrite=build.overwrite,
        means=Means(workers=running.workers, timeout_s=running.timeout_s),
    )
    make_contact_sheet(build.out)


def read_totals(out: Path) -> Totals:
    """Read how a data set stands.

    Raises:
        ManifestError: There is no finished manifest.
    """
    try:
        summary = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{out} holds no finished manifest; run drrgen render first") from error
    status = summary["status"]
    return Totals(
        out=out,
        ok=status.get("ok", 0),
        refused=status.get("refused", 0),
        failed=status.get("failed", 0),
        reasons=summary["reason"],
    )


def _make_task(out: Path, config: Config) -> RenderTask:
    """Say what is done to each study."""
    return RenderTask(out=out, render=config.render, augment=config.augment, run=config.run)


def _check_same(out: Path, config: Config, salt_check: str) -> None:
    """Raise ManifestError, with the difference, when an output was made otherwise."""
    path = out / CONFIG_NAME
    if not path.exists():
        return
    there = read_config(path)
    changed = _list_changes(there.render, config.render)
    if config.render.views_per_ct > 1:
        changed += _list_changes(there.augment, config.augment)
    found = _SALT_LINE.search(path.read_text(encoding="utf-8"))
    if found and found[1] != salt_check:
        changed.append("another salt: every pseudonym would change")
    if changed:
        raise ManifestError(
            f"{out} was made with other settings ({'; '.join(changed)}); use --overwrite to start "
            "anew, or another output folder"
        )


def _list_changes(
    there: RenderConfig | AugmentConfig, now: RenderConfig | AugmentConfig
) -> list[str]:
    """Say which settings differ."""
    old, new = dataclasses.asdict(there), dataclasses.asdict(now)
    return [f"{key}: {old[key]} there, {new[key]} now" for key in new if old[key] != new[key]]
