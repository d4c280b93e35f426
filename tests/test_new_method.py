"""The stub of a new method: it runs, and names that cannot be are refused."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from benchmark import config, new_method, registry
from benchmark.__main__ import main
from benchmark.budget import at_budget
from benchmark.layout import VideoLayout


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of methods of its own, beside the project's."""
    found = tmp_path / "methods"
    found.mkdir()
    monkeypatch.setattr(registry, "METHODS_FOLDER", found)
    monkeypatch.setattr("methods.__path__", [str(found)])
    yield found
    for path in found.glob("*.py"):
        sys.modules.pop(f"methods.{path.stem}", None)
    importlib.invalidate_caches()


@pytest.mark.parametrize("name", ["my_method", "method", "block_mask"])
def test_a_new_method_is_found_and_runs(folder, name):
    assert new_method.write(name, folder) == folder / f"{name}.py"
    assert registry.names() == [name]
    method = registry.get(name)
    assert method.name() == name
    layout = VideoLayout(5, 3, 4, text=7)
    mask = method.block_mask(layout, 8)
    assert 0 < mask.density < 1
    tokens = mask.to_tokens()[0]
    assert bool(tokens[layout.video :].all()) and bool(tokens[:, layout.video :].all())
    assert not bool(tokens[0, layout.video // 2])
    for budget in (0.6, 0.9):
        assert at_budget(method, layout, 8, budget).density(layout, 8) == pytest.approx(budget, abs=0.1)
    q = torch.randn(1, layout.tokens, 2, 4)

    def kernel(q, k, v, mask):
        scores = torch.einsum("bihd,bjhd->bhij", q, k).masked_fill(~mask.to_tokens(), -torch.inf)
        return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)

    out = method.attend(q, q, q, lambda x: x, layout, 8, kernel)
    assert out.shape == q.shape and bool(out.isfinite().all())


HEADER = "from dataclasses import dataclass\nfrom benchmark.method import Method, knob\n\n\n"
CLASS = f"{HEADER}@dataclass(frozen=True)\nclass Mine(Method):\n"
ATTEND = "    def attend(self, q, *rest):\n        return q\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import no_such\n", "cannot be used: ModuleNotFoundError: No module named 'no_such'"),
        ("def (:\n", "cannot be used: SyntaxError: invalid syntax (mine.py, line 1)"),
        (
            CLASS + "    width: list = []\n",
            "cannot be used: ValueError: mutable default <class 'list'> for field width",
        ),
        (f"{HEADER}class Mine(Method):\n    pass\n", "@dataclass(frozen=True) is needed above class Mine"),
        (CLASS + "    stride: int\n", "stride: a knob's default is needed"),
        (
            CLASS + "    budget_knob = 'strid'\n    stride: int = knob(2, 'apart', low=1)\n",
            "budget knob strid: it is no field of class Mine; its knobs: stride",
        ),
        (
            CLASS + "    budget_knob = 'stride'\n    stride: int = knob(2, 'apart')\n",
            "budget knob stride: it needs knob(..., low=, high=)",
        ),
        (CLASS + "    budget_knob = 'stride'\n    stride: int = 2\n", "budget knob stride: it needs knob("),
        (CLASS + ATTEND, "attend is defined without attention_operations and density"),
        (
            f"{CLASS}{ATTEND}\n    def density(self, *rest):\n        return 1.0\n",
            "attend is defined without attention_operations,",
        ),
    ],
)
def test_a_file_that_would_fail_later_is_refused_when_it_is_found(folder, capsys, text, line):
    (folder / "mine.py").write_text(text)
    importlib.invalidate_caches()
    assert main(["plan", "--model", "testbed-nano", "--method", "mine"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"plan: methods/mine.py: {line}") and err.count("\n") == 1


MASK = f"""import torch
from benchmark.masks import BlockMask
{CLASS}    title = "Mine"
    budget_knob = "width"
    width: float = knob(1.0, "width", low=0.0, high=4.0)

"""
EMPTY = "torch.zeros(1, layout.blocks(block), layout.blocks(block), dtype=torch.bool)"
EMPTY_MASK = f"        return BlockMask({EMPTY}, block, layout.tokens)\n"


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "    def block_mask(self, layout, block, device='cpu'):\n        return near\n",
            "block_mask, line 14: NameError: name 'near' is not defined",
        ),
        ("    def block_mask(self, layout, block):\n        return None\n", "TypeError: Mine.block_mask() takes 3"),
        ("    def settings(self, layout):\n        return []\n", "TypeError: Mine.settings() takes 2"),
        (
            f"    def block_mask(self, layout, block, device='cpu'):\n{EMPTY_MASK}",
            "block mask: query block 0 of head 0 attends to nothing",
        ),
    ],
)
def test_a_mask_that_cannot_be_planned_is_one_line_with_its_file(folder, capsys, code, line):
    (folder / "dense.py").write_text(f"{CLASS}    sparse = False\n")
    (folder / "mine.py").write_text(MASK + code)
    importlib.invalidate_caches()
    for budget in ([], ["--budget", "0.5"]):
        if not (budget == [] and "settings" in code):  # without a budget nobody asks for them
            assert main(["plan", "--model", "testbed-nano", "--method", "mine", *budget]) == 2
            err = capsys.readouterr().err
            assert err.startswith(f"plan: methods/mine.py: {line}") and err.count("\n") == 1
    smoke = config.read(config.ROOT / "config" / "smoke.yaml") | {"methods": ["dense", "mine"], "budget": 0.5}
    with pytest.raises(ValueError) as caught:
        config.check(smoke)
    assert str(caught.value).startswith(f"methods/mine.py at 1x: {line}") and "\n" not in str(caught.value)


def test_two_methods_with_one_title_are_refused(folder):
    for name, title in (("dense", "Dense"), ("first", "Mine"), ("second", "Mine")):
        (folder / f"{name}.py").write_text(f'{CLASS}    title = "{title}"\n')
    importlib.invalidate_caches()
    smoke = config.read(config.ROOT / "config" / "smoke.yaml")
    with pytest.raises(ValueError, match="methods: first and second have one title, 'Mine', and .*methods/second.py$"):
        config.check(smoke | {"methods": "all"}, budgets=False)
    assert config.check(smoke | {"methods": ["second"]}, budgets=False)["methods"] == ["dense", "second"]


def test_the_command_says_what_comes_next(folder, capsys):
    assert main(["new-method", "my_method"]) == 0
    out = capsys.readouterr().out
    assert "methods/my_method.py" in out
    assert "pytest -k my_method" in out
    assert "--configfile config/smoke.yaml --config experiment=mine methods=[dense,radial,my_method]" in out


def test_a_file_that_is_there_is_left_alone(folder, capsys):
    (folder / "mine.py").write_text("kept")
    assert main(["new-method", "mine"]) == 2
    assert "mine.py is there already" in capsys.readouterr().err
    assert (folder / "mine.py").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "near"),
    [("My-Method", "my_method"), ("2fast", "m_2fast"), ("class", "m_class"), ("a b", "a_b"), ("é", "m_")]
    + [(word, f"m_{word}") for word in ("on", "null", "true", "all")],
)
def test_names_that_cannot_be_are_refused_with_one_that_can(folder, capsys, name, near):
    assert main(["new-method", name]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and repr(near) in err
    assert list(folder.iterdir()) == []


def test_the_stub_is_in_the_project_s_style(folder):
    import subprocess

    path = new_method.write("my_method", folder)
    for words in (["check"], ["format", "--check"]):
        settings = ["--config", str(registry.Path(__file__).parent.parent / "pyproject.toml")]
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *settings, str(path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
