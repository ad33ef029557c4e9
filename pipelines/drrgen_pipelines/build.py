"""From a folder of CT to a data set: the one path that every command takes."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drrgen.config import Config, RenderConfig, read_config, to_toml
from drrgen.errors import ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.jobs.plan import Plan, make_plan
from drrgen.jobs.runner import Progress, RunOptions, run
from drrgen.renderer.render import choose_engine
from drrgen_pipelines.contact_sheet import make_contact_sheet
from drrgen_pipelines.discover import find_studies, write_locator
from drrgen_pipelines.projection import find_setup
from drrgen_pipelines.pseudonyms import keyed_hash
from drrgen_pipelines.task import RenderTask, make_item

CONFIG_NAME = "config.toml"
_SALT_LINE = re.compile(r"^# salt check: ([0-9a-f]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A data set that is about to be made.

    Attributes:
        out: Output folder.
        config: All settings.
        salt_check: Four digits of a digest of the salt: they tell a wrong salt from the right one,
            and too little to find it.
        task: What is done to each study.
        plan: Which studies are done now, and which are there already.
        ignored: Files and series that were left aside, by why.
        overwrite: Start anew.
    """

    out: Path
    config: Config
    salt_check: str
    task: RenderTask
    plan: Plan
    ignored: Counter[str]
    overwrite: bool
