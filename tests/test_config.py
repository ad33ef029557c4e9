"""Settings: TOML and back, refused with the right word, and one fingerprint."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drrgen.choices import AcquisitionName, Display, Engine, Framing, ImageFormat, Pair, View
from drrgen.config import (
    AugmentConfig,
    Config,
    RenderConfig,
    RunConfig,
    find_fingerprint,
    make_config,
    read_config,
    to_toml,
    with_overrides,
)
from drrgen.errors import ConfigError

LENGTH = st.none() | st.floats(1e-3, 1e5)
TURN = st.tuples(*[st.floats(-1e4, 1e4)] * 3)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
FORMATS = st.lists(st.sampled_from(ImageFormat), min_size=1, unique=True).filter(
    lambda found: not {ImageFormat.PNG8, ImageFormat.PNG16} <= set(found)
)

# The records are built inside the tests: the check of their hints draws random numbers, which a
# strategy must not.
render_keys = st.fixed_dictionaries(
    {
        "dataset": NAME,
        "series": NAME,
        "view": st.lists(st.sampled_from(View), min_size=1, unique=True).map(tuple),
        "size": st.integers(16, 8192),
        "pitch_mm": LENGTH,
        "framing": st.sampled_from(Framing),
        "acquisition": st.none() | st.sampled_from(AcquisitionName),
        "display": st.sampled_from(Display),
        "sid_mm": LENGTH,
        "sod_mm": LENGTH,
        "rotation_deg": TURN,
        "isocenter": st.none() | TURN,
        "kev": st.none() | st.floats(10, 150),
        "dose_ugy": LENGTH,
        "noise": st.booleans(),
        "brightness": st.floats(-1, 1),
        "seed": st.integers(0, 2**63 - 1),
        "views_per_ct": st.integers(1, 1000),
        "pairs": st.lists(st.sampled_from(Pair), unique=True).map(tuple),
        "format": FORMATS.map(tuple),
    }
)
run_keys = st.fixed_dictionaries(
    {
        "engine": st.sampled_from(Engine),
        "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
        "shard_size": st.integers(1, 100_000),
    }
)


@given(render=render_keys, run=run_keys)
def test_any_settings_come_back_from_toml(
    render: dict[str, Any], run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.toml"
    config = Config(render=RenderConfig(**render), run=RunConfig(**run))
    path.write_text(to_toml(config), encoding="utf-8")
    read = read_config(path)
    assert read == config
    assert find_fingerprint(read.render, read.augment) == find_fingerprint(
        config.render, config.augment
    )


def test_the_toml_names_every_key_with_a_comment() -> None:
    for section in dataclasses.fields(Config):
        lines = to_toml(Config(), sections=(section.name,)).splitlines()
        for key in dataclasses.fields(getattr(Config(), section.name)):
            (line,) = [x for x in lines if x.removeprefix("# ").startswith(f"{key.name} =")]
            assert line.endswith(f"  # {key.metadata['text']}")


def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[render]\nview = ["LAT", "ap"]\nsid_mm = 1500\n')
    read = read_config(tmp_path / "a.toml")
    assert read.render == RenderConfig(view=(View.LL, View.AP), sid_mm=1500.0)
    assert read.run == RunConfig()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"render": {"sid": 1800}}, ["unknown key sid", "did you mean sid_mm?"]),
        ({"render": {"pitch": 1}}, ["did you mean pitch_mm?"]),
        ({"run": {"engin": "numba"}}, ["did you mean engine?"]),
        ({"rendr": {}}, ["unknown section rendr", "did you mean render?"]),
        ({"render": {"zzzzzz": 1}}, ["unknown key zzzzzz", "known: dataset"]),
        ({"render": {"view": "PA"}}, ["view", "wanted a list"]),
        ({"render": {"view": ["XX"]}}, ["'XX'", "PA, AP, LL, RL"]),
        ({"render": {"view": []}}, ["view", "at least one"]),
        ({"render": {"view": ["LL", "LAT"]}}, ["each view once"]),
        ({"render": {"size": 1024.5}}, ["size", "wanted int"]),
        ({"render": {"size": True}}, ["size", "wanted int"]),
        ({"render": {"size": 8}}, ["size", "16 to 8192"]),
        ({"render": {"sid_mm": -1}}, ["sid_mm", "positive"]),
        ({"render": {"pitch_mm": float("nan")}}, ["pitch_mm", "positive"]),
        ({"render": {"kev": "60"}}, ["kev", "wanted float"]),
        ({"render": {"rotation_deg": [1, 2]}}, ["rotation_deg", "wanted 3"]),
        ({"render": {"isocenter": [0, 0, float("inf")]}}, ["isocenter", "three finite numbers"]),
        ({"render": {"dataset": ""}}, ["dataset", "a name"]),
        ({"render": {"format": []}}, ["format", "at least one"]),
        ({"render": {"format": ["png8", "png8"]}}, ["format", "each once"]),
        ({"render": {"format": ["png8", "png16"]}}, ["not both"]),
        ({"render": {"framing": "wide"}}, ["collimated, fixed"]),
        ({"render": 3}, ["wanted a [section]"]),
        ({"run": {"device": "tpu"}}, ["device", "cuda:N"]),
        ({"run": {"shard_size": 0}}, ["shard_size", "1 to 100000"]),
    ],
)
def test_what_is_wrong_is_refused_with_what_was_wanted(
    data: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(data)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        read_config(tmp_path / "none.toml")
    for content in (b"[render", b"\xff\xfe"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.toml is not TOML"):
            read_config(tmp_path / "bad.toml")
    (tmp_path / "key.toml").write_text("[render]\nsid = 3\n")
    with pytest.raises(ConfigError, match=r"key\.toml: unknown key sid"):
        read_config(tmp_path / "key.toml")


def test_options_beat_the_file_and_none_is_no_option() -> None:
    base = RenderConfig(size=512, sid_mm=1500.0)
    changed = with_overrides(base, {"size": None, "sid_mm": 1700, "view": ["AP"]})
    assert changed == RenderConfig(size=512, sid_mm=1700.0, view=(View.AP,))
    with pytest.raises(ConfigError, match="did you mean size"):
        with_overrides(base, {"sizes": 3})


@given(keys=render_keys, other=render_keys)
def test_the_fingerprint_differs_exactly_where_settings_do(
    keys: dict[str, Any], other: dict[str, Any]
) -> None:
    first, same = RenderConfig(**keys), RenderConfig(**keys)
    plain = AugmentConfig()
    assert find_fingerprint(first, plain) == find_fingerprint(same, plain)
    for name, value in other.items():
        changed = RenderConfig(**{**keys, name: value})
        alike = find_fingerprint(first, plain) == find_fingerprint(changed, plain)
        assert alike == (first == changed)


def test_the_draws_settings_count_where_there_are_draws() -> None:
    plain, wide = AugmentConfig(), AugmentConfig(shift_mm=50.0)
    one, many = RenderConfig(), RenderConfig(views_per_ct=3)
    assert find_fingerprint(one, plain) == find_fingerprint(one, wide)
    assert find_fingerprint(many, plain) != find_fingerprint(many, wide)
