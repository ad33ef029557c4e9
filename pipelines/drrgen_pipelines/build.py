"""From a folder of CT to a data set: the one path that every command takes.

What is on this machine and what is shared with others is kept apart: the settings that touch a
pixel lie in the output (``config.toml``), how the work is done is said anew by every run.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drrgen.choices import ClusterKind
from drrgen.config import (
    AugmentConfig,
    Config,
    RenderConfig,
    RunConfig,
    read_config,
    read_toml,
    to_toml,
    with_overrides,
)
from drrgen.errors import InputError, ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.io.stores import Place, check_reachable
from drrgen.jobs.plan import choose_part_size
from drrgen.jobs.runner import (
    Forecast,
    Means,
    Progress,
    check_settings,
    forecast,
    merge,
    plan,
    run,
    run_shard,
)
from drrgen.jobs.sites import read_cluster
from drrgen.jobs.task import Item
from drrgen.renderer.render import choose_engine
from drrgen_pipelines.contact_sheet import make_contact_sheet
from drrgen_pipelines.discover import Discovery, find_studies
from drrgen_pipelines.locator import note_locations
from drrgen_pipelines.projection import find_setup
from drrgen_pipelines.pseudonyms import keyed_hash, read_salt
from drrgen_pipelines.recipe import Recipe, make_recipe
from drrgen_pipelines.recipe import to_toml as recipe_to_toml
from drrgen_pipelines.rows import read_summary
from drrgen_pipelines.sources import Sources
from drrgen_pipelines.task import RenderTask, make_item

CONFIG_NAME, RECIPE_NAME = "config.toml", "recipe.toml"
_SALT_LINE = re.compile(r"^# salt check: ([0-9a-f]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A data set that is about to be made.

    Attributes:
        out: Output folder.
        config: All settings.
        recipe: How tables were joined; None for CT alone.
        salt_check: Four digits that tell a wrong salt from the right one.
        found: All studies found.
        overwrite: Start anew.
        keep_others: These studies are additions to those that are planned already.
    """

    out: Place
    config: Config
    recipe: Recipe | None
    salt_check: str
    found: Discovery
    overwrite: bool = False
    keep_others: bool = False

    @property
    def task(self) -> RenderTask:
        """What is done to each study."""
        return make_task(self.config)

    @property
    def ignored(self) -> str:
        """What was left aside, in words."""
        counts: Counter[str] = self.found.ignored
        return ", ".join(f"{n} {why}" for why, n in sorted(counts.items())) or "none"

    def list_items(self) -> Iterator[Item]:
        """Make the studies, one at a time, as the runner wants them."""
        return map(make_item, self.found.studies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How a data set stands, in rows."""

    out: Place
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
    def results(self) -> list[Place]:
        """What to open first."""
        names = ("manifest", "images", "contact-sheet.png")
        return [self.out / name for name in names if (self.out / name).exists()]


def find_build(
    sources: Sources,
    out: Place,
    config: Config,
    *,
    salt_file: Path,
    make_salt: bool = False,
    limit: int | None = None,
    mask: Path | None = None,
    overwrite: bool = False,
    keep_others: bool = False,
) -> Build:
    """Find the studies, and see that they can be built; writes nothing but a missing salt.

    Args:
        sources: Where CT, radiographs and tables lie.
        out: Output folder.
        config: All settings.
        salt_file: Key of the pseudonyms.
        make_salt: Make the key if it is not there.
        limit: Take only so many CT.
        mask: Label map, or folder of them; the settings have ``mask`` on with it.
        overwrite: Start anew.
        keep_others: These studies are additions.

    Raises:
        InputError: No CT there, impossible settings, or no salt.
        EngineError: The engine or device is not to be had here.
        ManifestError: The output was made with other settings or another salt.
    """
    for view in config.render.view:
        find_setup(view, config.render)
    choose_engine(config.run.engine, config.run.device)
    check_reachable(out)
    salt = read_salt(salt_file, make=make_salt)
    check = keyed_hash(salt, "salt check").hex()[:4]
    if not overwrite:
        _check_same(out, config, check)
        check_settings(make_task(config), out)
    found = find_studies(
        sources, dataset=config.render.dataset, salt=salt, series=config.render.series, limit=limit,
        mask=mask,
    )  # fmt: skip
    return Build(
        out=out,
        config=config,
        recipe=sources.recipe,
        salt_check=check,
        found=found,
        overwrite=overwrite,
        keep_others=keep_others,
    )


def find_addition(
    sources: Sources,
    out: Place,
    running: Mapping[str, Any],
    *,
    salt_file: Path,
    limit: int | None = None,
    mask: Path | None = None,
) -> Build:
    """Find studies to add to a data set, with the settings that it was made with.

    Args:
        sources: Where they lie.
        out: Output folder of an earlier build.
        running: How the work is done: keys of the section ``run``, None for the default.
        salt_file: Key of the pseudonyms, the same as then.
        limit: Take only so many CT.
        mask: Label map, or folder of them.

    Raises:
        InputError: No CT there, or no salt.
        EngineError: The engine or device is not to be had here.
        ManifestError: There is no data set, or the salt is another.
    """
    there = read_built_config(out)
    config = dataclasses.replace(there, run=with_overrides(there.run, running))
    return find_build(
        sources, out, config, salt_file=salt_file, limit=limit, mask=mask, keep_others=True
    )


def forecast_build(build: Build) -> Forecast:
    """Find how much is to be done; writes nothing."""
    return forecast(build.task, build.list_items(), build.out, overwrite=build.overwrite)


def write_plan(build: Build) -> None:
    """Write down what is to be done, for shards on other machines.

    Raises:
        InputError: The output folder cannot be made.
        ManifestError: Another drrgen writes there now.
        OSError: The output cannot be written.
    """
    _begin(build)
    plan(
        build.task,
        _list_noted_items(build),
        build.out,
        part_size=_choose_part_size(build),
        overwrite=build.overwrite,
        keep_others=build.keep_others,
    )
    _write_config(build)


def run_build(build: Build, *, retry_refused: bool = False) -> Iterator[Progress]:
    """Render what is left to do, then draw the contact sheet.

    Args:
        build: What to build.
        retry_refused: Also try again what was refused.

    Raises:
        InputError: The output folder cannot be made.
        ManifestError: Another drrgen writes there now.
        OSError: The output cannot be written.
    """
    _begin(build)
    steps = run(
        build.task,
        _list_noted_items(build),
        build.out,
        part_size=_choose_part_size(build),
        overwrite=build.overwrite,
        keep_others=build.keep_others,
        means=_find_means(build.config.run, retry_refused=retry_refused),
    )
    for i, step in enumerate(steps):
        if i == 0:
            _write_config(build)
        yield step
    make_contact_sheet(build.out)


def run_planned_shard(
    out: Place, running: RunConfig, index: int, count: int, *, retry_refused: bool = False
) -> Iterator[Progress]:
    """Render one share of what was planned.

    Args:
        out: Output folder with its settings.
        running: How the work is done here.
        index: Which share, from 0.
        count: Of how many.
        retry_refused: Also try again what was refused.

    Raises:
        ManifestError: Nothing was planned there, or another drrgen does this share now.
        EngineError: The engine or device is not to be had here.
        OSError: The output cannot be written.
    """
    check_reachable(out)
    config = dataclasses.replace(read_built_config(out), run=running)
    choose_engine(running.engine, running.device)
    means = _find_means(running, retry_refused=retry_refused)
    yield from run_shard(make_task(config), out, index, count, means)


def merge_build(out: Place) -> None:
    """Make one data set of the shards that are done.

    Raises:
        ManifestError: A shard is missing, or another drrgen writes there now.
    """
    check_reachable(out)
    merge(make_task(read_built_config(out)), out)
    make_contact_sheet(out)


def read_built_config(out: Place) -> Config:
    """Read the settings that an output is made with.

    Raises:
        ManifestError: There are none.
    """
    path = out / CONFIG_NAME
    if not path.exists():
        raise ManifestError(
            f"{out} holds no {CONFIG_NAME}; wanted an output of drrgen render, build or plan"
        )
    return read_config(path)


def read_built_recipe(out: Place) -> Recipe | None:
    """Read the recipe that an output was made with; None where it was made of CT alone.

    Raises:
        ConfigError: It is broken.
    """
    path = out / RECIPE_NAME
    return read_toml(path, make_recipe, "recipe") if path.exists() else None


def read_totals(out: Place) -> Totals:
    """Read how a data set stands.

    Raises:
        ManifestError: There is no finished manifest.
    """
    summary = read_summary(out)
    status = summary["status"]
    return Totals(
        out=out,
        ok=status.get("ok", 0),
        refused=status.get("refused", 0),
        failed=status.get("failed", 0),
        reasons=summary["reason"],
    )


def make_task(config: Config) -> RenderTask:
    """Say what is done to each study; where to is said by the runner."""
    return RenderTask(out=Path(), render=config.render, augment=config.augment, run=config.run)


def _begin(build: Build) -> None:
    """Make the output folder."""
    try:
        build.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the output folder {build.out}: {error.strerror}; give another --out"
        ) from error


def _list_noted_items(build: Build) -> Iterator[Item]:
    """Make the items, noting on the way where clinical CT lie."""
    return map(make_item, note_locations(build.out, build.found.studies))


def _choose_part_size(build: Build) -> int:
    """Settle how many studies go into one file of the manifest."""
    return build.config.run.shard_size or choose_part_size(build.found.n_studies)


def _find_means(running: RunConfig, *, retry_refused: bool) -> Means:
    """Say with what the work is done."""
    cluster = read_cluster(running)
    return Means(
        workers=running.workers,
        timeout_s=running.timeout_s,
        retry_refused=retry_refused,
        cluster=None if cluster.kind is ClusterKind.LOCAL else cluster,
    )


def _write_config(build: Build) -> None:
    """Write the settings beside what they make, and the recipe of what was joined."""
    head = f"# fingerprint: {build.task.fingerprint}\n# salt check: {build.salt_check}\n\n"
    text = head + to_toml(build.config, sections=("render", "augment"))
    write_bytes(build.out / CONFIG_NAME, text.encode())
    if build.recipe is not None and not build.keep_others:
        write_bytes(build.out / RECIPE_NAME, recipe_to_toml(build.recipe).encode())


def _check_same(out: Place, config: Config, salt_check: str) -> None:
    """Raise ManifestError, with the difference, when an output was made otherwise."""
    if not (out / CONFIG_NAME).exists():
        return
    there = read_built_config(out)
    changed = _list_changes(there.render, config.render)
    if config.render.views_per_ct > 1:
        changed += _list_changes(there.augment, config.augment)
    found = _SALT_LINE.search((out / CONFIG_NAME).read_text(encoding="utf-8"))
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
