import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toys import ToyTask, make_items

from drrgen.errors import ManifestError
from drrgen.jobs import cluster
from drrgen.jobs.runner import Means, Progress, forecast, run
from drrgen.jobs.task import Item

WORKERS = Means(workers=2, timeout_s=20.0)


def do(out: Path, items: list[Item], means: Means | None = None, **more: object) -> Progress | None:
    steps = list(run(ToyTask(out), items, out, part_size=3, means=means, **more))  # type: ignore[arg-type]
    return steps[-1] if steps else None


def read_outcomes(out: Path) -> dict[str, str]:
    parts = sorted((out / "manifest").glob("*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return {row["sample_id"]: row["reason"] or row["status"] for row in rows}


def read_bytes(out: Path) -> dict[str, bytes]:
    files = [*out.rglob("*.parquet"), *out.rglob("images/*"), out / "manifest.json"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def read_calls(out: Path) -> list[str]:
    return (out / "calls.log").read_text().split()


ITEMS = make_items(a="1", b="refuse", c="2", d="ignore", e="3", f="fail", g="4")
OUTCOMES = {"a": "ok", "b": "not_ct", "c": "ok", "e": "ok", "f": "io_error", "g": "ok"}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_write_the_same_bytes_as_this_process(tmp_path: Path, workers: int) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    list(run(ToyTask(here), ITEMS[:4], here, part_size=8))
    list(run(ToyTask(there), ITEMS[:4], there, part_size=8, means=Means(workers=workers)))
    assert read_bytes(there) == read_bytes(here)


def test_every_item_gets_its_outcome_and_progress_counts_them(tmp_path: Path) -> None:
    last = do(tmp_path, ITEMS, WORKERS)
    assert last == Progress(done=7, total=7, kept=0, refused=1, failed=1)
    assert read_outcomes(tmp_path) == OUTCOMES
    summary = json.loads((tmp_path / "manifest.json").read_text())
    assert summary["status"] == {"ok": 4, "refused": 1, "failed": 1}
    assert summary["ignored"] == 1


def test_a_second_run_does_only_what_failed(tmp_path: Path) -> None:
    do(tmp_path, ITEMS, WORKERS)
    (tmp_path / "calls.log").unlink()
    do(tmp_path, ITEMS)
    assert read_calls(tmp_path) == ["f"]
    assert read_outcomes(tmp_path) == OUTCOMES


def test_a_crash_costs_the_study_that_caused_it_and_no_other(tmp_path: Path) -> None:
    do(tmp_path, make_items(a="1", b="crash", c="2", d="3", e="4"), WORKERS)
    assert read_outcomes(tmp_path) == {"a": "ok", "b": "crashed", "c": "ok", "d": "ok", "e": "ok"}
    rows = pq.read_table(tmp_path / "manifest" / "part-00000.parquet").to_pylist()
    assert "Segmentation fault" in rows[1]["detail"]


def test_a_hang_that_holds_the_interpreter_is_ended_in_time(tmp_path: Path) -> None:
    items = make_items(a="1", b="hang", c="2", d="3", e="4")
    do(tmp_path, items, Means(workers=2, timeout_s=1.0))
    assert read_outcomes(tmp_path) == {"a": "ok", "b": "timeout", "c": "ok", "d": "ok", "e": "ok"}


def test_a_study_that_eats_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "MEMORY_LIMIT", 2**30)
    do(tmp_path, make_items(a="1", b="eat", c="2"), WORKERS)
    assert read_outcomes(tmp_path) == {"a": "ok", "b": "out_of_memory", "c": "ok"}


def test_what_was_in_work_when_a_run_died_is_tried_alone_and_isolated(tmp_path: Path) -> None:
    items = make_items(a="1", b="crash")
    do(tmp_path, items[:1])
    (tmp_path / "manifest" / ".open" / "part-00001").mkdir(parents=True)
    (tmp_path / "manifest" / ".open" / "part-00001" / "b.trace").write_text("1\n")
    do(tmp_path, items)  # in this process it would end the test run
    assert read_outcomes(tmp_path) == {"a": "ok", "b": "crashed"}


def test_a_lost_file_is_made_again(tmp_path: Path) -> None:
    do(tmp_path, ITEMS[:4])
    before = read_bytes(tmp_path)
    (tmp_path / "images" / "c.txt").unlink()
    (tmp_path / "calls.log").unlink()
    do(tmp_path, ITEMS[:4])
    assert read_calls(tmp_path) == ["c"]
    assert read_bytes(tmp_path) == before


def test_a_broken_part_is_made_again(tmp_path: Path) -> None:
    do(tmp_path, ITEMS, WORKERS)
    before = read_bytes(tmp_path)
    part = tmp_path / "manifest" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-7])
    do(tmp_path, ITEMS)
    assert read_bytes(tmp_path) == before


def test_a_touched_input_is_kept_and_a_changed_one_is_done_again(tmp_path: Path) -> None:
    do(tmp_path, ITEMS[:4])
    touched = dataclasses.replace(ITEMS[0], mtime_ns=2)
    changed = dataclasses.replace(ITEMS[2], mtime_ns=2, payload="other")
    ahead = forecast(ToyTask(tmp_path), [touched, changed], tmp_path)
    assert (ahead.todo, ahead.kept) == (1, 1)
    do(tmp_path, [touched, changed])
    assert (tmp_path / "images" / "c.txt").read_text() == "other"
    assert forecast(ToyTask(tmp_path), [touched, changed], tmp_path).todo == 0


def test_new_items_come_into_new_parts_and_old_parts_stay(tmp_path: Path) -> None:
    do(tmp_path, ITEMS[:3])
    old = (tmp_path / "manifest" / "part-00000.parquet").read_bytes()
    do(tmp_path, make_items(aa="5") + ITEMS[:3])
    assert (tmp_path / "manifest" / "part-00000.parquet").read_bytes() == old
    assert read_outcomes(tmp_path)["aa"] == "ok"


def test_other_settings_are_refused_and_overwrite_starts_anew(tmp_path: Path) -> None:
    do(tmp_path, ITEMS[:3])
    other = ToyTask(tmp_path, fingerprint="other")
    with pytest.raises(ManifestError, match="other settings"):
        list(run(other, ITEMS[:3], tmp_path))
    list(run(other, ITEMS[:1], tmp_path, overwrite=True))
    assert read_outcomes(tmp_path) == {"a": "ok"}
    assert [p.name for p in (tmp_path / "images").iterdir()] == ["a.txt"]


def test_starting_anew_takes_nothing_away_that_is_not_ours(tmp_path: Path) -> None:
    theirs = tmp_path / "images" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    with pytest.raises(ManifestError, match="no data set of drrgen"):
        do(tmp_path, ITEMS[:1], overwrite=True)
    assert theirs.read_text() == "years of work"


def test_starting_anew_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(tmp_path, ITEMS[:4])
    before = read_bytes(tmp_path)
    removed = []

    def die(folder: Path) -> None:
        removed.append(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("drrgen.jobs.shards.remove_tree", die)
        with pytest.raises(KeyboardInterrupt):
            do(tmp_path, ITEMS[:4], overwrite=True)
    assert removed == [tmp_path / "images"]
    do(tmp_path, ITEMS[:4], overwrite=True)
    assert read_bytes(tmp_path) == before


def test_an_addition_of_the_same_name_is_refused_and_a_copy_of_what_is_there_is_kept(
    tmp_path: Path,
) -> None:
    do(tmp_path, ITEMS[:1])
    before = read_bytes(tmp_path)
    (same,) = make_items(a="1")
    touched = dataclasses.replace(same, mtime_ns=2, facts="of other tables")
    do(tmp_path, [touched], keep_others=True)
    assert read_bytes(tmp_path) == before
    with pytest.raises(ManifestError, match="another of the same name"):
        do(tmp_path, make_items(a="other"), keep_others=True)
    assert read_bytes(tmp_path) == before


def test_a_lost_plan_and_an_addition_double_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    do(out, ITEMS[:3])
    shutil.rmtree(tmp_path / "out.private")
    do(out, ITEMS[4:5], keep_others=True)
    last = do(out, ITEMS[:5])
    assert last == Progress(done=1, total=1, kept=4, refused=0, failed=0)
    assert read_outcomes(out) == {key: OUTCOMES[key] for key in "abce"}
    rows = [pq.read_metadata(part).num_rows for part in (out / "manifest").glob("*.parquet")]
    assert sum(rows) == 4


def test_a_journal_of_a_plan_that_was_lost_doubles_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = run(ToyTask(out), ITEMS[:3], out, part_size=2)
    next(steps)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "out.private")
    list(run(ToyTask(out), make_items(x="8", y="9") + ITEMS[:3], out, part_size=2))
    keys = [row["sample_id"] for part in sorted((out / "manifest").glob("*.parquet"))
            for row in pq.read_table(part).to_pylist()]  # fmt: skip
    assert sorted(keys) == ["a", "b", "c", "x", "y"]


def test_a_second_drrgen_on_the_same_output_is_refused(tmp_path: Path) -> None:
    first = run(ToyTask(tmp_path), ITEMS[:2], tmp_path)
    next(first)
    with pytest.raises(ManifestError, match="another drrgen"):
        list(run(ToyTask(tmp_path), ITEMS[:2], tmp_path))
    list(first)


def test_an_interrupted_run_goes_on_with_what_is_left(tmp_path: Path) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    do(undisturbed, ITEMS[:4])
    steps = run(ToyTask(stopped), ITEMS[:4], stopped, part_size=3)
    for _ in range(3):  # what there is to do, and two items
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    do(stopped, ITEMS[:4])
    assert read_calls(stopped) == ["a", "b", "c", "d"]
    assert read_bytes(stopped) == read_bytes(undisturbed)


@pytest.mark.parametrize("left", [ITEMS[1:3], []])
def test_a_kill_while_a_part_is_written_anew_loses_no_row_of_what_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: list[Item]
) -> None:
    do(tmp_path, ITEMS[:3])
    (tmp_path / "images" / "c.txt").unlink()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("drrgen.jobs.shards.write_stats", die)
        with pytest.raises(KeyboardInterrupt):
            do(tmp_path, ITEMS[1:3])
    do(tmp_path, left)
    assert read_outcomes(tmp_path) == {key: OUTCOMES[key] for key in "abc"}
    assert not (tmp_path / "manifest" / ".open").exists()
