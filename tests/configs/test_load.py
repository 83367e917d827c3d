"""What `load` accepts, from files, recipes and overrides, what it makes of it, and how it is dumped."""

import importlib
import os
import sys
from pathlib import Path

import pytest
import yaml
from loader_schema import GOOD, CnnConfig, GossipConfig, MlpConfig, NoneConfig, Schema
from loading import FIELDS, mistake, read

from configs import ConfigError, Custom, dump, load, recipe_path, recipes

loader = importlib.import_module("configs.load")  # the package's `load` is the function

pytestmark = [pytest.mark.timeout(20), pytest.mark.usefixtures("in_a_folder_of_its_own")]


def test_a_good_file_is_checked_and_its_text_and_data_are_kept() -> None:
    loaded = read(GOOD, "train.lr=1e-4")
    assert loaded.config.model == MlpConfig(width=3)
    assert loaded.config.exchange == GossipConfig(rho=0.02)
    assert loaded.config.train.lr == 1e-4
    assert (loaded.path, loaded.text) == (Path("run.yaml"), GOOD)
    assert loaded.data == {
        "model": {"name": "mlp", "width": 3},
        "exchange": {"method": "gosgd", "rho": 0.02},
        "train": {"steps": 5, "lr": 1e-4},
    }


def test_lists_become_tuples_text_becomes_paths_and_integers_become_floats() -> None:
    loaded = read("model: {name: cnn, channels: [1, 2]}\ntrain: {steps: 1, lr: 1, precision: half}\ndir: runs/x\n")
    assert loaded.config.model == CnnConfig(channels=(1, 2))
    assert loaded.config.dir == Path("runs/x")
    assert loaded.config.train.lr == 1.0 and isinstance(loaded.config.train.lr, float)


def test_a_component_of_the_users_own_keeps_every_option() -> None:
    model = read("model: {name: 'my.module:Net', depth: 3, scale: .inf, on: off}\ntrain: {steps: 1}\n").config.model
    assert isinstance(model, Custom)
    assert model.options("name") == {"depth": 3, "scale": float("inf"), "on": "off"}


@pytest.mark.parametrize("written", ["on", "off", "yes", "no", "010", "1:30", "0x10", "1_000", "2024-01-01", "=", "<<"])
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(written: str) -> None:
    assert read(GOOD, f"name={written}").config.name == written


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("+2", 2),
        ("-0", 0),
        ("-.inf", float("-inf")),
        ("~", None),
    ],
)
def test_numbers_and_null_are_read_as_in_yaml_1_2(written: str, value: float | None) -> None:
    data = read(GOOD + f"extras: [{{name: 'a:b', x: {written}}}]\n").data
    assert data["extras"][0]["x"] == value
    assert type(data["extras"][0]["x"]) is type(value)


def test_anchors_aliases_and_merge_keys_are_followed() -> None:
    text = "model: &m {name: mlp, width: 2}\nevaluator: *m\nextras:\n- {<<: *m, width: 9}\ntrain: {steps: 1}\n"
    config = read(text, "evaluator.width=5").config
    assert (config.model, config.evaluator, config.extras) == (
        MlpConfig(width=2),
        MlpConfig(width=5),
        [MlpConfig(width=9)],
    )
    assert mistake(text.replace("width: 2", "width: x")) == (
        "run.yaml:1: model.width: got 'x' (text), expected an integer\n"
        "run.yaml:1: evaluator.width: got 'x' (text), expected an integer"
    )


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    assert read(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()).config == read(GOOD).config


def test_another_component_takes_over_the_options_it_knows() -> None:
    text = "model: {name: mlp, width: 7}\nexchange: {method: gosgd, rho: 0.5}\ntrain: {steps: 1}\n"
    assert read(text, "exchange.method=none").config.exchange == NoneConfig()
    assert read(text, "exchange.method=gosgd").config.exchange == GossipConfig(rho=0.5)
    assert read(text, "model.name=cnn", "model.channels=[3]").config.model == CnnConfig(channels=(3,))
    assert "override 'model.width=3': model.width: got an unknown key" in mistake(
        text, "model.name=cnn", "model.width=3"
    )
    misspelt = text.replace("rho:", "roh: 1, rho:")
    assert mistake(misspelt, "exchange.method=none").startswith("run.yaml:2: exchange.roh: got an unknown key")


def test_overrides_set_replace_and_append() -> None:
    text = "model: {name: mlp}\nextras: [{name: mlp, width: 1}, {name: cnn}]\ntrain: {steps: 1}\nlabels:\n"
    loaded = read(
        text,
        "extras.0.width=7",
        "extras.2={name: cnn, channels: [3]}",
        "extras.3.name=mlp",
        "labels.a=1",
        "labels.b=2",
        "evaluator.name=mlp",
        "train={steps: 3, note: 'a=b'}",
        "train.milestones.0=5",
        "train.steps=4",
        " name =x=y",
        "dir=",
    )
    assert loaded.config.extras == [MlpConfig(width=7), CnnConfig(), CnnConfig(channels=(3,)), MlpConfig()]
    assert loaded.config.labels == {"a": 1, "b": 2}
    assert loaded.config.evaluator == MlpConfig()
    assert (loaded.config.train.steps, loaded.config.train.note, loaded.config.train.milestones) == (4, "a=b", [5])
    assert (loaded.config.name, loaded.config.dir) == ("x=y", None)


@pytest.fixture
def _digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "digits.yaml").write_text(GOOD)
    (folder / "mnist.yaml").write_text(GOOD)
    monkeypatch.setattr(loader, "RECIPES", folder)


def test_packaged_recipes_are_those_beside_the_loader() -> None:
    beside = Path(loader.__file__).parent.glob("*.yaml")
    assert recipes() == sorted(path.stem for path in beside)


@pytest.mark.usefixtures("_digits")
def test_a_recipe_is_found_by_name_and_a_file_of_that_name_wins() -> None:
    assert recipes() == ["digits", "mnist"]
    assert load("digits", [], Schema).path == recipe_path("digits") == loader.RECIPES / "digits.yaml"
    Path("digits").mkdir()
    assert load("digits", [], Schema).path == recipe_path("digits")
    Path("mnist").write_text(GOOD)
    assert load("mnist", [], Schema).path == Path("mnist")


@pytest.mark.usefixtures("_digits")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "digts",
            "no file and no recipe called 'digts'; did you mean 'digits'?; expected a path or one of digits, mnist",
        ),
        ("conf/x.yaml", "no file and no recipe called 'conf/x.yaml'; expected a path or one of digits, mnist"),
        (
            "recipes/mnist.yaml/x",
            "no file and no recipe called 'recipes/mnist.yaml/x'; expected a path or one of digits, mnist",
        ),
        ("recipes", "recipes: got a directory, expected a YAML file"),
        ("\0", "\\x00: got no access (embedded null byte), expected a readable file"),
    ],
)
def test_a_source_that_cannot_be_read_is_a_config_error(source: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(source, [], Schema)
    assert str(caught.value) == message


@pytest.mark.usefixtures("_digits")
def test_the_path_of_an_unknown_recipe_is_a_config_error() -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_path("../digits")
    assert str(caught.value) == "no recipe called '../digits'; did you mean 'digits'?; expected one of digits, mnist"


def test_without_recipes_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "RECIPES", tmp_path)
    with pytest.raises(ConfigError, match="expected a path or the name of a recipe \\(none is installed\\)"):
        load("digits", [], Schema)


def test_an_absurdly_long_source_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="got no access"):
        load("x" * 5000, [], Schema)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_file_without_permission_is_a_config_error() -> None:
    Path("run.yaml").write_text(GOOD)
    Path("run.yaml").chmod(0)
    with pytest.raises(ConfigError, match=r"run.yaml: got no access \(Permission denied\), expected a readable file"):
        load("run.yaml", [], Schema)


def test_a_dump_names_every_default_in_the_schemas_order_and_loads_to_an_equal_object() -> None:
    config = read(GOOD, "evaluator={name: 'a.b:C', z: .inf, a: on}", "dir=x/y", "name='1e-4'").config
    text = dump(config)
    assert list(yaml.safe_load(text)) == FIELDS.split(", ")
    assert "name: '1e-4'" in text
    assert "\n  steps: 5\n  lr: 0.1\n  stop: each\n" in text
    assert "evaluator:\n  name: a.b:C\n  z: .inf\n  a: 'on'\n" in text
    assert read(text).config == config
    assert dump(read(text).config) == text
