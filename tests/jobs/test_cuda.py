"""A worker for each card, here on cards that are only names: no GPU is touched."""

import os
from pathlib import Path

import pytest
from fleets import SlowTask
from toys import make_items

from drrgen.jobs import cluster
from drrgen.jobs.cluster import open_cluster, work_on_cluster
from drrgen.jobs.sites import make_cluster, make_site
from drrgen.jobs.work import Job


def read_card() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_worker_sees_its_own_card_and_does_one_item_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "find_cards", lambda _: ["4", "GPU-abc"])
    where = make_cluster("cuda", make_site({"cuda": {"memory": "1GB"}}))
    task = SlowTask(tmp_path, nap_s=0.0)
    jobs = [Job(item=item, part=0) for item in make_items(a="1", b="2", c="3")]
    with open_cluster(task, where, None, len(jobs)) as fleet:
        assert sorted(fleet.client.run(read_card).values()) == ["4", "GPU-abc"]
        assert list(fleet.client.nthreads().values()) == [1, 1]
        assert fleet.resources == {"GPU": 1}
        done = list(work_on_cluster(fleet, task, iter(jobs), tmp_path, timeout_s=30.0))
    assert [each.status for each in done] == ["ok"] * 3


def count_cards() -> int:
    import torch

    return torch.cuda.device_count()


@pytest.mark.gpu
def test_each_worker_of_this_machine_has_one_card(tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with open_cluster(SlowTask(tmp_path), make_cluster("cuda")) as fleet:
        found = list(fleet.client.run(count_cards).values())
        assert found == [1] * torch.cuda.device_count()
