"""Writing the file of a new method: a stub that runs as it is, and says what else a method may change."""

from __future__ import annotations

import argparse
import keyword
import re
from pathlib import Path

import yaml

from benchmark import registry

EXAMPLE = """example:
  python -m benchmark new-method my_method
"""

STUB = '''"""{title}: say in one line what each query attends to (arXiv ...).

Say here what the paper leaves open and what you chose. As it stands, a token attends to a window of tokens around its
own place in the sequence; change the mask, and this text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, keep_text
from benchmark.method import Method, knob


@dataclass(frozen=True)
class {class_name}(Method):
    """{title}."""

    title = "{title}"  # the name in tables and figures
    source = ""  # the paper or code that it comes from
    budget_knob = "window"  # the knob that sets the density; it must not fall as the knob rises. None if there is none

    # A knob: its default, its meaning and its range. A budget is solved for by bisection between low and high.
    window: float = knob(0.2, "one-sided width of the window, as a share of the video", low=0.0, high=1.0)

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The blocks within the window.

        Args:
            layout: frames x height x width of video tokens in frame-major order, then ``layout.text`` text tokens.
            block: tokens a block; neither a frame nor the video need be a multiple of it.
        """
        side = layout.blocks(block)
        index = torch.arange(side, device=device)
        near = (index[:, None] - index[None, :]).abs() <= self.window * side
        # Every row needs a block, and text takes part in everything. More to build with: benchmark/masks.py.
        return BlockMask(keep_text(near, layout, block)[None], block, layout.tokens)

    # What else a method may define, each with its meaning in benchmark/method.py; delete what you do not need:
    #
    # order(layout, device)              the mask holds in another order of the video tokens, such as
    #                                    layout.token_major(device): position by position, all frames of each.
    # pattern(layout, block, heads, device)
    #                                    heads differ in their masks or orders.
    # pattern_for(q, k, v, layout, block, planned)
    #                                    the mask is decided from queries and keys at each call; set dynamic = True.
    # settings(layout, block)            every setting worth trying for a budget, where no single knob orders them.
    # attend(q, k, v, rotate, layout, block, kernel, pattern)
    #                                    no softmax attention at all; then attention_operations and density, too.
    # temporal_frequencies(frequencies, frames, repetition)
    #                                    other positions in time.
'''


def write(name: str, folder: Path) -> Path:
    """Writes the stub of a method.

    Args:
        name: the method's name, and its file's.
        folder: where methods are.

    Returns:
        The new file.

    Raises:
        ValueError: the name is taken, or cannot be a method's.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or _means_something_else(name):
        near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        near = f"m_{near}" if not near or not near[0].isalpha() or _means_something_else(near) else near
        raise ValueError(
            f"method name {name!r}: lower-case letters, digits and underscores are needed, a letter first, and no word "
            f"of Python or YAML; {near!r} would do"
        )
    path = folder / f"{name}.py"
    if path.exists():
        raise ValueError(f"method name {name!r}: {path.name} is there already; choose another name or edit that file")
    words = name.strip("_").split("_")
    class_name = "".join(word.capitalize() for word in words)
    if class_name in ("BlockMask", "Method", "VideoLayout"):  # what the file imports
        class_name += "Attention"
    path.write_text(STUB.format(title=" ".join(words).capitalize(), class_name=class_name))
    return path


def _means_something_else(name: str) -> bool:
    """Whether a name is a word of Python, or one that a configuration would not read as a name: on, null, all."""
    return keyword.iskeyword(name) or name in ("all", "y", "n") or not isinstance(yaml.safe_load(name), str)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.description = "Write methods/NAME.py: a documented method that runs as it is, with a window for its mask."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", metavar="NAME", help="the method's name: lower-case letters, digits and underscores")


def run(args: argparse.Namespace) -> int:
    """Writes the file and prints what to do next."""
    path = write(args.name, registry.METHODS_FOLDER)
    print(f"""{path.relative_to(registry.METHODS_FOLDER.parent)} is there. Edit it, then:
  pytest -k {args.name}
  snakemake --cores all --configfile config/smoke.yaml --config experiment=mine methods=[dense,radial,{args.name}]""")
    return 0
