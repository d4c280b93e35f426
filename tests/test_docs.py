"""The documents: links lead somewhere, methods are described as they are, and pictures show the masks of the code."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmark import models, registry
from benchmark.plan import has_mask

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
PAGES = [*sorted(DOCS.glob("*.md")), *(ROOT / name for name in ("README.md", "CHANGELOG.md") if (ROOT / name).exists())]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def _prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"^(```.*?^```|(?: {4}|\t).*?$)", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def _anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get on the web."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _section(method: str) -> str:
    """What docs/methods.md says of a method; empty where it has no section."""
    found = re.search(rf"^## `{method}`\n(.*?)(?=^## |\Z)", (DOCS / "methods.md").read_text(), re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@functools.cache
def _drawing():
    """The script that draws the pictures, as a module."""
    spec = importlib.util.spec_from_file_location("docs_draw_masks", DOCS / "draw_masks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up by name
    spec.loader.exec_module(module)
    return module


@functools.cache
def _views(name: str) -> dict:
    """What the pictures of a method show."""
    return _drawing().views(name)


@pytest.fixture(autouse=True)
def one_thread():
    """Masks are planned in many small steps, which threads only slow down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def test_a_page_has_its_links_checked() -> None:
    """Else the test above would prove nothing."""
    assert {"methods.md", "protocol.md", "design.md"} <= {page.name for page in PAGES}
    assert len(LINK.findall(_prose(DOCS / "methods.md"))) > 25
    assert {"radial", "how-a-budget-is-solved"} <= _anchors(DOCS / "methods.md")


def test_the_licence_and_the_citation_are_in_order() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    assert "the sparse video attention benchmark authors" in licence
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == "Apache-2.0"
    assert any("2506.19852" in reference["url"] for reference in citation["references"])


# --- methods ---------------------------------------------------------------------------------------------------------


def test_every_method_has_a_section_and_a_picture() -> None:
    lacking = [name for name in registry.names() if not re.search(r"!\[.+\]\(images/\w+\.png\)", _section(name))]
    assert lacking == [], "docs/methods.md: a section '## `name`' with a picture is needed"


def _allowed(field: dataclasses.Field) -> str | None:
    """What a knob's row says is allowed; None where words must say it."""
    choices, low, high = (field.metadata[key] for key in ("choices", "low", "high"))
    if isinstance(field.default, bool):
        return "true or false"
    if choices:
        return ", ".join(choices)
    if low is None:
        return None
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def test_knobs_are_described_as_they_are() -> None:
    for name in registry.names():
        rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", _section(name), re.MULTILINE)
        fields = dataclasses.fields(registry.method_class(name))
        assert [row[:2] for row in rows] == [(field.name, str(field.default)) for field in fields], name
        for (knob, _, allowed, meaning), field in zip(rows, fields, strict=True):
            assert _allowed(field) in (None, allowed), (name, knob)
            assert meaning == field.metadata["help"], (name, knob)


def test_the_densities_in_the_table_are_those_of_the_masks() -> None:
    layout = models.get("hunyuanvideo").layout(253)
    rows = dict(re.findall(r"^\| \[`(\w+)`\].*\| ([^|]+) \|$", (DOCS / "methods.md").read_text(), re.MULTILINE))
    assert list(rows) == registry.names()
    for name in registry.names():
        method = registry.get(name)
        expected = f"{method.density(layout, 128, 24):.4f}" if has_mask(method) else "no mask"
        assert rows[name] == expected, name


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_there_and_small() -> None:
    shown = set(re.findall(r"\(images/(\w+\.png)\)", (DOCS / "methods.md").read_text()))
    drawn = {f"{file}.png" for name in registry.names() for file in _views(name)} | {"riflex.png"}
    assert shown == drawn
    assert sum((IMAGES / name).stat().st_size for name in shown) < 1_500_000


def test_pictures_show_the_masks_of_the_code() -> None:
    """A changed mask needs its picture drawn anew: PYTHONPATH=. python docs/draw_masks.py."""
    from PIL import Image

    drawing = _drawing()
    compared = 0
    for name in registry.names():
        for file, panels in _views(name).items():
            with Image.open(IMAGES / f"{file}.png") as image:
                pixels = np.asarray(image.convert("RGB"))
            for number, panel in enumerate(panels):
                top, left = drawing.mask_corner(number, panel.layout)
                side = panel.layout.tokens
                found = pixels[top : top + side, left : left + side].astype(int)
                kept = found.max(axis=2) - found.min(axis=2) > 60  # the methods' colours; backgrounds are nearly grey
                if name in ("dense", "random", "dense_repeated"):  # black, and grey
                    kept = found.max(axis=2) < 200
                assert np.array_equal(kept, panel.kept), file
                compared += 1
    assert compared == 16


def test_drawn_masks_have_the_density_that_is_written_above_them() -> None:
    drawing = _drawing()
    for name in registry.names():
        for panels in _views(name).values():
            for panel in panels:
                assert panel.kept.mean() == pytest.approx(panel.density, abs=1e-9), name
                if registry.get(name).density_knob() and "equation 4" not in panel.title and not panel.layout.text:
                    assert panel.density == pytest.approx(drawing.BUDGET, abs=0.04), name


# --- what design.md says of dependencies -----------------------------------------------------------------------------


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("methods", ("benchmark.models", "benchmark.kernels", "benchmark.records", "paper_figures")),
        ("benchmark/kernels", ("benchmark.models", "benchmark.layout", "methods", "paper_figures")),
        ("benchmark/models", ("methods", "benchmark.kernels", "paper_figures")),
        ("benchmark", ("paper_figures",)),
    ],
)
def test_dependencies_point_one_way(folder: str, forbidden: tuple[str, ...]) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        wrong = [
            name for name in _imports(path) if any(name == part or name.startswith(part + ".") for part in forbidden)
        ]
        assert wrong == [], path
