"""What is said where a module of the user's own, or what is wanted of it, is not there."""

import re
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from configs import import_object
from configs.base import Registry
from configs.blame import told

MODULES = {
    "own_missing": ("import not_to_be_found", "No module named 'not_to_be_found'; is it on PYTHONPATH?"),
    "own_attribute": (
        "import os\nos.no_such_thing",
        r"AttributeError: module 'os' has no attribute 'no_such_thing' \(.*own_attribute.py, line 2\)",
    ),
    "own_syntax": ("def net(:", r"SyntaxError: .* \(own_syntax.py, line 1\)$"),
    "own_value": ("raise KeyError('width')", r"KeyError: 'width' \(.*own_value.py, line 1\)"),
    "own_json": ("import json\njson.loads('{')", r"JSONDecodeError: .* \(.*own_json.py, line 2\)"),
}


@pytest.mark.parametrize("name", MODULES)
def test_what_went_wrong_in_a_module_is_said_with_its_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, said = MODULES[name]
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=f"^cannot import '{name}' for '{name}:Net': {said}"):
        import_object(f"{name}:Net")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("math:no_such_thing", "module 'math' has no 'no_such_thing'"),
        ("math:", "got 'math:', expected 'package.module:name'"),
        (":pi", "got ':pi', expected 'package.module:name'"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        import_object(path)


def test_a_module_that_fails_to_import_a_part_when_it_is_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_lazy.py").write_text("def __getattr__(name):\n    import not_to_be_found\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"^cannot get 'own_lazy:Net': ModuleNotFound.*\(.*own_lazy.py, line 2\)$"):
        import_object("own_lazy:Net")


class Failing(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return {"image": index}["sample"]


def test_an_error_is_told_with_its_place_in_the_users_code_only() -> None:
    def fails(option: object) -> None:
        raise KeyError(option)

    for raises, expected in (
        (lambda: fails("width"), rf"'width' \({__file__}, line \d+\)"),
        (lambda: Registry[object]("model").get("none"), "got unknown model 'none', [^(]*"),
        (lambda: next(iter(DataLoader(Failing(), num_workers=1))), rf"'sample' \({__file__}, line \d+\)"),
    ):
        with pytest.raises((KeyError, ValueError)) as caught:
            raises()
        assert re.fullmatch(expected, told(caught.value))
