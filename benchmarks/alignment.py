"""Does it align? Both stages on the virtual cohort, measured on patients that nobody trained on.

    python benchmarks/alignment.py                 # 600 patients, three seeds, mean and spread
    python benchmarks/alignment.py --demo          # 120 patients, one seed: make demo-train

Virtual patients are a test article: what holds here is the machinery, and nothing clinical.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from drrgen_training.evaluation.results import Score
from drrgen_training.evaluation.write import read_metrics

VISIBLE = 0.5  # contrast over the deviation of the anatomy around, in the PA view, at the median
SHOWN = ("recall@1", "recall@10", "median rank", "mAP@10", "macro AUROC")
SALT = Path(__file__).parents[1] / "pipelines" / "recipes" / "public-salt.txt"


def call(*words: object) -> None:
    """Run a command of drrgen, as a user does."""
    start = time.perf_counter()
    command = [sys.executable, "-c", "from drrgen.cli import main; main()", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"{time.perf_counter() - start:6.1f} s  drrgen {words[0]} {words[1]}", file=sys.stderr)


def make_data(root: Path, options: argparse.Namespace) -> Path:
    """Make the cohort, its radiographs, and the pack; all of it is kept for the next run."""
    cohort, data = options.cohort or root / "COHORT", root / "DATASET"
    tables = ["--reports", cohort / "reports.csv", "--labels", cohort / "labels.csv",
              "--metadata", root / "metadata.csv"]  # fmt: skip
    if options.cohort is None:
        call("cohort", "--n", options.n, "--size", options.size, "--seed", options.cohort_seed,
             "--out", cohort, "-q")  # fmt: skip
    write_splits(cohort / "metadata.csv", root / "metadata.csv")
    call("build", "--ct-dir", cohort / "ct", *tables, "--recipe", "virtual", "--out", data,
         "--view", "PA", "--size", options.picture, "--salt-file", SALT, "-q")  # fmt: skip
    call("pack", data, "--ct-dir", cohort / "ct", "--out", root / "PACK", "--size", 112, "-q")
    return data


def write_splits(table: Path, to: Path) -> None:
    """Give a third of the patients to the test and a tenth to development, by their names."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        share = zlib.crc32(row["patient"].encode()) / 2**32
        row["split"] = "test" if share < 1 / 3 else "dev" if share < 1 / 3 + 0.1 else "train"
    with to.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def align(root: Path, data: Path, seed: int, options: argparse.Namespace) -> tuple[Score, ...]:
    """Run both stages with a seed; measure."""
    run = root / f"seed-{seed}"
    pack, cohort = root / "PACK", options.cohort or root / "COHORT"
    shared = ("--pack", pack, "--set", f"run.seed={seed}", "-q")
    call("train", data, "--recipe", "stage1", "--out", run / "S1", *shared,
         "--set", f"optim.epochs={options.epochs}")  # fmt: skip
    # Not the best ones: on a dozen dev patients the best of stage 1 is the luckiest.
    stage1 = run / "S1" / "last.safetensors"
    one = f"run:{stage1}"
    call("embed", data, "--of", "ct", "--encoder", one, "--ct-dir", cohort / "ct",
         "--out", run / "ct", "--workers", 2, "-q")  # fmt: skip
    call("embed", data, "--of", "report", "--encoder", one, "--out", run / "report",
         "--workers", 2, "-q")  # fmt: skip
    call("train", data, "--recipe", "demo", "--out", run / "S2", *shared,
         "--targets", run / "ct", "--targets", run / "report")  # fmt: skip
    call("evaluate", data, "--checkpoint", f"drrgen={run / 'S2'}", "--targets", run / "ct",
         "--targets", run / "report", "--pack", pack, "--no-probes", "--out", run / "EVAL",
         "-q")  # fmt: skip
    return read_metrics(run / "EVAL").scores


def find_visible(cohort: Path) -> set[str]:
    """Find the labels whose findings can be seen in the PA view, as the cohort measured."""
    seen: dict[str, list[float]] = defaultdict(list)
    with (cohort / "findings.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for label in filter(None, row["labels"].split("; ")):
                seen[label].append(float(row["visibility_pa"] or 0))
    return {label for label, each in seen.items() if statistics.median(each) >= VISIBLE}


def print_table(seeds: list[tuple[Score, ...]], visible: set[str]) -> None:
    """Print the main numbers: mean over the seeds, spread, chance."""
    found: dict[tuple[str, str], list[Score]] = defaultdict(list)
    areas: dict[str, list[list[float]]] = defaultdict(list)
    for scores in seeds:
        for score in scores:
            if score.measure in SHOWN or score.measure == "AUROC":
                found[score.task, score.label or score.measure].append(score)
        for task in dict.fromkeys(s.task for s in scores if s.measure == "AUROC"):
            areas[task].append([s.value for s in scores if s.task == task and s.label in visible
                                and s.measure == "AUROC" and np.isfinite(s.value)])  # fmt: skip
    print(f"| task | measure | mean of {len(seeds)} seeds | spread | chance |")
    print("| --- | --- | --- | --- | --- |")
    for (task, measure), each in found.items():
        mark = ", visible" if measure in visible else ""
        chance = statistics.fmean(score.chance for score in each)
        print_line(task, measure + mark, [score.value for score in each], chance)
    for task, values in areas.items():
        means = [statistics.fmean(each) for each in values]
        print_line(task, f"macro AUROC over {len(values[0])} visible findings", means, 0.5)


def print_line(task: str, measure: str, values: list[float], chance: float) -> None:
    """Print a line of the table."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = statistics.fmean(values)
    print(f"| {task} | {measure} | {mean:.3f} | {spread:.3f} | {chance:.3f} |")


def draw_curves(root: Path, to: Path) -> None:
    """Draw the loss of every run, and the score on its dev patients."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no picture of the losses: matplotlib is not installed", file=sys.stderr)
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex="col")
    for column, stage in enumerate(("S1", "S2")):
        for path in sorted(root.glob(f"seed-*/{stage}/log.jsonl")):
            steps = [json.loads(line) for line in path.read_text().splitlines()]
            axes[0][column].plot([s["step"] for s in steps], [s["loss"] for s in steps],
                                 label=path.parts[-3])  # fmt: skip
            looks = [s for s in steps if s["score"] is not None]
            axes[1][column].plot([s["step"] for s in looks], [s["score"] for s in looks])
            axes[1][column].axhline(looks[0]["chance"], color="grey", linewidth=0.5)
        axes[0][column].set(title=f"stage {column + 1}", ylabel="loss")
        axes[1][column].set(xlabel="step", ylabel="dev mean 1/rank (grey: chance)")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(to, dpi=110)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every proof on virtual patients takes."""
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="voxels of a CT's side")
    parser.add_argument("--picture", type=int, default=192, help="pixels of a picture's long side")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--cohort-seed", type=int, default=2026)
    parser.add_argument("--cohort", type=Path, help="folder of a cohort that is there already")
    parser.add_argument("--root", type=Path, help="keep everything here, and go on with it")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="120 patients, one seed")
    add_options(parser)
    options = parser.parse_args()
    if options.demo:
        options.n, options.seeds, options.epochs = 120, 1, 60
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        data = make_data(root, options)
        seeds = [align(root, data, seed, options) for seed in range(options.seeds)]
        print_table(seeds, find_visible(options.cohort or root / "COHORT"))
        print(f"\n{options.n} virtual patients, {seeds[0][0].n} test scans; "
              f"{time.perf_counter() - start:.0f} s in all")  # fmt: skip
        if options.root:
            draw_curves(root, root / "loss.png")


if __name__ == "__main__":
    main()
