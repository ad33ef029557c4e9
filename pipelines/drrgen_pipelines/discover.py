"""From folders of CT and radiographs, and tables, to studies, each under a pseudonym."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from drrgen.choices import CTFormat, Split, View
from drrgen.errors import Reason
from drrgen.io.ctrate import CtRateName, parse_ctrate_name
from drrgen.io.listing import CTFiles
from drrgen.io.radiograph_listing import RadiographFile, find_radiographs
from drrgen.io.reports import FoundReport
from drrgen.io.stores import Place
from drrgen.io.structures import find_mask
from drrgen.io.told_scale import parse_told_scale
from drrgen.io.volumes import choose_series, find_ct
from drrgen.manifest import Row
from drrgen_pipelines.evidence import Evidence, Facts, parse_split, read_evidence
from drrgen_pipelines.pairing import Names, Register, make_register, name_file
from drrgen_pipelines.pseudonyms import make_pseudonym
from drrgen_pipelines.recipe import HuPolicy, Need, Pairing, Recipe, Reconstruction, SplitRule
from drrgen_pipelines.sources import Sources
from drrgen_pipelines.split import SPLIT_VERSION, SplitGuard, find_split, keep_official
from drrgen_pipelines.study import Refusal, Study

NO_REPORT, NO_LABELS, NO_METADATA, NO_CT = "no_report", "no_labels", "no_metadata", "no_ct"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A CT or radiograph that was found.

    Attributes:
        picture: Its files.
        folder: Of a DICOM series, the folder of all its slices under the root; else "".
        ctrate: What its name tells, where the recipe reads names of CT-RATE.
    """

    picture: CTFiles | RadiographFile
    folder: str = ""
    ctrate: CtRateName | None = None

    @property
    def names(self) -> Names:
        """The names by which tables may call it; made anew each time, for there may be millions."""
        return name_file(self.picture, self.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What was found, and what was left aside.

    Attributes:
        n_studies: How many studies there are.
        ignored: Files, series and reconstructions left aside, counted by why.
        counts: Studies without a report, labels or metadata; studies ``refused``; ``reports`` that
            belong to a study, and ``reports_unused``, which belong to none that is taken. Complete
            once the studies were gone through.
        make: Makes the studies, one at a time.
    """

    n_studies: int
    ignored: Counter[str]
    counts: Counter[str]
    make: Callable[[], Iterator[Study]]

    @property
    def studies(self) -> Iterator[Study]:
        """The studies, CT before radiographs, by name; made one at a time, and anew each time."""
        return self.make()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """All that a study is made with."""

    dataset: str
    salt: bytes
    mask: Path | None
    sources: Sources
    evidence: Evidence
    register: Register
    aliases: dict[str, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe | None:
        """How tables are joined."""
        return self.sources.recipe

    def hide(self, *words: str) -> str:
        """Make a pseudonym within the data set."""
        return make_pseudonym(self.salt, words[0], self.dataset, *words[1:])


def find_studies(
    sources: Sources | Path | str,
    *,
    dataset: str,
    salt: bytes,
    series: str = "best",
    limit: int | None = None,
    mask: Path | None = None,
) -> Discovery:
    """Find what there is to render or to take over, and join it with the tables.

    Args:
        sources: Where everything lies; a path stands for CT alone.
        dataset: Name of the data set.
        salt: Key of the pseudonyms.
        series: Which series of a DICOM study: ``best``, ``all`` or a UID; ``all`` also takes all
            reconstructions of a scan.
        limit: Take only so many, the first by name.
        mask: Label map, or folder of them.

    Raises:
        InputError: Nothing there, no CT in it, no such series, no label maps, or tables that
            contradict themselves; what concerns one study is raised when that is made.
    """
    given = sources if isinstance(sources, Sources) else Sources(ct=sources)
    evidence = read_evidence(given)
    ignored: Counter[str] = Counter()
    entries = [*_list_ct(given, series, ignored), *_list_radiographs(given, ignored)]
    register = make_register(entry.names for entry in (entries if given.tables else ()))
    search = _Search(
        dataset=dataset, salt=salt, mask=mask, sources=given, evidence=evidence, register=register
    )
    entries = _choose_views(entries, search, ignored)
    if series != "all":
        entries = _choose_reconstructions(entries, search, ignored)
    entries = entries[:limit]
    search.aliases.update(_find_aliases(entries, search))
    counts: Counter[str] = Counter()
    return Discovery(
        n_studies=_count_studies(entries, search),
        ignored=ignored,
        counts=counts,
        make=lambda: _make_studies(entries, search, counts),
    )


def _list_ct(sources: Sources, series: str, ignored: Counter[str]) -> Iterator[Entry]:
    """List the CT, a copy of a volume of CT-RATE once."""
    if sources.ct is None:
        return
    listing = find_ct(sources.ct)
    chosen, left_aside = choose_series(listing.found, series)
    ignored.update(listing.ignored)
    if left_aside:
        ignored["other_series"] += left_aside
    seen: set[str] = set()
    for files in chosen:
        parsed = _parse_ctrate(files.name, sources.recipe)
        if parsed is not None:
            volume = f"{parsed.scan}_{parsed.reconstruction}"
            if volume in seen:
                ignored["duplicate_ct"] += 1
                continue
            seen.add(volume)
        folder = _find_folder(files, listing.root) if sources.tables else ""
        yield Entry(picture=files, folder=folder, ctrate=parsed)


def _list_radiographs(sources: Sources, ignored: Counter[str]) -> Iterator[Entry]:
    """List the radiographs."""
    if sources.cxr is None:
        return
    listing = find_radiographs(sources.cxr)
    ignored.update(listing.ignored)
    for file in listing.found:
        yield Entry(picture=file)


def _parse_ctrate(name: str, recipe: Recipe | None) -> CtRateName | None:
    """Read a name of CT-RATE, where the recipe says that names are such."""
    if recipe is None:
        return None
    rules = recipe.recipe
    named = rules.pairing is Pairing.BY_CTRATE_NAME or rules.split is SplitRule.BY_CTRATE_NAME
    if named:
        return parse_ctrate_name(PurePosixPath(name).name)
    return None


def _find_folder(files: CTFiles, root: Place) -> str:
    """Name the folder of a DICOM series under the root; "" where its slices lie in several."""
    if files.ct_format is not CTFormat.DICOM:
        return ""
    folders = {str(path.parent) for path in files.paths}
    only, top = PurePosixPath(folders.pop()), PurePosixPath(str(root))
    if folders or not only.is_relative_to(top):
        return ""
    return only.relative_to(top).as_posix().removeprefix(".")


def _choose_views(entries: list[Entry], search: _Search, ignored: Counter[str]) -> list[Entry]:
    """Leave radiographs aside that the metadata say are of a view that is not kept."""
    rules = search.recipe.radiographs if search.recipe else None
    if rules is None or not rules.keep or search.sources.cxr is None:
        return entries
    kept = []
    for entry in entries:
        word = search.evidence.find_metadata(entry.names, search.register).get("view", "")
        is_other = word and _parse_view(word, rules.views) not in rules.keep
        if is_other and isinstance(entry.picture, RadiographFile):
            ignored["other_view"] += 1
        else:
            kept.append(entry)
    return kept


def _choose_reconstructions(
    entries: list[Entry], search: _Search, ignored: Counter[str]
) -> list[Entry]:
    """Take one reconstruction a scan: the lowest number, then the first name."""
    if search.recipe is None or search.recipe.recipe.reconstruction is Reconstruction.ALL:
        return entries
    best: dict[str, tuple[tuple[float, str, str], int]] = {}
    for i, entry in enumerate(entries):
        metadata = search.evidence.find_metadata(entry.names, search.register)
        scan = _join_scan(metadata) or (entry.ctrate.scan if entry.ctrate else "")
        if isinstance(entry.picture, RadiographFile) or not scan:
            best[f"\0{i}"] = (0.0, "", ""), i  # one of its own
            continue
        word = metadata.get("reconstruction") or str(
            entry.ctrate.reconstruction if entry.ctrate else ""
        )
        rank = (*_order_words(word), entry.picture.name)
        if scan not in best or rank < best[scan][0]:
            best[scan] = rank, i
    chosen = sorted(i for _, i in best.values())
    if len(chosen) < len(entries):
        ignored["other_reconstruction"] += len(entries) - len(chosen)
    return [entries[i] for i in chosen]


def _join_scan(metadata: Mapping[str, str]) -> str:
    """Name a scan that the metadata name; "scan a" of two patients is two scans."""
    scan = metadata.get("scan")
    return f"{metadata.get('patient', '')}\0{scan}" if scan else ""


def _order_words(word: str) -> tuple[float, str]:
    """Order numbers by value, other words behind them, and nothing last."""
    return (float(word) if word.isdecimal() else float("inf"), word or "\U0010ffff")


def _count_studies(entries: Sequence[Entry], search: _Search) -> int:
    """Count the studies: one an entry, or one a report where the recipe takes each."""
    recipe = search.recipe
    if recipe is None or recipe.reports.several != "each":
        return len(entries)
    return sum(max(1, len(_find_facts(entry, search).reports)) for entry in entries)


def _find_facts(entry: Entry, search: _Search) -> Facts:
    """Find what the tables say of an entry."""
    metadata = search.evidence.find_metadata(entry.names, search.register)
    return search.evidence.find_facts(entry.names, metadata, search.register)


def _find_aliases(entries: Sequence[Entry], search: _Search) -> dict[str, str]:
    """Find under what name the tables know a patient of DICOM.

    Of two CT of one patient the tables may have only one: both must get the tables' name, or the
    patient might be in two splits. A PatientID that stands for several patients is no name.
    """
    found: dict[str, str] = {}
    for entry in entries if search.sources.tables else ():
        own = entry.picture.patient
        told = own and _tell_patient(_find_facts(entry, search))
        if own and told:
            found[own] = told if found.get(own, told) == told else own
    return found


def _tell_patient(facts: Facts) -> str:
    """Say what the tables call a patient; "" where they do not tell."""
    named = (found.patient for found in facts.reports if found.patient)
    return facts.metadata.get("patient") or next(named, "")


def _make_studies(
    entries: Sequence[Entry], search: _Search, counts: Counter[str]
) -> Iterator[Study]:
    """Make the studies one at a time; the counts are complete at the end."""
    found: Counter[str] = Counter()
    used: set[int] = set()
    by_column = search.recipe is not None and search.recipe.recipe.split is SplitRule.COLUMN
    guard = SplitGuard() if by_column else None  # a hash puts nobody into two
    for entry in entries:
        facts = _find_facts(entry, search)
        used.update(report.position for report in facts.reports)
        for number, report in enumerate(facts.reports or [None]):
            study = _make_study(entry, facts, report, number, search)
            if guard:
                guard.check(study.identity["patient_id"], study.identity["split"])
            found.update(study.warnings)
            found["refused"] += study.refusal is not None
            yield study
    reports = search.evidence.reports
    if reports is not None:
        found["reports"] = len(used)
        found["reports_unused"] = len(reports.table) - len(used)
        if not used and len(reports.table):
            log.warning(
                "none of the %d reports belongs to anything that was found; their keys are like "
                "%r, see pairing in the recipe",
                len(reports.table), next(iter(reports.table)),
            )  # fmt: skip
    counts.clear()
    counts.update({word: count for word, count in found.items() if count})


def _make_study(
    entry: Entry, facts: Facts, report: FoundReport | None, number: int, search: _Search
) -> Study:
    """Give an entry its pseudonyms, split, report and labels.

    A file that names no patient is a patient of its own: two CT of one person as two files cannot
    be recognised.
    """
    picture, recipe = entry.picture, search.recipe
    warnings = _list_warnings(entry, facts, report, search)
    study = Study(
        identity=_identify(entry, facts, report, number, search),
        files=picture if isinstance(picture, CTFiles) else None,
        radiograph=picture if isinstance(picture, RadiographFile) else None,
        warnings=warnings,
        refusal=_find_refusal(report, facts, search),
    )
    if isinstance(picture, CTFiles):
        mask = find_mask(search.mask, picture.name) if search.mask else None
        told = None
        if recipe is not None and recipe.recipe.hu is HuPolicy.TABLE:
            words = (facts.metadata.get(k, "") for k in ("slope", "intercept", "xy_spacing",
                                                         "z_spacing"))  # fmt: skip
            told = parse_told_scale(*words)
        return dataclasses.replace(study, mask=mask, told=told)
    if recipe is None:
        return study
    view = _parse_view(facts.metadata.get("view", ""), recipe.radiographs.views)
    return dataclasses.replace(study, view=view, keep=recipe.radiographs.keep)


def _parse_view(word: str, views: Mapping[str, View]) -> View | None:
    """Read the view that a table tells; None for nothing and for other words."""
    if word in views:
        return views[word]
    try:
        return View(word)
    except ValueError:
        return None


def _identify(
    entry: Entry, facts: Facts, report: FoundReport | None, number: int, search: _Search
) -> Row:
    """Fill the columns that say which study it is, where it lies, and what is known of it."""
    picture, parsed = entry.picture, entry.ctrate
    own = parsed.patient if parsed else picture.patient or picture.study_uid or picture.name
    own_scan = parsed.scan if parsed else picture.study_uid or picture.name
    name = f"{parsed.scan}_{parsed.reconstruction}" if parsed else picture.name
    if isinstance(picture, RadiographFile):
        name = f"radiograph {name}"
    if number:
        name = f"{name}#{number + 1}"  # the second report of one picture
    patient = _tell_patient(facts) or search.aliases.get(own, own)
    scan = _join_scan(facts.metadata) or (report.scan if report else "") or own_scan
    series_id = search.hide("series", name)
    split, version = _choose_split(patient, facts, parsed, search)
    identity: Row = {
        # Of what the file itself tells, so that a table that is added later renames nothing.
        "sample_id": search.hide("sample", own, own_scan, name),
        "draw": 0,
        "dataset": search.dataset,
        "patient_id": search.hide("patient", patient),
        "study_id": search.hide("study", scan),
        "series_id": series_id,
        "recon_id": series_id,
        "split": split.value,
        "split_version": version,
    }
    if isinstance(picture, CTFiles):
        clinical = picture.ct_format is CTFormat.DICOM
        identity |= {
            "ct_ref": series_id if clinical else picture.name,
            "ct_format": picture.ct_format.value,
            "ct_bytes": picture.n_bytes,
        }
    return identity | _describe_report(report) | _describe_labels(facts)


def _describe_report(found: FoundReport | None) -> Row:
    """Fill the columns of the report."""
    if found is None or not found.report:
        return {}
    report = found.report
    return {
        "report_findings": report.findings,
        "report_impression": report.impression,
        "report_lang": report.language,
        "report_sha256": report.sha256,
    }


def _describe_labels(facts: Facts) -> Row:
    """Fill the column of the labels."""
    if not facts.labels:
        return {}
    return {"labels": [{"name": name, "value": value} for name, value in facts.labels.items()]}


def _choose_split(
    patient: str, facts: Facts, parsed: CtRateName | None, search: _Search
) -> tuple[Split, str]:
    """Find the split of a patient, and the rule that made it."""
    rules = search.recipe.recipe if search.recipe else None
    official: Split | None = None
    if rules is None or rules.split is SplitRule.HASH:
        pass
    elif rules.split is SplitRule.BY_CTRATE_NAME:
        official = parsed.split if parsed else None
    elif rules.split is SplitRule.COLUMN:
        official = search.evidence.splits.get(patient) or parse_split(
            facts.metadata.get("split", ""), "the metadata"
        )
    else:
        official = Split(rules.split.value)
    if rules is None or official is None:
        return find_split(search.salt, search.dataset, patient), SPLIT_VERSION
    return keep_official(
        search.salt, search.dataset, patient, official, dev_percent=rules.dev_percent
    )


def _list_warnings(
    entry: Entry, facts: Facts, report: FoundReport | None, search: _Search
) -> tuple[str, ...]:
    """List what is missing beside the picture."""
    words = []
    if isinstance(entry.picture, RadiographFile):
        words.append(NO_CT)
    if search.recipe is None:
        return tuple(words)
    if report is None or not report.report:
        words.append(NO_REPORT)
    if search.sources.labels and not facts.labels:
        words.append(NO_LABELS)
    if search.sources.metadata and not facts.metadata:
        words.append(NO_METADATA)
    return tuple(words)


def _find_refusal(report: FoundReport | None, facts: Facts, search: _Search) -> Refusal | None:
    """Refuse a study that lacks what the recipe requires."""
    recipe = search.recipe
    needs = {*(recipe.recipe.require if recipe else ())}
    if search.sources.require_report:
        needs.add(Need.REPORT)
    lacking = []
    if Need.REPORT in needs and (report is None or not report.report):
        lacking.append("report")
    if Need.LABELS in needs and not facts.labels:
        lacking.append("labels")
    if not lacking:
        return None
    return Refusal(
        reason=Reason.METADATA_MISSING,
        detail=f"no {' and no '.join(lacking)} belongs to it, and the recipe requires it; add it "
        "to the table, or require nothing",
    )
