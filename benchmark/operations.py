"""How many operations a forward pass and a whole generation take, counted from a model's configuration.

One multiply-add is two operations. Matrix products (linear layers, convolutions, attention) are counted; normalisation,
activations, softmax and the rotation of queries and keys are not. The counts are those of diffusers' modules, to the
last operation, as ``torch.utils.flop_counter`` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.layout import VideoLayout
from benchmark.models.spec import ModelSpec

if TYPE_CHECKING:
    from benchmark.cell import Cell
    from benchmark.method import Method

PETA = 1e15


@dataclass(frozen=True)
class Operations:
    """Operations of a pass or of a generation.

    Args:
        linear: linear layers of the transformer blocks: projections, feed-forward and, where a block has its own, the
            modulation.
        self_attention: the two products of self-attention over the video tokens, and the text tokens among them.
        cross_attention: the two products of cross-attention to the text.
        ends: everything outside the transformer blocks: patches, time and text embedding (HunyuanVideo's text refiner
            with its small attention, Mochi's pooling) and the output head.
    """

    linear: float
    self_attention: float
    cross_attention: float = 0
    ends: float = 0

    @property
    def total(self) -> float:
        """Operations of the transformer blocks. Published counts leave the ends out: 0.0025 % of Wan2.1-14B."""
        return self.linear + self.self_attention + self.cross_attention

    @property
    def with_ends(self) -> float:
        """Operations of the whole transformer."""
        return self.total + self.ends

    @property
    def pflop(self) -> float:
        """``total`` in units of 10^15 operations, as the paper's tables print it."""
        return pflop(self.total)


def pflop(operations: float) -> float:
    """Operations in units of 10^15."""
    return operations / PETA


def attention_operations(spec: ModelSpec, layout: VideoLayout, density: float = 1.0) -> float:
    """Operations of one layer's self-attention that executes ``density`` of the query-key pairs, in one pass.

    Args:
        spec: the model.
        layout: token grid; every token of it, text included, is a query and a key.
        density: executed pairs over all pairs, whole executed blocks counted.
    """
    return _attention(layout.tokens, layout.tokens, spec.width) * density


def pass_operations(spec: ModelSpec, layout: VideoLayout) -> Operations:
    """Operations of one forward pass, for one clip, with dense attention.

    Text in the sequence counts with ``layout.text`` tokens, none of them padding; text that enters by cross-attention
    with ``spec.text_tokens``.

    Args:
        spec: the model.
        layout: token grid of the clip.

    Raises:
        ValueError: there is no count for the model's transformer class, or for a part its configuration adds; or the
            layout has text tokens where the model has none in its sequence.
    """
    counters = {
        "HunyuanVideoTransformer3DModel": _hunyuanvideo,
        "WanTransformer3DModel": _wan,
        "MochiTransformer3DModel": _mochi,
    }
    counter: Callable[[ModelSpec, VideoLayout], Operations] | None = counters.get(spec.transformer_class)
    if counter is None:
        raise ValueError(
            f"{spec.name}: no operation count for {spec.transformer_class}; there are counts for {', '.join(counters)}"
        )
    if layout.text and not spec.joint_text:
        raise ValueError(f"{spec.name}: layout {layout}: no text tokens belong in this model's sequence")
    return counter(spec, layout)


def generation_operations(
    spec: ModelSpec,
    layout: VideoLayout,
    *,
    steps: int | None = None,
    dense_steps: int = 0,
    dense_layers: int = 0,
    sparse_layer_operations: float | None = None,
    passes: int | None = None,
) -> Operations:
    """Operations of a whole generation: all steps, all passes of a step, one clip.

    The first ``dense_steps`` steps are dense in all layers, and the first ``dense_layers`` layers in all steps.

    Args:
        spec: the model.
        layout: token grid of the clip.
        steps: denoising steps; ``spec.steps`` where None.
        dense_steps: steps with dense attention, out of ``steps``.
        dense_layers: layers with dense attention, out of ``spec.layers``.
        sparse_layer_operations: operations of the method's attention in one layer and one pass, where it is sparse
            (``attention_operations`` with the mask's density, or the method's own number); dense where None.
        passes: forward passes a step; ``spec.passes`` where None.

    Raises:
        ValueError: a number of the schedule is out of its range.
    """
    steps = spec.steps if steps is None else steps
    passes = spec.passes if passes is None else passes
    _require_range("steps", steps, 1, None)
    _require_range("passes", passes, 1, None)
    _require_range("dense_steps", dense_steps, 0, steps)
    _require_range("dense_layers", dense_layers, 0, spec.layers)
    one = pass_operations(spec, layout)
    dense_layer = attention_operations(spec, layout)
    sparse_layer = dense_layer if sparse_layer_operations is None else sparse_layer_operations
    if not math.isfinite(sparse_layer) or sparse_layer < 0:
        raise ValueError(f"sparse_layer_operations={sparse_layer}: a finite number of at least 0 is needed")
    sparse_layers = (steps - dense_steps) * (spec.layers - dense_layers)
    self_attention = (steps * spec.layers - sparse_layers) * dense_layer + sparse_layers * sparse_layer
    return Operations(
        linear=passes * steps * one.linear,
        self_attention=passes * self_attention,
        cross_attention=passes * steps * one.cross_attention,
        ends=passes * steps * one.ends,
    )


def cell_operations(cell: Cell, spec: ModelSpec, layout: VideoLayout, method: Method) -> dict[str, float]:
    """What one clip of a cell comes to, under the cell's schedule.

    Args:
        spec, layout: the cell's model, and its token grid.
        method: the cell's method, its knob solved for the budget.

    Returns:
        ``density`` of the sparse steps and layers; ``pflop`` and ``pflop_dense``, 10^15 operations of the transformer's
        blocks under the method, and under dense attention throughout.
    """
    dense = generation_operations(spec, layout, steps=cell.steps)
    sparse = generation_operations(
        spec,
        layout,
        steps=cell.steps,
        dense_steps=cell.dense_steps,
        dense_layers=cell.dense_layers,
        sparse_layer_operations=method.attention_operations(layout, cell.block, spec.heads, spec.head_dim),
    )
    return {
        "density": method.density(layout, cell.block, spec.heads, spec.head_dim),
        "pflop": sparse.pflop,
        "pflop_dense": dense.pflop,
    }


def _require_range(name: str, value: int, least: int, most: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        allowed = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise ValueError(f"{name}={value!r}: a whole number {allowed} is needed")


def _linear(rows: int, *widths: int) -> int:
    """Linear layers one after another, each from a width to the next, applied to ``rows`` tokens."""
    return sum(2 * rows * inputs * outputs for inputs, outputs in zip(widths, widths[1:], strict=False))


def _attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted values of all heads, whose channels are ``width`` together."""
    return 4 * queries * keys * width


def _patches(spec: ModelSpec, layout: VideoLayout) -> int:
    """Patch embedding, and the output head's projection back to patches."""
    config = spec.transformer_config
    pixels = math.prod(spec.patch)
    outputs = config["out_channels"] or config["in_channels"]
    return _linear(layout.video, pixels * config["in_channels"], spec.width) + _linear(
        layout.video, spec.width, pixels * outputs
    )


def _refuse_images(spec: ModelSpec, *keys: str) -> None:
    for key in keys:
        if spec.transformer_config[key] is not None:
            value = spec.transformer_config[key]
            raise ValueError(f"{spec.name}: {key}={value!r}: only text-to-video transformers, with None, are counted")


def _wan(spec: ModelSpec, layout: VideoLayout) -> Operations:
    _refuse_images(spec, "image_dim", "added_kv_proj_dim")
    config, width, video, text = spec.transformer_config, spec.width, layout.tokens, spec.text_tokens
    block = (
        _linear(video, width, width) * 6  # self-attention's q, k, v and output; cross-attention's q and output
        + _linear(text, width, width) * 2  # cross-attention's k and v
        + _linear(video, width, config["ffn_dim"], width)
    )
    time = _linear(1, config["freq_dim"], width, width, 6 * width)
    return Operations(
        linear=spec.layers * block,
        self_attention=spec.layers * _attention(video, video, width),
        cross_attention=spec.layers * _attention(video, text, width),
        ends=_patches(spec, layout) + time + _linear(text, config["text_dim"], width, width),
    )


def _hunyuanvideo(spec: ModelSpec, layout: VideoLayout) -> Operations:
    _refuse_images(spec, "image_condition_type")
    config, width, tokens, text = spec.transformer_config, spec.width, layout.tokens, layout.text
    mlp = int(width * config["mlp_ratio"])
    # The two streams of a double block have the same widths, so that one product over all tokens counts both.
    double = _linear(tokens, width, width) * 4 + _linear(tokens, width, mlp, width) + _linear(1, width, 6 * width) * 2
    single = (
        _linear(tokens, width, width) * 3
        + _linear(tokens, width, mlp)
        + _linear(tokens, width + mlp, width)
        + _linear(1, width, 3 * width)
    )
    time = _linear(1, 256, width, width)
    refiner_block = (
        _linear(text, width, width) * 4
        + _attention(text, text, width)
        + _linear(text, width, 4 * width, width)
        + _linear(1, width, 2 * width)
    )
    refiner = (
        time
        + _linear(1, config["text_embed_dim"], width, width)
        + _linear(text, config["text_embed_dim"], width)
        + config["num_refiner_layers"] * refiner_block
    )
    condition = time * (2 if config["guidance_embeds"] else 1)
    condition += _linear(1, config["pooled_projection_dim"], width, width)
    return Operations(
        linear=config["num_layers"] * double + config["num_single_layers"] * single,
        self_attention=spec.layers * _attention(tokens, tokens, width),
        ends=_patches(spec, layout) + refiner + condition + _linear(1, width, 2 * width),
    )


def _mochi(spec: ModelSpec, layout: VideoLayout) -> Operations:
    config, width, video, text = spec.transformer_config, spec.width, layout.video, layout.text
    if config["activation_fn"] != "swiglu":
        raise ValueError(f"{spec.name}: activation_fn={config['activation_fn']!r}: only 'swiglu' is counted")
    context, embedded = config["pooled_projection_dim"], config["text_embed_dim"]

    def feed_forward(tokens: int, channels: int) -> int:
        inner = 4 * channels * 2 // 3
        return _linear(tokens, channels, 2 * inner) + _linear(tokens, inner, channels)  # SwiGLU: a gate and a value

    always = (
        _linear(1, width, 4 * width)
        + _linear(video, width, width) * 4
        + feed_forward(video, width)
        + _linear(text, context, width) * 3
    )
    both_streams = _linear(1, width, 4 * context) + _linear(text, width, context) + feed_forward(text, context)
    text_last = _linear(1, width, context)  # the last block only normalises the text that it attends to
    pooling = (
        _linear(text + 1, embedded, 2 * embedded)
        + _linear(1, embedded, embedded, width)
        + _attention(1, text + 1, embedded)
    )
    condition = _linear(1, config["time_embed_dim"], width, width) + pooling + _linear(text, embedded, context)
    rotary = _linear(video, 3, width // 2)  # three coordinates times the learned frequencies, once a pass
    return Operations(
        linear=spec.layers * always + (spec.layers - 1) * both_streams + text_last,
        self_attention=spec.layers * _attention(layout.tokens, layout.tokens, width),
        ends=_patches(spec, layout) + condition + rotary + _linear(1, width, 2 * width),
    )
