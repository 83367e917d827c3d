"""The exact sentence for every kind of mistake in a file or an override."""

from typing import Any

import pytest
from loader_schema import GOOD, GossipConfig
from loading import FIELDS, mistake

pytestmark = [pytest.mark.timeout(20), pytest.mark.usefixtures("in_a_folder_of_its_own")]

MODEL = "model: {name: mlp}\n"
TRAIN = "train: {steps: 1}\n"
MISTAKES = {
    "empty file": ("", f"run.yaml:1: got an empty file, expected a mapping with keys among {FIELDS}"),
    "only comments": ("# x\n\n", f"run.yaml:1: got an empty file, expected a mapping with keys among {FIELDS}"),
    "a list": ("\n- 1\n", f"run.yaml:2: got a list of 1 entry, expected a mapping with keys among {FIELDS}"),
    "a word": ("hello", f"run.yaml:1: got 'hello' (text), expected a mapping with keys among {FIELDS}"),
    "unclosed bracket": (
        "a: [1,\n2\n",
        "run.yaml:3: got broken YAML: while parsing a flow sequence from line 1, expected ',' or ']'"
        ", but got '<stream end>'",
    ),
    "tab": (
        "a:\n\tb: 1\n",
        "run.yaml:2: got broken YAML: while scanning for the next token, found character '\\t'"
        " that cannot start any token; indent with spaces, not tabs",
    ),
    "bad indentation": (
        "a: 1\n  b: 2\n",
        "run.yaml:2: got broken YAML: mapping values are not allowed here"
        "; check the indentation, and put text that contains ': ' in quotes",
    ),
    "two documents": (
        "a: 1\n---\nb: 2\n",
        "run.yaml:2: got broken YAML: expected a single document in the stream from line 1, but found another document",
    ),
    "unknown alias": ("a: *b\n", "run.yaml:1: got broken YAML: found undefined alias 'b'"),
    "escape out of range": ('a: "\\U00110000"', "run.yaml:1: got broken YAML: chr() arg not in range(0x110000)"),
    "control character": ("a: 1\nb: \0\n", "run.yaml:2: got the character U+0000, expected printable text"),
    "not UTF-8": (b"a: 1\nb: \xff\n", "run.yaml:2: got the byte 0xff, expected UTF-8 text"),
    "half a surrogate pair": (
        'name: "\\ud800"\n',
        "run.yaml:1: name: got '\\ud800', expected text without half a surrogate pair",
    ),
    "tag": (
        "a: 1\nb: !!python/name:os.system x\n",
        "run.yaml:2: got the YAML tag 'tag:yaml.org,2002:python/name:os.system', expected a value without a tag",
    ),
    "duplicate key": (
        MODEL + "name: x\n" + MODEL,
        "run.yaml:3: model: got a duplicate key, also given on line 1, expected it once",
    ),
    "duplicate key, deep": (
        MODEL + "extras:\n- name: mlp\n  width: 1\n  width: 2\n",
        "run.yaml:5: extras.0.width: got a duplicate key, also given on line 4, expected it once",
    ),
    "number as a key": ("labels:\n  1: 2\n", "run.yaml:2: labels: got 1 as a key, expected text"),
    "boolean as a key": ("true: 2\n", "run.yaml:1: got true as a key, expected text"),
    "list as a key": ("? [a]\n: 2\n", "run.yaml:1: got a list or mapping as a key, expected text"),
    "merge of a scalar": (
        "model: {<<: 3}\n",
        "run.yaml:1: model: got '<<' before something else, expected an alias of a mapping",
    ),
    "alias in itself": (
        "a: &a\n- *a\n",
        "run.yaml:1: a.0: got an alias inside its own anchor, expected data that ends",
    ),
    "merge of itself": (
        "a: &a {<<: *a}\n",
        "run.yaml:1: a: got an alias inside its own anchor, expected data that ends",
    ),
    "deep nesting": ("a: " + "[" * 100_000, "run.yaml:1: got more than 50 levels of nesting, expected fewer"),
    "deep block nesting": (
        "".join(" " * n + "a:\n" for n in range(200)),
        "run.yaml:50: got more than 50 levels of nesting, expected fewer",
    ),
    "integer of absurd length": (
        "name: " + "9" * 5000,
        "run.yaml:1: name: got an integer of 5000 digits, expected fewer",
    ),
    "unknown section": (
        MODEL + "trian: {steps: 1}\n",
        f"run.yaml:2: trian: got an unknown key, expected one of {FIELDS}; did you mean 'train'?",
    ),
    "unknown key like nothing": (
        MODEL + TRAIN + "qqq: 1\n",
        f"run.yaml:3: qqq: got an unknown key, expected one of {FIELDS}",
    ),
    "unknown option of a component": (
        "model:\n  name: mlp\n  widht: 3\n" + TRAIN,
        "run.yaml:3: model.widht: got an unknown key, expected one of name, width, mlp; did you mean 'width'?",
    ),
    "unknown option in a list": (
        MODEL + TRAIN + "extras:\n- name: mlp\n- name: cnn\n  chanels: [1]\n",
        "run.yaml:6: extras.1.chanels: got an unknown key, expected one of name, channels, activation"
        "; did you mean 'channels'?",
    ),
    "option of an optional component": (
        MODEL + TRAIN + "evaluator: {name: cnn, channels: [1, x]}\n",
        "run.yaml:3: evaluator.channels.1: got 'x' (text), expected an integer",
    ),
    "option named like its component": (
        "model: {name: mlp, mlp: x}\n" + TRAIN,
        "run.yaml:1: model.mlp: got 'x' (text), expected a number",
    ),
    "unknown component": (
        "model:\n  name: mlpp\n" + TRAIN,
        "run.yaml:2: model.name: got unknown model 'mlpp', expected one of cnn, mlp or 'package.module:name'"
        "; did you mean 'mlp'?",
    ),
    "unknown component in capitals": (
        "model:\n  name: MLP\n" + TRAIN,
        "run.yaml:2: model.name: got unknown model 'MLP', expected one of cnn, mlp or 'package.module:name'"
        "; did you mean 'mlp'?",
    ),
    "the word custom names nothing": (
        "model: {name: custom}\n" + TRAIN,
        "run.yaml:1: model.name: got unknown model 'custom', expected one of cnn, mlp or 'package.module:name'",
    ),
    "component without its name": (
        "model:\n  width: 3\n" + TRAIN,
        "run.yaml:1: model: got no 'name', expected one of cnn, mlp or 'package.module:name'",
    ),
    "component with its name misspelt": (
        MODEL + TRAIN + "exchange: {metod: gosgd}\n",
        "run.yaml:3: exchange: got no 'method', expected one of gosgd, none or 'package.module:name'"
        "; did you mean 'method' where it says 'metod'?",
    ),
    "component named by a number": (
        "model: {name: 3}\n" + TRAIN,
        "run.yaml:1: model.name: got 3, expected one of cnn, mlp or 'package.module:name'",
    ),
    "component named by null": (
        "model: {name: }\n" + TRAIN,
        "run.yaml:1: model.name: got null (no value), expected one of cnn, mlp or 'package.module:name'",
    ),
    "component as a bare word": (
        "model: mlp\n" + TRAIN,
        "run.yaml:1: model: got 'mlp' (text), expected a mapping such as {name: mlp}",
    ),
    "missing section": (MODEL, "run.yaml:1: train: got nothing, expected a value (the key is required)"),
    "missing key": (
        MODEL + "train:\n  lr: 0.1\n",
        "run.yaml:2: train.steps: got nothing, expected a value (the key is required)",
    ),
    "missing option": (
        MODEL + TRAIN + "exchange:\n  method: gosgd\n",
        "run.yaml:3: exchange.rho: got nothing, expected a value (the key is required)",
    ),
    "empty section": (MODEL + "train:\n", "run.yaml:2: train: got null (no value), expected a mapping"),
    "text for an integer": (
        MODEL + "train: {steps: abc}\n",
        "run.yaml:2: train.steps: got 'abc' (text), expected an integer",
    ),
    "quoted integer": (MODEL + "train: {steps: '3'}\n", "run.yaml:2: train.steps: got '3' (text), expected an integer"),
    "boolean for an integer": (
        MODEL + "train: {steps: true}\n",
        "run.yaml:2: train.steps: got true, expected an integer",
    ),
    "float for an integer": (
        MODEL + "train: {steps: 1e3}\n",
        "run.yaml:2: train.steps: got 1000.0, expected an integer",
    ),
    "octal for an integer": (
        MODEL + "train: {steps: 010}\n",
        "run.yaml:2: train.steps: got '010' (text), expected an integer",
    ),
    "boolean for a float": (
        MODEL + "train: {steps: 1, lr: false}\n",
        "run.yaml:2: train.lr: got false, expected a number",
    ),
    "infinity": (MODEL + "train: {steps: 1, lr: .inf}\n", "run.yaml:2: train.lr: got inf, expected a finite number"),
    "integer beyond floats": (
        MODEL + f"train: {{steps: 1, lr: 1{'0' * 400}}}\n",
        f"run.yaml:2: train.lr: got 1{'0' * 56}..., expected a finite number",
    ),
    "on for a boolean": (
        MODEL + "train: {steps: 1, compile: on}\n",
        "run.yaml:2: train.compile: got 'on' (text), expected true or false",
    ),
    "number for text": (MODEL + TRAIN + "name: 5\n", "run.yaml:3: name: got 5, expected text; put it in quotes"),
    "mapping for text": (MODEL + TRAIN + "name: {a: 1}\n", "run.yaml:3: name: got a mapping, expected text"),
    "list for a section": (MODEL + "train: [1, 2]\n", "run.yaml:2: train: got a list of 2 entries, expected a mapping"),
    "mapping for a list": (MODEL + TRAIN + "extras: {}\n", "run.yaml:3: extras: got a mapping, expected a list"),
    "too long a list": (
        MODEL + "train: {steps: 1, milestones: [1, 2, 3, 4]}\n",
        "run.yaml:2: train.milestones: got a list of 4 entries, expected at most 3",
    ),
    "value of a mapping": (
        MODEL + TRAIN + "labels:\n  a: 1\n  b: x\n",
        "run.yaml:5: labels.b: got 'x' (text), expected an integer",
    ),
    "too small": (MODEL + "train: {steps: -1}\n", "run.yaml:2: train.steps: got -1, expected a number >= 0"),
    "not above": (
        MODEL + TRAIN + "exchange: {method: gosgd, rho: 0}\n",
        "run.yaml:3: exchange.rho: got 0, expected a number > 0",
    ),
    "too large": (
        MODEL + TRAIN + "exchange: {method: gosgd, rho: 1.5}\n",
        "run.yaml:3: exchange.rho: got 1.5, expected a number <= 1",
    ),
    "choice": (
        MODEL + "train: {steps: 1, stop: totl}\n",
        "run.yaml:2: train.stop: got 'totl', expected 'each' or 'total'; did you mean 'total'?",
    ),
    "enumeration": (
        MODEL + "train: {steps: 1, precision: quarter}\n",
        "run.yaml:2: train.precision: got 'quarter', expected 'half' or 'full'",
    ),
    "number or choice": (
        MODEL + "train: {steps: 1, warmup: aut}\n",
        "run.yaml:2: train.warmup: got 'aut' (text), expected a number or 'auto'; did you mean 'auto'?",
    ),
    "a field's own check": (
        MODEL + "train: {steps: 1, lr: 7}\n",
        "run.yaml:2: train.lr: got 7, expected anything but 7",
    ),
    "a component's own check": (
        MODEL + TRAIN + "exchange: {method: gosgd, rho: 0.333}\n",
        "run.yaml:3: exchange: got rho 0.333, expected another",
    ),
    "the whole run's own check": (MODEL + TRAIN + "name: forbidden\n", "run.yaml:1: this name is forbidden"),
    "two mistakes": (
        "name: 5\nmodel: {name: mlp, width: 0}\n" + TRAIN,
        "run.yaml:1: name: got 5, expected text; put it in quotes\n"
        "run.yaml:2: model.width: got 0, expected a number >= 1",
    ),
    "three mistakes": (
        "name: 5\nmodel: {name: mlp, width: 0}\ntrain: {steps: x}\n",
        "run.yaml:1: name: got 5, expected text; put it in quotes\nand 2 more problems",
    ),
    "control characters in a key": (
        MODEL + TRAIN + '"a\\n\\e[31m": 1\n',
        f"run.yaml:3: a \\x1b[31m: got an unknown key, expected one of {FIELDS}",
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_the_file_is_named_by_line_and_key(text: str | bytes, message: str) -> None:
    assert mistake(text) == message


def test_aliases_that_multiply_are_refused_quickly() -> None:
    lists = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    merges = "a0: &a0 {x: 1}\n"
    for n in range(1, 12):
        lists += f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n"
        merges += f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 10)}]}}\n"
    assert mistake(lists).endswith("got more than 100000 values, expected fewer")
    assert mistake(merges).endswith("got more than 100000 values, expected fewer")


def test_a_message_stays_short_whatever_was_written() -> None:
    for message in (
        mistake(GOOD + f"{'k' * 5000}: 1\n"),
        mistake(GOOD + f"name: [{'k' * 5000}]\n"),
        mistake(GOOD, "x" * 9000),
    ):
        assert len(message) <= 1000 and "\n" not in message


OVERRIDE_MISTAKES = {
    "train.steps": "override 'train.steps': got no key and value, expected a.b.c=value",
    "=3": "override '=3': got no key and value, expected a.b.c=value",
    "train..steps=3": "override 'train..steps=3': got no key and value, expected a.b.c=value",
    "train.steps=x": "override 'train.steps=x': train.steps: got 'x' (text), expected an integer",
    "train.steps=": "override 'train.steps=': train.steps: got null (no value), expected an integer",
    "train.steps.x=3": "override 'train.steps.x=3': train.steps: got 5, expected a section",
    "train.stesp=3": (
        "override 'train.stesp=3': train.stesp: got an unknown key, expected one of steps, lr, stop, compile, warmup, "
        "milestones, precision, note; did you mean 'steps'?"
    ),
    "trian.steps=3": (
        f"override 'trian.steps=3': trian: got an unknown key, expected one of {FIELDS}; did you mean 'train'?"
    ),
    "train={lr: 1}": "override 'train={lr: 1}': train.steps: got nothing, expected a value (the key is required)",
    "model.name=cn": (
        "override 'model.name=cn': model.name: got unknown model 'cn', expected one of cnn, mlp"
        " or 'package.module:name'; did you mean 'cnn'?"
    ),
    "evaluator.width=3": (
        "override 'evaluator.width=3': evaluator: got no 'name', expected one of cnn, mlp or 'package.module:name'"
    ),
    "extras.1.name=mlp": "override 'extras.1.name=mlp': extras: got a mapping, expected a list",
    "train.lr=[1": (
        "override 'train.lr=[1': got broken YAML: while parsing a flow sequence, expected ',' or ']'"
        ", but got '<stream end>'"
    ),
    "train.lr={a: 1, a: 2}": (
        "override 'train.lr={a: 1, a: 2}': train.lr.a: got a duplicate key, also given on line 1, expected it once"
    ),
    "train.lr=!!float 1": (
        "override 'train.lr=!!float 1': got the YAML tag 'tag:yaml.org,2002:float', expected a value without a tag"
    ),
}


@pytest.mark.parametrize(("override", "message"), OVERRIDE_MISTAKES.items(), ids=OVERRIDE_MISTAKES.keys())
def test_a_mistake_in_an_override_names_the_override(override: str, message: str) -> None:
    assert mistake(GOOD, override) == message


@pytest.mark.parametrize("index", ["x", "-1", "2", "1_0", "²", "9" * 5000])
def test_an_index_outside_a_list_is_refused(index: str) -> None:
    message = mistake(GOOD + "extras: [{name: mlp}]\n", f"extras.{index}.width=3")
    assert message.startswith(f"override 'extras.{index[:40]}")
    assert "expected an index from 0 to 1 into a list of 1 entry (1 appends)" in message


def test_mistakes_of_the_file_come_before_those_of_overrides() -> None:
    assert mistake(GOOD + "name: 5\n", "model.width=0").splitlines() == [
        "run.yaml:7: name: got 5, expected text; put it in quotes",
        "override 'model.width=0': model.width: got 0, expected a number >= 1",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roh": 0.1}, "roh: got an unknown key, expected one of method, rho; did you mean 'rho'?"),
        ({"rho": "a lot"}, "rho: got 'a lot' (text), expected a number"),
        ({"rho": 2}, "rho: got 2, expected a number <= 1"),
        ({}, "rho: got nothing, expected a value (the key is required)"),
        ({"rho": 0.333}, "got rho 0.333, expected another"),
    ],
)
def test_options_given_in_a_program_are_refused_in_the_words_of_a_file(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        GossipConfig.of(**options)
    assert str(refusal.value) == message
