"""Shards that share nothing but the output and its plan, on disk and in a store."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toys import ToyTask, make_items
from upath import UPath

from drrgen.errors import ManifestError
from drrgen.io.stores import Place, list_names
from drrgen.jobs.events import read_events
from drrgen.jobs.runner import Means, merge, plan, run, run_shard
from drrgen.jobs.status import read_standing

ITEMS = make_items(
    a="1", b="refuse", c="2", d="ignore", e="3", f="fail", g="4", h="5", i="6", j="7", k="8"
)
OUTCOMES = {"ok": 8, "refused": 1, "failed": 1, "ignored": 1}


@pytest.fixture(params=["disk", "store"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    (tmp_path / "log").mkdir()
    return tmp_path / "out" if request.param == "disk" else UPath(f"memory://{tmp_path.name}/out")


@pytest.fixture
def task(tmp_path: Path) -> ToyTask:
    return ToyTask(tmp_path, log=tmp_path / "log")


def read_bytes(out: Place) -> dict[str, bytes]:
    kept = [n for n in list_names(out) if n.endswith((".parquet", ".txt")) or n == "manifest.json"]
    return {name: (out / name).read_bytes() for name in kept}


def test_shards_that_are_merged_give_the_bytes_of_one_run(
    task: ToyTask, out: Place, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    for _ in run(task, ITEMS, whole, part_size=2):
        pass
    plan(task, iter(ITEMS), out, part_size=2)
    for index in (2, 0, 1):
        list(run_shard(task, out, index, 3))
    merge(task, out)
    assert read_bytes(out) == read_bytes(whole)


def test_merging_before_all_shards_are_done_names_what_is_missing(
    task: ToyTask, out: Place
) -> None:
    plan(task, ITEMS[:6], out, part_size=2)
    list(run_shard(task, out, 0, 2))
    with pytest.raises(ManifestError, match=r"1 of 3 parts .* part-00001 the first"):
        merge(task, out)
    assert not (out / "manifest.json").exists()


def test_a_shard_without_a_plan_is_refused(task: ToyTask, out: Place) -> None:
    with pytest.raises(ManifestError, match="no plan for"):
        list(run_shard(task, out, 0, 2))


def test_a_shard_with_other_settings_is_refused(task: ToyTask, out: Place, tmp_path: Path) -> None:
    plan(task, ITEMS, out)
    with pytest.raises(ManifestError, match="other settings"):
        list(run_shard(ToyTask(tmp_path, fingerprint="other"), out, 0, 2))


def test_a_second_run_of_a_shard_does_only_what_failed(task: ToyTask, out: Place) -> None:
    plan(task, ITEMS[:4], out, part_size=4)
    assert next(run_shard(task, out, 0, 1)).total == 4
    list(run_shard(task, out, 0, 1))
    steps = list(run_shard(task, out, 0, 1))
    assert [(step.total, step.kept) for step in steps] == [(0, 4)]
    again = list(run_shard(task, out, 0, 1, Means(retry_refused=True)))
    assert (again[0].total, again[-1].refused) == (1, 1)


def test_a_lost_file_is_made_again_and_a_stale_one_is_removed(
    task: ToyTask, out: Place, tmp_path: Path
) -> None:
    list(run(task, ITEMS[:3], out))
    before = read_bytes(out)
    (out / "images" / "a.txt").unlink()
    list(run(task, ITEMS[:3], out))
    assert read_bytes(out) == before
    worse = make_items(a="refuse", b="refuse", c="2")
    list(run(task, worse, out))
    assert list_names(out / "images") == {"c.txt"}


def test_a_lost_plan_costs_nothing_but_the_listing(
    task: ToyTask, out: Place, tmp_path: Path
) -> None:
    list(run(task, ITEMS[:4], out, part_size=2))
    before = read_bytes(out)
    private = out.parent / (out.name + ".private")
    for name in list_names(private / "plan"):
        (private / "plan" / name).unlink()
    steps = list(run(task, ITEMS[3::-1], out, part_size=2))
    assert (steps[0].total, steps[0].kept) == (0, 4)
    assert read_bytes(out) == before


def test_the_standing_tells_what_is_done_and_what_is_left(task: ToyTask, out: Place) -> None:
    plan(task, ITEMS, out, part_size=4)
    assert read_standing(out).left == 11
    list(run_shard(task, out, 0, 3))
    half = read_standing(out)
    assert (half.planned, half.left, half.parts, half.parts_planned) == (11, 7, 1, 3)
    assert half.done == {"ok": 2, "refused": 1, "ignored": 1}
    assert half.reasons == {"not_ct": 1}
    assert not half.running
    with pytest.raises(ManifestError, match="nothing was begun"):
        read_standing(out / "other")


def test_the_standing_of_a_run_in_work_says_so(task: ToyTask, out: Place) -> None:
    steps = run(task, ITEMS[:3], out)
    next(steps)
    next(steps)
    standing = read_standing(out)
    assert standing.running
    assert standing.done == {"ok": 1}
    list(steps)


def test_events_tell_every_item_and_part(task: ToyTask, out: Place) -> None:
    list(run(task, ITEMS[:3], out))
    events = list(read_events(out))
    assert [event["event"] for event in events] == ["start", "item", "item", "item", "part", "end"]
    assert [event.get("status") for event in events[1:4]] == ["ok", "refused", "ok"]
    assert events[2]["reason"] == "not_ct"


def test_the_marker_says_what_was_done(task: ToyTask, out: Place) -> None:
    list(run(task, ITEMS[:2], out))
    stats = json.loads((out / "manifest" / "part-00000.stats.json").read_bytes())
    assert stats["status"] == {"ok": 1, "refused": 1}
    assert stats["fingerprint"] == "toy"
    assert set(stats["items"]) == {"a", "b"}
    with (out / "manifest" / "part-00000.parquet").open("rb") as file:
        assert pq.read_table(file).num_rows == 2


@pytest.mark.parametrize("text", ["[]", "7", "null", '"x"', "{}", '{"items": [], "sha256": "x"}'])
def test_a_marker_that_is_none_costs_its_part_and_no_traceback(
    task: ToyTask, out: Place, text: str
) -> None:
    list(run(task, ITEMS[:3], out))
    before = read_bytes(out)
    (out / "manifest" / "part-00000.stats.json").write_text(text)
    (out / "manifest" / "part-copy.stats.json").write_text(text)
    assert read_standing(out).left == 3
    with pytest.raises(ManifestError, match="not finished"):
        merge(task, out)
    list(run(task, ITEMS[:3], out))
    assert read_bytes(out) == before


@pytest.mark.parametrize("text", ["[]", "7", '{"rows": 7}', "", "\0"])
def test_a_journal_that_is_broken_is_none(task: ToyTask, out: Place, text: str) -> None:
    steps = run(task, ITEMS[:3], out)
    next(steps)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    journal = out / "manifest" / ".open" / "part-00000"
    (name,) = [each for each in list_names(journal) if each.endswith(".json")]
    (journal / name).write_text(text)
    assert read_standing(out).left == 3
    assert list_names(journal) == {name}
    assert next(run(task, ITEMS[:3], out)).total == 3


def test_events_that_are_broken_are_passed_over(task: ToyTask, out: Place) -> None:
    list(run(task, ITEMS[:1], out))
    log = out.parent / f"{out.name}.private" / "events" / "zz.jsonl"
    log.write_bytes(b'7\n[]\n{"time": "late", "event": "item"}\n{"time": 1}\n\xff\xfe\0\n')
    assert read_standing(out).done == {"ok": 1}


def test_the_standing_leaves_out_what_is_gone(task: ToyTask, out: Place) -> None:
    list(run(task, ITEMS[:3], out))
    list(run(task, ITEMS[:2], out))
    standing = read_standing(out)
    assert (standing.planned, standing.left) == (2, 0)
