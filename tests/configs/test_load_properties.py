"""Properties of the loader: what is dumped loads to an equal object, and no text makes it fail in another way."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loader_schema import GOOD, CnnConfig, GossipConfig, MlpConfig, NoneConfig, Schema, TrainConfig

from configs import ConfigError, Custom, dump, load

pytestmark = pytest.mark.timeout(60)

TEXT = st.text(st.characters(codec="utf-8")) | st.sampled_from(
    [
        "on",
        "1e-4",
        "010",
        "1:30",
        "null",
        "",
        "<<",
        "=",
        " a ",
        "a: b",
        "- x",
        "\n",
        "a\n\nb\n",
        "\x85",
        "\u2028",
        "#",
        "!x",
    ]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
OPTIONS = st.dictionaries(
    TEXT | st.sampled_from(["model_config", "options", "model_fields", "__dict__"]),
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5),
)


def custom(options: dict[str, Any]) -> Custom:
    """A `Custom` of the schema's own class."""
    model = Schema.model_validate({"model": {**options, "name": "my.module:Net"}, "train": TrainConfig(steps=1)}).model
    assert isinstance(model, Custom)
    return model


MODEL = (
    st.builds(MlpConfig, width=st.integers(min_value=1), mlp=FLOATS)
    | st.builds(CnnConfig, channels=st.lists(st.integers()).map(tuple), activation=st.sampled_from(["relu", "maxmin"]))
    | OPTIONS.map(custom)
)
RHO = st.floats(min_value=0, max_value=1, exclude_min=True).filter(lambda rho: rho != 0.333)
TRAIN = st.builds(
    TrainConfig,
    steps=st.integers(min_value=0),
    lr=FLOATS.filter(lambda lr: lr != 7),
    warmup=st.just("auto") | FLOATS,
    milestones=st.lists(st.integers(), max_size=3),
    note=st.none() | TEXT,
)
RUN = st.builds(
    Schema,
    name=TEXT.filter(lambda name: name != "forbidden"),
    model=MODEL,
    exchange=st.just(NoneConfig()) | st.builds(GossipConfig, rho=RHO),
    extras=st.lists(MODEL, max_size=2),
    evaluator=st.none() | MODEL,
    train=TRAIN,
    dir=st.none() | st.just(Path("runs/a b")),
    labels=st.dictionaries(TEXT, st.integers()),
)

with_a_file = settings(deadline=None, max_examples=300, derandomize=True)


def write(text: str, folder: str) -> Path:
    path = Path(folder) / "run.yaml"
    path.write_bytes(text.encode())
    return path


@with_a_file
@given(RUN)
def test_a_dump_loads_to_an_equal_object(config: Schema) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(dump(config), folder)
        assert load(path, [], Schema).config == config


YAML_BITS = st.lists(
    st.sampled_from(
        [*"[]{}:,-?&*!|>'\"%@`#\n\t \\<=.~", "---", "...", "\n  ", ": ", "- ", "&a", "*a", "!!int ", "<<: *a"]
    )
    | st.sampled_from(
        ["model", "train", "name", "mlp", "steps", "exchange", "1", "1e4", "null", "\\x", "\\U0011", "%YAML 1.1\n"]
    )
    | st.text(max_size=3),
    max_size=40,
).map("".join)


def loads_or_config_error(path: Path, *overrides: str) -> None:
    try:
        load(path, overrides, Schema)
    except ConfigError as error:
        lines = str(error).split("\n")
        assert 1 <= len(lines) <= 2
        assert all(line.isprintable() and line for line in lines)


@with_a_file
@given(st.text(st.characters(codec="utf-8")) | YAML_BITS)
@example("%YAML 1.1.1\n---\n")
@example('"\\U11111111"')
@example("? ? ? a")
def test_any_text_loads_or_is_a_config_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loads_or_config_error(write(text, folder))
        loads_or_config_error(write(GOOD + text, folder))


@with_a_file
@given(st.binary())
def test_any_bytes_load_or_are_a_config_error(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(raw)
        loads_or_config_error(path)


@with_a_file
@given(
    st.lists(st.sampled_from(["model", "train", "extras", "labels", "steps", "name", "0", "1", "", "x"]), max_size=4),
    YAML_BITS,
    st.text(),
)
def test_any_override_is_applied_or_a_config_error(parts: list[str], value: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(GOOD, folder)
        loads_or_config_error(path, f"{'.'.join(parts)}={value}", "extras.0.name=mlp")
        loads_or_config_error(path, text)


VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


@with_a_file
@given(st.dictionaries(st.sampled_from(list(Schema.model_fields)), VALUES))
def test_any_data_fits_the_schema_or_is_a_config_error(data: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loads_or_config_error(write(yaml.safe_dump(data), folder))
