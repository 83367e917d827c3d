"""What the loader's tests share: reading a text as a file, and the mistake that is found in it."""

from pathlib import Path

import pytest
from loader_schema import Schema

from configs import ConfigError, Loaded, load

FIELDS = "name, model, exchange, extras, evaluator, train, dir, labels"
"""Of the schema."""


def read(text: str | bytes, *overrides: str) -> Loaded[Schema]:
    """Loads `text` from a file called run.yaml in the working directory."""
    Path("run.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return load("run.yaml", overrides, Schema)


def mistake(text: str | bytes, *overrides: str) -> str:
    """What is said of a text that is refused."""
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)
