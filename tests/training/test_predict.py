import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
import tifffile
import torch
from drrgen_training import predict as module
from drrgen_training.encoders import make_image_encoder
from drrgen_training.evaluation.embed import embed_pictures, embed_run
from drrgen_training.losses import Modality
from drrgen_training.model import BEST, TriModal, load_run, read_model, save_model
from drrgen_training.pictures import Fit, PackSettings, PictureFiles, open_pictures
from drrgen_training.predict import Prediction, predict
from drrgen_training.predicted import (
    TableFormat,
    check_columns,
    make_page,
    make_table,
    write_predictions,
)
from drrgen_training.predictor import PredictSettings, load_predictor
from drrgen_training.reports import Template
from drrgen_training.samples import read_samples
from drrgen_training.settings import read_settings
from drrgen_training.targets import embed, identify, read_targets
from PIL import Image
from pydicom.dataset import Dataset
from safetensors.torch import save_file
from trainable import write_trainable

from drrgen.choices import ImageFormat, View
from drrgen.errors import ConfigError, InputError, ManifestError, Reason
from drrgen.io.dicom_radiographs import DicomFacts
from drrgen.io.radiograph_listing import find_radiographs
from drrgen.io.radiographs import write_radiograph

ROUNDING_TOL = 4e-3  # of an embedding: one grey level of 8 bits, on some pixels
SCALE = 10.0
LABELS = ("Left mass", "Upper mass")
NAMES = {"PatientName": "Doe^Jane", "PatientID": "MRN-4711", "InstitutionName": "St Elsewhere",
         "AccessionNumber": "ACC-0815"}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, embedded reports, and a run of random weights that names them."""
    root = tmp_path_factory.mktemp("predict")
    data = write_trainable(root, n=12)
    told = identify(Modality.REPORT, "hashed", Template.SECTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drrgen.jobs.runner.HANDFUL", 1000)
        list(embed(read_samples(data), told, root / "report"))
    save_run(root / "RUN", report=told.encoder_id)
    return root


def save_run(run: Path, *words: str, report: str | None = None, pack: dict | None = None,
             recipe: bool = True) -> Path:  # fmt: skip
    dim = identify(Modality.REPORT, "hashed", Template.SECTIONS).dim
    settings = read_settings(None, (
        "model.cxr=tiny:32", f"model.dim={dim}", "model.ct=none", "loss.gamma=0",
        "loss.scale=fixed", f"loss.scale_value={SCALE}", *words,
    ))  # fmt: skip
    torch.manual_seed(0)
    targets = {} if report is None else {"report": report}
    told = {"identity": {"pack": pack, "targets": targets}}
    save_model(run / BEST, TriModal(settings).own_state(), settings, told)
    if recipe:
        (run / "config.toml").write_text(settings.to_toml())
    return run


def tell(run: Path, images: Path, **settings: Any) -> list[Prediction]:
    predictor = load_predictor(run, PredictSettings(**settings))
    return [each for batch in predict(predictor, find_radiographs(images).found) for each in batch]


def make_facts(view: str = "PA") -> DicomFacts:
    return DicomFacts(patient_id="a", study_id="b", sample_id="c", view=view, draw=0, pitch_mm=0.4)


def make_grey(shape: tuple[int, int] = (48, 40)) -> torch.Tensor:
    """Smooth, brighter to one corner; every grey is a whole one of 8 bits."""
    v, u = torch.meshgrid(*(torch.linspace(0, 1, n) for n in shape), indexing="ij")
    return ((v * 0.7 + u * 0.3) * 255).round() / 255


def write_dicom(path: Path, grey: torch.Tensor, view: str = "PA", **elements: object) -> None:
    write_radiograph(path, grey, facts=make_facts(view))
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_a_radiograph_is_embedded_as_evaluation_does(trained: Path) -> None:
    samples = read_samples(trained / "CXR")
    targets = {"report": read_targets(trained / "report")}
    size = round(make_image_encoder("tiny:32").spec.size * 1.15)
    tower = load_run(trained / "RUN", Modality.CXR).eval()
    wanted = embed_run(samples, open_pictures(samples, None, size), tower, targets)
    told = {each.name: each for each in tell(trained / "RUN", trained / "CXR" / "images")}
    for row, vector in zip(samples.rows, wanted.vectors["cxr"], strict=True):
        found = told[row["cxr_path"].removeprefix("images/")].embedding
        np.testing.assert_allclose(found, vector, atol=1e-6)


@pytest.mark.parametrize("fit", list(Fit))
def test_the_square_is_that_of_the_pack(trained: Path, tmp_path: Path, fit: Fit) -> None:
    run = save_run(tmp_path / "R", pack={"size": 50, "fit": fit.value, "version": 1})
    samples = read_samples(trained / "CXR")
    pictures = PictureFiles(samples, PackSettings(size=50, fit=fit))
    tower = load_run(run, Modality.CXR).eval()
    wanted = np.concatenate(list(embed_pictures(tower, pictures, len(samples))))
    told = {each.name: each for each in tell(run, trained / "CXR" / "images")}
    found = [told[row["cxr_path"].removeprefix("images/")].embedding for row in samples.rows]
    np.testing.assert_allclose(np.stack(found), wanted, atol=1e-6)


def test_one_picture_in_every_format_gives_one_embedding(trained: Path, tmp_path: Path) -> None:
    grey = make_grey()
    pixels = (grey * 255).round().numpy().astype(np.uint8)
    write_radiograph(tmp_path / "a.png", grey, format=ImageFormat.PNG8)
    write_radiograph(tmp_path / "b.png", grey)
    write_dicom(tmp_path / "c.dcm", grey)
    write_dicom(tmp_path / "d.dcm", 1 - grey, PhotometricInterpretation="MONOCHROME1",
                PresentationLUTShape="INVERSE")  # fmt: skip
    # Values of 1000 to 2020 that a window stretches to the range: PS3.3 C.11.2.1.2.1.
    stored = (1000 + grey * 1020).round()
    write_dicom(tmp_path / "e.dcm", stored / 65535, WindowCenter="1510.5", WindowWidth="1021")
    write_dicom(tmp_path / "f.dcm", grey, BitsAllocated=8, BitsStored=8, HighBit=7,
                WindowCenter="128", WindowWidth="256", PixelData=pixels.tobytes())  # fmt: skip
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [256, 0, 16], (np.arange(256) * 257).astype("<u2").tobytes()
    write_dicom(tmp_path / "g.dcm", (grey * 255).round() / 65535, VOILUTSequence=[lut])
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "h.jpg", quality=100)
    for name, mode in (("i", "RGB"), ("j", "RGBA"), ("k", "P")):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{name}.png")
    tifffile.imwrite(tmp_path / "l.tif", 255 - pixels, photometric="miniswhite")
    Image.fromarray((grey * 4095).round().numpy().astype(np.uint16)).save(tmp_path / "m.png")
    told = tell(trained / "RUN", tmp_path)
    assert len(told) == 13 and all(each.reason is None for each in told)
    for each in told:
        np.testing.assert_allclose(each.embedding, told[0].embedding, atol=ROUNDING_TOL,
                                   err_msg=each.name)  # fmt: skip
    assert told[-1].warnings == ("16 bits that use 12: white is taken as 4095",)
    # The tolerance tells a negative and a mirror image.
    write_radiograph(tmp_path / "x" / "negative.png", 1 - grey)
    write_radiograph(tmp_path / "x" / "mirrored.png", grey.flip(1))
    for each in tell(trained / "RUN", tmp_path / "x"):
        assert abs(each.embedding - told[0].embedding).max() > 3 * ROUNDING_TOL


def test_what_is_no_radiograph_costs_one_row_each(trained: Path, tmp_path: Path) -> None:
    write_radiograph(tmp_path / "good.png", make_grey())
    (alone,) = tell(trained / "RUN", tmp_path)
    (tmp_path / "empty.png").touch()
    (tmp_path / "rubbish.png").write_bytes(b"rubbish" * 100)
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:90])
    (tmp_path / "empty.dcm").touch()
    write_dicom(tmp_path / "ct.dcm", make_grey(), Modality="CT",
                SOPClassUID=pydicom.uid.CTImageStorage)  # fmt: skip
    Image.new("L", (1, 1), 9).save(tmp_path / "one.png")
    Image.new("L", (3000, 1), 9).save(tmp_path / "wide.png")
    (tmp_path / "notes.txt").write_text("no radiograph")
    told = {each.name: each for each in tell(trained / "RUN", tmp_path)}
    empty = told.pop("empty.dcm")
    assert empty.status == "refused" and empty.reason in (
        Reason.NOT_RADIOGRAPH, Reason.TRUNCATED_FILE
    )  # fmt: skip
    assert {name: each.reason for name, each in told.items()} == {
        "good.png": None, "one.png": None, "wide.png": None, "ct.dcm": Reason.NOT_RADIOGRAPH,
        "cut.png": Reason.TRUNCATED_FILE, "empty.png": Reason.TRUNCATED_FILE,
        "rubbish.png": Reason.TRUNCATED_FILE,
    }  # fmt: skip
    assert all(each.detail and each.embedding is None for each in told.values() if each.reason)
    np.testing.assert_allclose(told["good.png"].embedding, alone.embedding, atol=1e-6)
    assert "small: 1 x 1 pixels" in told["one.png"].warnings[0]
    assert any("long" in warning for warning in told["wide.png"].warnings)
    assert any("hardly any contrast" in warning for warning in told["one.png"].warnings)


def test_a_photograph_in_colours_is_a_warning_and_a_grey_picture_with_a_mark_is_none(
    trained: Path, tmp_path: Path
) -> None:
    grey = (make_grey((96, 80)) * 255).numpy().astype(np.uint8)
    marked = np.stack([grey] * 3, axis=2)
    marked[2:8, 2:12] = (255, 0, 0)  # an arrow
    Image.fromarray(marked).save(tmp_path / "marked.png")
    Image.fromarray(np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2)).save(
        tmp_path / "photo.jpg"
    )
    told = {each.name: each for each in tell(trained / "RUN", tmp_path)}
    assert told["marked.png"].warnings == ()
    assert told["photo.jpg"].warnings == ("colours: a photograph, or no radiograph",)


def test_a_file_that_goes_away_or_crashes_fails_alone(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_radiograph(tmp_path / f"{name}.png", make_grey())
    files = find_radiographs(tmp_path).found
    (tmp_path / "a.png").unlink()
    read = module.read_radiograph

    def crash(path: Path) -> object:
        if path.name == "b.png":
            raise RuntimeError("a bug")
        return read(path)

    monkeypatch.setattr(module, "read_radiograph", crash)
    (told,) = predict(load_predictor(trained / "RUN", PredictSettings()), files)
    assert [each.reason for each in told] == [Reason.IO_ERROR, Reason.CRASHED, None]
    assert [each.status for each in told] == ["failed", "failed", "ok"]


def test_many_files_come_back_in_their_order(trained: Path, tmp_path: Path) -> None:
    for i in range(150):
        name = tmp_path / f"{i:03d}.png"
        if i % 7:
            Image.fromarray(np.full((9, 9), i, np.uint8)).save(name)
        else:
            name.touch()
    predictor = load_predictor(trained / "RUN", PredictSettings())
    batches = list(predict(predictor, find_radiographs(tmp_path).found, thumbnails=5))
    assert [len(batch) for batch in batches] == [64, 64, 22]
    told = [each for batch in batches for each in batch]
    assert [each.name for each in told] == [f"{i:03d}.png" for i in range(150)]
    assert [each.reason is None for each in told] == [i % 7 != 0 for i in range(150)]
    assert [i for i, each in enumerate(told) if each.thumbnail] == [1, 2, 3, 4]


def test_another_view_or_body_part_is_a_warning(tmp_path: Path) -> None:
    run = save_run(tmp_path / "R", 'data.view=["PA"]')
    write_dicom(tmp_path / "I" / "a.dcm", make_grey(), BodyPartExamined="KNEE OF DOE")
    write_dicom(tmp_path / "I" / "b.dcm", make_grey(), view="LL")
    write_radiograph(tmp_path / "I" / "c.png", make_grey())
    a, b, c = tell(run, tmp_path / "I")
    assert (a.view, b.view, c.view) == (View.PA, View.LL, None)
    assert a.warnings == ("the body part is not the chest",)
    assert b.warnings == ("the view is LL, the training saw PA",) and c.warnings == ()


def test_findings_come_from_the_sentences_of_the_report_encoder(trained: Path) -> None:
    images = trained / "CXR" / "images"
    by_targets = tell(trained / "RUN", images, targets=trained / "report", labels=LABELS)
    by_name = tell(trained / "RUN", images, report_encoder="hashed", labels=LABELS)
    assert [each.scores for each in by_targets] == [each.scores for each in by_name]
    predictor = load_predictor(
        trained / "RUN", PredictSettings(report_encoder="hashed", labels=LABELS)
    )
    sentences = predictor.findings.sentences
    axis = sentences["There is left mass."] - sentences["There is no left mass."]
    for each in by_name:
        assert list(each.scores) == list(LABELS)
        wanted = 1 / (1 + np.exp(-SCALE * float(each.embedding @ axis)))
        assert each.scores["Left mass"] == pytest.approx(wanted, abs=1e-5)
    default = load_predictor(trained / "RUN", PredictSettings(report_encoder="hashed"))
    assert len(default.labels) == 18 and "Pleural effusion" in default.labels


def test_the_nearest_reports_are_those_of_the_largest_cosines(trained: Path) -> None:
    asked = {"targets": trained / "report", "like": trained / "CXR"}
    told = tell(trained / "RUN", trained / "CXR" / "images", **asked, neighbours=3)
    targets, samples = read_targets(trained / "report"), read_samples(trained / "CXR")
    for each in told:
        cosines = sorted(targets.vectors @ each.embedding, reverse=True)
        assert [near.cosine for near in each.reports] == pytest.approx(cosines[:3], abs=1e-5)
        for near in each.reports:
            (row,) = [row for row in samples.rows if row["sample_id"] == near.name]
            vector = targets.vectors[targets.places[row["text"]]]
            assert near.cosine == pytest.approx(float(vector @ each.embedding), abs=1e-5)
            assert near.text in samples.texts
    many = load_predictor(trained / "RUN", PredictSettings(**asked, neighbours=99))
    assert many.n_reports == len(samples.texts)


def test_a_report_encoder_of_another_training_is_refused(trained: Path, tmp_path: Path) -> None:
    run = save_run(tmp_path / "R", report="0123456789abcdef")
    for how in ({"report_encoder": "hashed"}, {"targets": trained / "report"}):
        with pytest.raises(ManifestError, match="trained on 0123456789abcdef"):
            load_predictor(run, PredictSettings(**how))
    assert load_predictor(run, PredictSettings()).findings is None


def test_a_run_that_ran_its_own_report_encoder_needs_no_other(tmp_path: Path) -> None:
    run = save_run(tmp_path / "R", "model.report=hashed", 'model.train=["cxr", "report"]')
    predictor = load_predictor(run, PredictSettings(labels=LABELS))
    assert predictor.labels == LABELS and predictor.notes == ()
    with pytest.raises(ManifestError, match="mean nothing"):
        load_predictor(run, PredictSettings(report_encoder="hashed"))


def test_what_is_not_known_is_noted(tmp_path: Path) -> None:
    run = save_run(tmp_path / "R", recipe=False)
    plain = load_predictor(run, PredictSettings()).notes
    assert any("embeddings only" in note and "--report-encoder" in note for note in plain)
    assert not any("views" in note for note in plain)  # the weights tell them
    notes = load_predictor(run, PredictSettings(report_encoder="hashed")).notes
    assert any("shares its space is not known" in note for note in notes)
    settings = read_settings(None, ("model.cxr=tiny:32",))
    save_model(tmp_path / "OLD" / BEST, TriModal(settings).own_state(), settings, {"views": None})
    old = load_predictor(tmp_path / "OLD", PredictSettings())
    assert any("they are padded" in note for note in old.notes) and old.square.fit is Fit.PAD
    assert any("do not tell the views" in note for note in old.notes)
    identity = {"identity": {"pack": {"size": 40, "fit": "crop"}, "targets": {}}}
    (tmp_path / "OLD" / "run.json").write_text(json.dumps(identity))
    again = load_predictor(tmp_path / "OLD", PredictSettings())
    assert again.square == PackSettings(size=40, fit=Fit.CROP)


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"labels": LABELS}, InputError, "labels need an encoder of reports"),
        ({"report_encoder": "none-such"}, ConfigError, "none-such"),
        ({"report_encoder": "hashed", "prompts": "none-such"}, ConfigError, "none-such"),
        ({"targets": Path("nowhere")}, ManifestError, "no finished embeddings"),
    ],
)
def test_what_is_wrong_is_said(trained: Path, settings: dict, kind: type, said: str) -> None:
    with pytest.raises(kind, match=said):
        load_predictor(trained / "RUN", PredictSettings(**settings))


def test_impossible_wishes_are_refused(trained: Path) -> None:
    with pytest.raises(InputError, match=r"the label \\xff is no text in UTF-8"):
        PredictSettings(labels=("\udcff",))
    for settings, said in (({"like": Path("x")}, "--targets"), ({"neighbours": 0}, "at least 1"),
                           ({"labels": ("Mass", " ")}, "empty")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            PredictSettings(**settings)
    asked = PredictSettings(report_encoder="hashed", labels=("status", "Mass"))
    with pytest.raises(InputError, match="called status"):
        check_columns(load_predictor(trained / "RUN", asked))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": None}, "holds no model of drrgen train"),
        ({"loss": {}}, "holds no model of drrgen train"),
        ({"loss": {"kind": "x"}}, "holds no model of drrgen train"),
        ({"model": {"cxr": "tiny:32", "train": ["cxr"], "report": "none", "dim": 64}},
         "1 tensors do not fit, such as head.weight"),
        ({"identity": [1]}, "does not tell what it was trained on"),
        ({"identity": {"targets": 5}}, "does not tell what it was trained on"),
        ({"identity": {"pack": {"size": "x"}}}, "wanted a size and a fit"),
        ({"identity": {"pack": {"size": 64, "fit": "x"}}}, "wanted a size and a fit"),
        ("head.weight", "not finite in 1 tensors, such as head.weight"),
        ("scale.log_scale", "factor of the cosines is not finite"),
    ],
)  # fmt: skip
def test_weights_that_are_damaged_are_told(
    trained: Path, tmp_path: Path, change: Any, said: str
) -> None:
    state, meta = read_model(trained / "RUN" / BEST)
    if isinstance(change, str):
        for name, tensor in state.items():
            if name.endswith(change):
                tensor.fill_(float("nan"))
    else:
        meta |= change
    save_file(state, tmp_path / BEST, metadata={"model": json.dumps(meta)})
    with pytest.raises(InputError, match=said):
        load_predictor(tmp_path, PredictSettings())


def test_reports_that_nobody_embedded_are_told(trained: Path, tmp_path: Path) -> None:
    other = write_trainable(tmp_path, n=3, report_findings="Another text.")
    with pytest.raises(InputError, match="among the targets"):
        load_predictor(trained / "RUN", PredictSettings(targets=trained / "report", like=other))


def test_the_tables_hold_what_was_told(trained: Path, tmp_path: Path) -> None:
    odd = 'a, "quoted"\n.png'
    write_radiograph(tmp_path / "I" / "b.png", make_grey(), settings={"drrgen:view": "PA"})
    (tmp_path / "I" / odd).touch()
    predictor = load_predictor(trained / "RUN", PredictSettings(
        targets=trained / "report", like=trained / "CXR", neighbours=2, labels=LABELS))  # fmt: skip
    (told,) = predict(predictor, find_radiographs(tmp_path / "I").found)
    paths = write_predictions(predictor, told, tmp_path / "O")
    assert [path.name for path in paths] == ["predictions.csv", "embeddings.parquet", "index.html"]
    table = pd.read_csv(paths[0])
    assert list(table) == [
        "path",
        "status",
        "reason",
        "detail",
        "view",
        "warnings",
        *LABELS,
        "report_1",
        "cosine_1",
        "text_1",
        "report_2",
        "cosine_2",
        "text_2",
    ]
    bad, good = table.to_dict("records")
    assert bad["path"] == odd and bad["status"] == "refused"
    assert np.isnan(bad["Left mass"]) and bad["reason"] == "truncated_file"
    assert good["Left mass"] == pytest.approx(told[1].scores["Left mass"], abs=1e-6)
    assert good["report_1"] == told[1].reports[0].name and good["view"] == "PA"
    assert good["text_2"] == told[1].reports[1].text
    vectors = pq.read_table(paths[1])
    assert vectors["name"].to_pylist() == ["b.png"]
    np.testing.assert_array_equal(vectors["embedding"].to_pylist()[0], told[1].embedding)
    write_predictions(predictor, told, tmp_path / "O", format=TableFormat.PARQUET)
    assert pq.read_table(tmp_path / "O" / "predictions.parquet").equals(make_table(predictor, told))
    # The CSV would tell of an earlier call, and nothing half-written is left.
    assert sorted(path.name for path in (tmp_path / "O").iterdir()) == [
        "embeddings.parquet", "index.html", "predictions.parquet"
    ]  # fmt: skip


def test_a_file_named_like_a_formula_runs_nothing_and_keeps_its_path(
    trained: Path, tmp_path: Path
) -> None:
    names = ("=1+1.png", "@a.png", "-b.png", "a=b.png")
    for name in names:
        write_radiograph(tmp_path / "I" / name, make_grey())
    predictor = load_predictor(trained / "RUN", PredictSettings())
    (told,) = predict(predictor, find_radiographs(tmp_path / "I").found)
    write_predictions(predictor, told, tmp_path / "O")
    paths = pd.read_csv(tmp_path / "O" / "predictions.csv")["path"].tolist()
    assert paths == ["./-b.png", "./=1+1.png", "./@a.png", "a=b.png"]
    assert all((tmp_path / "I" / path).is_file() for path in paths)
    assert pq.read_table(tmp_path / "O" / "embeddings.parquet")["name"].to_pylist() == paths


def test_a_killed_writer_leaves_no_page_of_another_call(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_radiograph(tmp_path / "I" / "a.png", make_grey())
    predictor = load_predictor(trained / "RUN", PredictSettings())
    (told,) = predict(predictor, find_radiographs(tmp_path / "I").found)
    write_predictions(predictor, told, tmp_path / "O")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drrgen_training.predicted._write_csv", stop)
    with pytest.raises(KeyboardInterrupt):
        write_predictions(predictor, told, tmp_path / "O")
    left = sorted(path.name for path in (tmp_path / "O").iterdir())
    assert left == ["embeddings.parquet", "predictions.csv"]


def test_nothing_readable_still_makes_whole_files(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    predictor = load_predictor(trained / "RUN", PredictSettings())
    (told,) = predict(predictor, find_radiographs(tmp_path).found)
    table, vectors, page = write_predictions(predictor, told, tmp_path / "O")
    assert len(pd.read_csv(table)) == 1 and len(pq.read_table(vectors)) == 0
    assert "Not told of: 1 files" in page.read_text()


def test_names_of_patients_stay_in_their_files(trained: Path, tmp_path: Path) -> None:
    write_dicom(tmp_path / "x.dcm", make_grey(), **NAMES)
    write_dicom(tmp_path / "y.dcm", make_grey(), PixelData=b"\0\0", **NAMES)
    predictor = load_predictor(trained / "RUN", PredictSettings(report_encoder="hashed"))
    (told,) = predict(predictor, find_radiographs(tmp_path).found, thumbnails=9)
    assert [each.status for each in told] == ["ok", "refused"]
    for path in write_predictions(predictor, told, tmp_path / "O"):
        content = path.read_bytes()
        assert not [name for name in NAMES.values() if name.encode() in content], path


def test_the_page_is_escaped_whole_and_short(trained: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)<"
    for name in (f"{evil}a.png", f"{evil}b.png", "c.png"):
        write_radiograph(tmp_path / name, make_grey())
    (tmp_path / f"{evil}d.png").touch()
    predictor = load_predictor(trained / "RUN", PredictSettings(
        targets=trained / "report", like=trained / "CXR", labels=("<b>mass</b>", *LABELS)))  # fmt: skip
    (told,) = predict(predictor, find_radiographs(tmp_path).found, thumbnails=2)
    near = replace(told[0].reports[0], text="<img src=x onerror=alert(1)> " * 50)
    told[0] = replace(told[0], reports=(near,), warnings=("<i>",))
    page = make_page(predictor, told, 2)
    assert "<script" not in page and "<b>" not in page and "<img src=x" not in page
    assert "&lt;script&gt;" in page and "&lt;b&gt;mass" in page and "http:" not in page
    assert page.count("<article>") == 2 and page.count("data:image/png;base64,") == 2
    assert "3 of 4 files" in page and "first 2" in page and "Not for diagnosis" in page
    assert "d.png</td>" in page and " …" in page
    assert make_page(predictor, told, 0).count("<article>") == 0
