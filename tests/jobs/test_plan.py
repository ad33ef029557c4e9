import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import make_items

from drrgen.errors import InputError, ManifestError
from drrgen.io.stores import open_place
from drrgen.jobs.plan import (
    PlanHead,
    choose_part_size,
    digest_facts,
    find_plan,
    find_private,
    read_head,
    read_identities,
    read_items,
    write_plan,
)
from drrgen.jobs.task import Item


def make_plan(out: Path, items: list[Item], *, size: int = 3, **more: object) -> PlanHead:
    homes = more.pop("homes", {})
    return write_plan(
        out,
        iter(items),
        fingerprint="toy",
        part_size=size,
        homes=homes,
        **more,  # type: ignore[arg-type]
    )


def read_keys(out: Path) -> list[list[str]]:
    head = read_head(out)
    assert head is not None
    return [list(read_identities(out, part)) for part in range(head.parts)]


ITEMS = make_items(a="1", b="2", c="3", d="4")


def test_the_plan_lies_beside_the_output_and_not_in_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_plan(out, ITEMS)
    assert not out.exists()
    assert find_plan(out).parent == find_private(out) == tmp_path / "out.private"


def test_items_come_into_parts_in_the_order_they_were_found(tmp_path: Path) -> None:
    head = make_plan(tmp_path / "out", ITEMS)
    assert (head.parts, head.items) == (2, 4)
    assert read_keys(tmp_path / "out") == [["a", "b", "c"], ["d"]]


def test_items_are_read_back_with_their_payload(tmp_path: Path) -> None:
    item = Item(key="k", payload={"deep": [1, None, "é"]}, n_bytes=5, mtime_ns=7, facts="f")
    make_plan(tmp_path / "out", [item])
    assert read_items(tmp_path / "out", 0, {"k"}) == [item]


def test_new_items_come_into_new_parts_and_planned_parts_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_plan(out, ITEMS)
    make_plan(out, make_items(aa="0") + ITEMS)
    assert read_keys(out) == [["a", "b", "c"], ["d"], ["aa"]]


def test_items_that_are_gone_are_no_longer_listed_and_may_come_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_plan(out, ITEMS)
    make_plan(out, ITEMS[1:])
    listed = {key: there for key, (_, there) in read_identities(out, 0).items()}
    assert listed == {"a": False, "b": True, "c": True}
    make_plan(out, ITEMS)
    assert all(there for _, there in read_identities(out, 0).values())


def test_additions_leave_the_others_listed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_plan(out, ITEMS)
    make_plan(out, make_items(e="5"), keep_others=True)
    assert all(there for part in range(3) for _, there in read_identities(out, part).values())


def test_a_changed_item_is_changed_in_the_plan(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_plan(out, ITEMS)
    changed = Item(key="b", payload="new", n_bytes=9, mtime_ns=9, facts="other")
    make_plan(out, [ITEMS[0], changed, *ITEMS[2:]])
    assert read_items(out, 0, {"a", "b"}) == [ITEMS[0], changed]


def test_a_lost_plan_is_made_anew_around_the_parts_that_are_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_plan(out, [*ITEMS, *make_items(e="5")], homes={
        0: {"d": ITEMS[3].identity}, 2: {"a": ITEMS[0].identity},
    })  # fmt: skip
    assert read_keys(out) == [["d"], [], ["a"], ["b", "c", "e"]]


def test_what_a_killed_planning_left_is_not_taken_for_a_plan(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_plan(out, ITEMS)
    (find_plan(out) / "plan.json").unlink()
    make_plan(out, ITEMS[:2])
    assert read_keys(out) == [["a", "b"]]
    assert len(list(find_plan(out).glob("*.parquet"))) == 1


def test_two_items_with_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="two items have the key a"):
        make_plan(tmp_path / "out", [ITEMS[0], ITEMS[0]])


@pytest.mark.parametrize("text", ["{", '{"parts": 1}', "[]"])
def test_a_broken_plan_says_what_to_do(tmp_path: Path, text: str) -> None:
    make_plan(tmp_path / "out", ITEMS)
    (find_plan(tmp_path / "out") / "plan.json").write_text(text)
    with pytest.raises(ManifestError, match="remove its folder"):
        read_head(tmp_path / "out")


def test_a_broken_part_of_the_plan_says_what_to_do(tmp_path: Path) -> None:
    make_plan(tmp_path / "out", ITEMS)
    (find_plan(tmp_path / "out") / "part-00000.parquet").write_bytes(b"rubbish")
    with pytest.raises(ManifestError, match="remove its folder"):
        read_identities(tmp_path / "out", 0)


@pytest.mark.parametrize(("n_items", "size"), [(1, 64), (64_000, 64), (1_000_000, 1000)])
def test_parts_grow_with_the_output_so_that_their_number_does_not(n_items: int, size: int) -> None:
    assert choose_part_size(n_items) == size


def test_facts_tell_any_difference_and_not_the_order_of_keys() -> None:
    assert digest_facts({"a": 1, "b": None}) == digest_facts({"b": None, "a": 1})
    assert digest_facts({"a": 1}) != digest_facts({"a": "1"})


def test_an_item_that_lies_elsewhere_now_is_sought_there(tmp_path: Path) -> None:
    moved = dataclasses.replace(ITEMS[1], payload="elsewhere")
    make_plan(tmp_path / "out", ITEMS)
    make_plan(tmp_path / "out", [ITEMS[0], moved])
    assert read_items(tmp_path / "out", 0, {"b"}) == [moved]


def test_a_lost_plan_keeps_what_this_listing_leaves_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    homes = {0: {item.key: item.identity for item in ITEMS}}
    make_plan(out, ITEMS[:1], homes=homes)
    make_plan(out, ITEMS)
    assert read_keys(out) == [["a", "b", "c", "d"]]
    assert read_items(out, 0, {"d"}) == [ITEMS[3]]


@pytest.mark.parametrize("text", ['{"fingerprint": "toy", "items": 1, "parts": "1"}', "7"])
def test_a_plan_of_wrong_types_says_what_to_do(tmp_path: Path, text: str) -> None:
    make_plan(tmp_path / "out", ITEMS)
    (find_plan(tmp_path / "out") / "plan.json").write_text(text)
    with pytest.raises(ManifestError, match="remove its folder"):
        read_head(tmp_path / "out")


def test_a_part_of_the_plan_that_is_another_table_says_what_to_do(tmp_path: Path) -> None:
    make_plan(tmp_path / "out", ITEMS)
    pq.write_table(pa.table({"key": [1]}), find_plan(tmp_path / "out") / "part-00000.parquet")
    with pytest.raises(ManifestError, match="remove its folder"):
        read_identities(tmp_path / "out", 0)


@pytest.mark.parametrize("out", ["here/../there", "there/deep/.."])
def test_what_is_private_lies_beside_the_output_however_that_is_written(
    tmp_path: Path, out: str
) -> None:
    assert find_private(tmp_path / out) == tmp_path / "there.private"


@pytest.mark.parametrize("out", ["/", "memory://", "s3://bucket"])
def test_an_output_that_has_nothing_beside_it_is_wrong_usage(out: str) -> None:
    with pytest.raises(InputError, match="give a folder in it"):
        find_private(open_place(out))
