import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from drrgen_training.encoders import hash_text
from drrgen_training.losses import Modality
from drrgen_training.reports import Template
from drrgen_training.samples import Samples, read_samples
from drrgen_training.targets import (
    EmbedTask,
    Provenance,
    digest_weights,
    embed,
    identify,
    list_items,
    read_targets,
)
from drrgen_training.volumes import CTPlaces
from torch import nn
from trainable import write_trainable

from drrgen.errors import InputError, ManifestError, Reason
from drrgen.io.atomic import digest_file
from drrgen.jobs.runner import Means, Progress


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("d")
    write_trainable(root, n=4, with_ct=True)
    return root


@pytest.fixture(scope="module")
def samples(root: Path) -> Samples:
    return read_samples(root / "CXR")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drrgen.jobs.runner.HANDFUL", 100)


def run(samples: Samples, provenance: Provenance, out: Path, **options: object) -> list[Progress]:
    return list(embed(samples, provenance, out, **options))  # type: ignore[arg-type]


def test_reports_are_embedded_once_each_with_their_provenance(
    samples: Samples, tmp_path: Path
) -> None:
    told = identify(Modality.REPORT, "hashed", Template.SECTIONS)
    run(samples, told, tmp_path / "E")
    found = read_targets(tmp_path / "E")
    assert found.provenance == told
    assert len(found.vectors) == len(samples.texts)
    rows = found.find([row["text"] for row in samples.rows])
    for i, vector in enumerate(found.take(rows)):
        wanted = hash_text(samples.texts[samples.report[i]], 2048)
        np.testing.assert_allclose(vector.numpy(), wanted, atol=1e-6)


def test_a_name_that_was_not_embedded_gives_no_vector(samples: Samples, tmp_path: Path) -> None:
    run(samples, identify(Modality.REPORT, "hashed", Template.SECTIONS), tmp_path / "E")
    found = read_targets(tmp_path / "E")
    rows = found.find([None, "unknown", samples.rows[0]["text"]])
    assert rows.tolist()[:2] == [-1, -1] and rows[2] >= 0
    vectors = found.take(rows)
    assert not vectors[:2].any() and vectors[2].norm().item() == pytest.approx(1)


def test_ct_and_radiographs_are_embedded_to_unit_vectors(
    root: Path, samples: Samples, tmp_path: Path
) -> None:
    places = CTPlaces(root=root / "CT")
    for modality, name in ((Modality.CT, "tiny3d"), (Modality.CXR, "tiny:32")):
        told = identify(modality, name, Template.SECTIONS)
        assert told.template is None
        last = run(samples, told, tmp_path / modality, places=places)[-1]
        assert (last.done, last.failed) == (4, 0)
        found = read_targets(tmp_path / modality)
        np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
        assert not np.allclose(found.vectors[0], found.vectors[1])
        assert set(found.places) == {
            f"s{i:03d}" + ("_PA_0" if modality is Modality.CXR else "") for i in range(4)
        }


def test_a_second_run_does_nothing_and_new_samples_are_added(tmp_path: Path) -> None:
    told = identify(Modality.REPORT, "hashed", Template.SECTIONS)
    few = read_samples(write_trainable(tmp_path / "few", n=2))
    more = read_samples(write_trainable(tmp_path / "more", n=8))
    run(few, told, tmp_path / "E")
    before = (tmp_path / "E" / "manifest" / "part-00000.parquet").read_bytes()
    assert run(few, told, tmp_path / "E")[-1].total == 0
    assert (tmp_path / "E" / "manifest" / "part-00000.parquet").read_bytes() == before
    run(more, told, tmp_path / "E")
    assert len(read_targets(tmp_path / "E").vectors) == len(set(few.texts) | set(more.texts))


def test_ct_that_moved_are_not_embedded_again(root: Path, samples: Samples, tmp_path: Path) -> None:
    """The manifest names them by content; where they lie is no part of it."""
    told = identify(Modality.CT, "tiny3d", Template.SECTIONS)
    run(samples, told, tmp_path / "E", places=CTPlaces(root=root / "CT"))
    (tmp_path / "elsewhere").mkdir()
    last = run(samples, told, tmp_path / "E", places=CTPlaces(root=tmp_path / "elsewhere"))[-1]
    assert (last.total, last.kept) == (0, 4)


def test_embeddings_of_two_encoders_are_never_mixed(samples: Samples, tmp_path: Path) -> None:
    sections = identify(Modality.REPORT, "hashed", Template.SECTIONS)
    findings = identify(Modality.REPORT, "hashed", Template.FINDINGS)
    assert sections.encoder_id != findings.encoder_id
    run(samples, sections, tmp_path / "E")
    with pytest.raises(ManifestError, match=r"was made with other settings"):
        run(samples, findings, tmp_path / "E")
    run(samples, findings, tmp_path / "E", overwrite=True)
    assert read_targets(tmp_path / "E").provenance == findings


def test_parts_put_together_by_hand_are_refused(samples: Samples, tmp_path: Path) -> None:
    for name, template in (("A", Template.SECTIONS), ("B", Template.FINDINGS)):
        run(samples, identify(Modality.REPORT, "hashed", template), tmp_path / name)
    alien = (tmp_path / "B" / "manifest" / "part-00000.parquet").read_bytes()
    (tmp_path / "A" / "manifest" / "part-00001.parquet").write_bytes(alien)
    head = json.loads((tmp_path / "A" / "manifest.json").read_text())
    head["parts"].append({"name": "part-00001.parquet"})
    (tmp_path / "A" / "manifest.json").write_text(json.dumps(head))
    with pytest.raises(ManifestError, match=r"embeddings of 2 encoders, wanted one"):
        read_targets(tmp_path / "A")
    (tmp_path / "A" / "manifest" / "part-00000.parquet").write_bytes(alien)
    with pytest.raises(ManifestError, match=r"its parts are of"):
        read_targets(tmp_path / "A")
    with pytest.raises(ManifestError, match=r"no finished embeddings; run drrgen embed"):
        read_targets(tmp_path)


def test_the_id_of_an_encoder_follows_its_weights_and_not_its_path(tmp_path: Path) -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    assert digest_weights(a) != digest_weights(b)
    b.load_state_dict(a.state_dict())
    assert digest_weights(a) == digest_weights(b)


def test_an_item_that_cannot_be_embedded_costs_its_own_row(
    root: Path, samples: Samples, tmp_path: Path
) -> None:
    """A CT that is no CT is refused; one that is gone has failed, and is tried again."""
    (tmp_path / "CT").mkdir()
    for i in (0, 1):
        name = f"s{i:03d}.nii.gz"
        (tmp_path / "CT" / name).write_bytes((root / "CT" / name).read_bytes())
    (tmp_path / "CT" / "s001.nii.gz").write_bytes(b"no CT")
    told = identify(Modality.CT, "tiny3d", Template.SECTIONS)
    last = run(samples, told, tmp_path / "E", places=CTPlaces(root=tmp_path / "CT"))[-1]
    assert (last.done, last.refused, last.failed) == (4, 1, 2)
    assert set(read_targets(tmp_path / "E").places) == {"s000"}
    rows = pq.read_table(tmp_path / "E" / "manifest" / "part-00000.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "refused", "failed", "failed"]
    assert rows[2]["reason"] == Reason.IO_ERROR and rows[1]["embedding"] is None
    for i in (2, 3):
        name = f"s{i:03d}.nii.gz"
        (tmp_path / "CT" / name).write_bytes((root / "CT" / name).read_bytes())
    last = run(samples, told, tmp_path / "E", places=CTPlaces(root=tmp_path / "CT"))[-1]
    assert (last.done, last.failed, last.kept) == (2, 0, 2)
    assert len(read_targets(tmp_path / "E").places) == 3


def test_a_data_set_without_reports_is_told(tmp_path: Path) -> None:
    bare = write_trainable(tmp_path, n=2, report_findings=None, report_impression=None)
    told = identify(Modality.REPORT, "hashed", Template.SECTIONS)
    with pytest.raises(InputError, match=r"no report to embed; .* drrgen build --reports"):
        run(read_samples(bare), told, tmp_path / "E")


def test_a_vector_that_is_not_finite_is_a_failure(samples: Samples, tmp_path: Path) -> None:
    told = identify(Modality.CXR, "tiny:32", Template.SECTIONS)
    task = EmbedTask(out=tmp_path, provenance=told)
    (item, *_) = list_items(samples, Modality.CXR, CTPlaces(root=None))
    (good,) = task(item)
    assert good["status"] == "ok"
    from drrgen_training.targets import load_tower

    tower = load_tower(Modality.CXR, "tiny:32", "cpu")
    weight = next(tower.parameters())
    kept = weight.clone()
    weight.data.fill_(torch.nan)
    (row,) = task(item)
    weight.data.copy_(kept)
    assert (row["status"], row["reason"]) == ("failed", "crashed")
    assert "not finite" in row["detail"]
    assert isinstance(task.to_table([good, row]), pa.Table)


@pytest.mark.slow
def test_workers_embed_the_same(samples: Samples, tmp_path: Path) -> None:
    told = identify(Modality.REPORT, "hashed", Template.SECTIONS)
    run(samples, told, tmp_path / "here")
    run(samples, told, tmp_path / "there", means=Means(workers=2))
    here, there = (read_targets(tmp_path / name) for name in ("here", "there"))
    assert np.array_equal(here.vectors, there.vectors) and here.places == there.places


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("summary", "no finished embeddings"), ("part", "no finished embeddings"),
        ("told", "do not tell their encoder"), ("column", "are not as drrgen embed wrote them"),
        ("width", "are not as drrgen embed wrote them"), ("zero", "not of length one"),
        ("scaled", "not of length one"),
    ],
)  # fmt: skip
def test_damaged_embeddings_are_refused(
    samples: Samples, tmp_path: Path, change: str, said: str
) -> None:
    run(samples, identify(Modality.REPORT, "hashed", Template.SECTIONS), tmp_path)
    summary = json.loads((tmp_path / "manifest.json").read_text())
    path = next((tmp_path / "manifest").glob("*.parquet"))
    table = pq.read_table(path)
    place = table.schema.get_field_index("embedding")
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    match change:
        case "summary":
            (tmp_path / "manifest.json").write_text("[]")
        case "part":
            path.write_bytes(path.read_bytes()[:-20])
        case "told":
            pq.write_table(table.replace_schema_metadata({b"drrgen_embedding": b"{}"}), path)
        case "column":
            pq.write_table(table.drop(["embedding"]), path)
        case _:
            made = {"width": vectors[:, 1:], "zero": 0 * vectors, "scaled": 3 * vectors}[change]
            kind = pa.list_(pa.float32(), made.shape[1])
            column = pa.array(made.tolist(), kind)
            pq.write_table(table.set_column(place, "embedding", column), path)
    with pytest.raises(ManifestError, match=r"embed anew|run drrgen embed first"):
        read_targets(tmp_path)
    if change != "summary":
        (tmp_path / "manifest.json").write_text(json.dumps(summary | {
            "parts": [part | {"sha256": digest_file(tmp_path / "manifest" / part["name"])}
                      for part in summary["parts"]]
        }))  # fmt: skip
        with pytest.raises(ManifestError, match=said):
            read_targets(tmp_path)
