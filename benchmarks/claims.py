"""The paper's claims in miniature, on virtual patients that nobody trained on.

    python benchmarks/claims.py --root ROOT    # as alignment.py --root left it, or a new one

1. Reports and CT together (beta = gamma = 1) beat reports alone or CT alone.
2. A probe on the aligned encoder beats an encoder trained from scratch on the same few labels.
3. Physics beats the mean projection, tested on radiographs of another voltage, with noise and blur.

Each line is a paired difference over seeds with its 95 % interval (Student's t). Where that does
not lie above zero the claim is not shown here, and the table says so.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import alignment
import numpy as np
from drrgen_training.evaluation.classification import measure_auroc
from drrgen_training.evaluation.probe import FRACTIONS, draw_fraction, fit_probe
from drrgen_training.evaluation.retrieval import pick_first
from drrgen_training.evaluation.tables import read_embedded
from drrgen_training.evaluation.write import read_metrics
from drrgen_training.pictures import PicturePack
from drrgen_training.samples import read_samples
from drrgen_training.supervised import SupervisedSettings, classify, fit_supervised
from scipy import stats

MEASURES = (
    ("cxr to report", "recall@10"), ("report to cxr", "recall@10"), ("cxr to ct", "recall@10"),
    ("ct to cxr", "recall@10"), ("zero-shot from cxr", "macro AUROC"),
    ("probe of cxr, 100 %", "macro AUROC"),
)  # fmt: skip
ENCODER = "tiny:96"  # of the recipe demo
REALISTIC = ("--kvp", 100, "--dose-ugy", 1.0, "--seed", 7)
Differences = dict[tuple[str, str], list[tuple[float, float]]]


def render_again(root: Path, cohort: Path, options: argparse.Namespace) -> None:
    """Render the CT twice more: as mean projections, and as a low-dose room would."""
    shared = ["--ct-dir", cohort / "ct", "--reports", cohort / "reports.csv", "--labels",
              cohort / "labels.csv", "--metadata", root / "metadata.csv", "--recipe", "virtual",
              "--view", "PA", "--size", options.picture, "--salt-file", alignment.SALT,
              "-q"]  # fmt: skip
    mean, low_dose = root / "MEAN", root / "LOWDOSE"
    alignment.call("build", *shared, "--acquisition", "mean-projection", "--out", mean)
    alignment.call("build", *shared, *REALISTIC, "--out", low_dose)
    alignment.call("pack", mean, "--out", root / "PACK-MEAN", "--size", 112, "-q")
    alignment.call("pack", low_dose, "--out", root / "PACK-LOWDOSE", "--size", 112, "-q")


def train_variants(root: Path, data: Path, seed: int) -> None:
    """Train what is compared with the run of alignment.py, on the same targets."""
    run = root / f"seed-{seed}"
    targets = ("--targets", run / "ct", "--targets", run / "report")
    for name, more in (
        ("beta", ("--pack", root / "PACK", "--set", "loss.gamma=0")),
        ("gamma", ("--pack", root / "PACK", "--set", "loss.beta=0")),
        ("mean", ("--pack", root / "PACK-MEAN", "--pictures", root / "MEAN")),
    ):
        alignment.call("train", data, "--recipe", "demo", "--out", run / name, *targets, *more,
                       "--set", f"run.seed={seed}", "-q")  # fmt: skip


def compare_terms(root: Path, data: Path, seed: int, found: Differences) -> None:
    """Claim 1: both terms against one."""
    run = root / f"seed-{seed}"
    values = judge(run, data, root / "PACK", run / "CLAIM-1", both="S2", beta="beta", gamma="gamma")
    for other in ("beta", "gamma"):
        for task, measure in MEASURES:
            pair = values["both", task, measure], values[other, task, measure]
            found[f"1. both over {other} alone", f"{task}, {measure}"].append(pair)


def compare_rendering(root: Path, seed: int, found: Differences) -> None:
    """Claim 3: physics against mean projection, on low-dose radiographs."""
    run = root / f"seed-{seed}"
    values = judge(run, root / "LOWDOSE", root / "PACK-LOWDOSE", run / "CLAIM-3",
                   physics="S2", mean="mean")  # fmt: skip
    for task, measure in MEASURES:
        pair = values["physics", task, measure], values["mean", task, measure]
        found["3. physics over mean projection", f"{task}, {measure}"].append(pair)


def judge(
    run: Path, data: Path, pack: Path, out: Path, **models: str
) -> dict[tuple[str, str, str], float]:
    """Judge several runs of one seed."""
    checkpoints = [w for name, folder in models.items()
                   for w in ("--checkpoint", f"{name}={run / folder}")]  # fmt: skip
    targets = ("--targets", run / "ct", "--targets", run / "report")
    alignment.call("evaluate", data, *checkpoints, *targets, "--pack", pack, "--replicates", 100,
                   "--out", out, "-q")  # fmt: skip
    scores = read_metrics(out).scores
    return {(s.model, s.task, s.measure): s.value for s in scores if s.label is None}


def compare_few_labels(root: Path, data: Path, seed: int, found: Differences) -> None:
    """Claim 2: a probe against an encoder from scratch, both on the same drawn patients."""
    judged = read_embedded(root / f"seed-{seed}" / "CLAIM-1" / "embeddings" / "both")
    pictures = PicturePack(root / "PACK", read_samples(data))
    learnt = np.flatnonzero(judged.split != "test")
    test = np.flatnonzero(judged.split == "test")
    test = test[pick_first(judged.study[test])]
    vectors = judged.vectors["cxr"].astype(np.float64)
    for fraction in FRACTIONS:
        rows = learnt[draw_fraction(judged.patient[learnt], fraction, seed)]
        settings = SupervisedSettings(encoder=ENCODER, seed=seed)
        model = fit_supervised(pictures, rows, judged.labels, settings)
        told, _ = classify(model, pictures, len(judged))
        areas = []
        for i, truth in enumerate(judged.labels.values()):
            probe = fit_probe(vectors[rows], truth[rows], judged.patient[rows], vectors[test])
            pair = (measure_auroc(probe, truth[test]) if np.isfinite(probe).all() else np.nan,
                    measure_auroc(told[test, i].astype(np.float64), truth[test]))  # fmt: skip
            areas += [pair] if np.isfinite(pair).all() else []
        means = np.mean(areas, axis=0) if areas else (np.nan, np.nan)
        name = f"{100 * fraction:g} % of patients, macro AUROC"
        found["2. probe over encoder from scratch", name].append((float(means[0]), float(means[1])))


def print_table(found: Differences) -> None:
    """Print each claim with its verdict."""
    print("| claim | measure | one | other | difference | 95 % over seeds | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (claim, measure), pairs in found.items():
        kept = [pair for pair in pairs if np.isfinite(pair).all()]
        if len(kept) < 2:
            print(f"| {claim} | {measure} | | | | | too few seeds |")
            continue
        differences = [a - b for a, b in kept]
        mean = statistics.fmean(differences)
        error = statistics.stdev(differences) / len(kept) ** 0.5
        half = float(stats.t.isf(0.025, len(kept) - 1)) * error
        verdict = "holds" if mean - half > 0 else "does not hold" if mean <= 0 else "not shown"
        one, other = (statistics.fmean(side) for side in zip(*kept, strict=True))
        print(f"| {claim} | {measure} | {one:.3f} | {other:.3f} | {mean:+.3f} "
              f"| {mean - half:+.3f} to {mean + half:+.3f} | {verdict} |")  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    alignment.add_options(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        data = alignment.make_data(root, options)
        render_again(root, options.cohort or root / "COHORT", options)
        found: Differences = defaultdict(list)
        for seed in range(options.seeds):
            alignment.align(root, data, seed, options)
            train_variants(root, data, seed)
            compare_terms(root, data, seed, found)
            compare_few_labels(root, data, seed, found)
            compare_rendering(root, seed, found)
        print_table(found)
        print(f"\n{options.n} virtual patients, {options.seeds} seeds; "
              f"{time.perf_counter() - start:.0f} s in all")  # fmt: skip


if __name__ == "__main__":
    main()
