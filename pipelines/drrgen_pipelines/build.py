"""From a folder of CT to a data set: the one path that every command takes."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drrgen.config import Config, RenderConfig, read_config, to_toml
from drrgen.errors import ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.jobs.runner import Means, Plan, Progress, make_plan, run
from drrgen.jobs.task import Item
from drrgen.renderer.render import choose_engine
from drrgen_pipelines.contact_sheet import make_contact_sheet
from drrgen_pipelines.discover import Study, find_studies, write_locator
from drrgen_pipelines.projection import find_setup
from drrgen_pipelines.pseudonyms import keyed_hash, read_salt
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
        return RenderTask(out=self.out, render=self.config.render, run=self.config.run)

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
    path: str,
    out: Path,
    config: Config,
    *,
    salt_file: Path,
    make_salt: bool = False,
    limit: int | None = None,
    overwrite: bool = False,
) -> Build:
    """Find the CT and what is left to do; writes nothing but a missing salt.

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
        _check_same(out, config.render, check)
    found = find_studies(
        path, dataset=config.render.dataset, salt=salt, series=config.render.series, limit=limit
    )
    task = RenderTask(out=out, render=config.render, run=config.run)
    items = [make_item(study) for study in found.studies]
    return Build(
        out=out,
        config=config,
        salt_check=check,
        studies=found.studies,
        plan=make_plan(task, items, out, overwrite=overwrite),
        ignored=found.ignored,
        overwrite=overwrite,
    )


def run_build(build: Build) -> Iterator[Progress]:
    """Render what is left to do, then draw the contact sheet.

    Raises:
        ManifestError: Another drrgen writes there now.
        OSError: The output cannot be written.
    """
    running = build.config.run
    head = f"# fingerprint: {build.config.render.fingerprint}\n# salt check: {build.salt_check}\n\n"
    text = head + to_toml(build.config, sections=("render",))
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


def _check_same(out: Path, config: RenderConfig, salt_check: str) -> None:
    """Raise ManifestError, with the difference, when an output was made otherwise."""
    path = out / CONFIG_NAME
    if not path.exists():
        return
    old = dataclasses.asdict(read_config(path).render)
    new = dataclasses.asdict(config)
    changed = [f"{k}: {old[k]} there, {new[k]} now" for k in new if old[k] != new[k]]
    found = _SALT_LINE.search(path.read_text(encoding="utf-8"))
    if found and found[1] != salt_check:
        changed.append("another salt: every pseudonym would change")
    if changed:
        raise ManifestError(
            f"{out} was made with other settings ({'; '.join(changed)}); use --overwrite to start "
            "anew, or another output folder"
        )
