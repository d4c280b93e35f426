"""What a sparse-attention method is: the one thing a file in ``methods/`` defines.

A method is a frozen dataclass whose fields are its knobs. It overrides what it changes and inherits the rest from dense
attention:

- the pattern: ``block_mask`` (planned from the layout), or ``pattern_for`` (decided from the queries and keys), perhaps
  after a permutation of the video tokens (``order``);
- the operator: ``attend``;
- the positions: ``temporal_frequencies``.

A method knows layouts and masks. It never imports a model or a kernel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, dense_mask

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, BlockMask], torch.Tensor]
Rotation = Callable[[torch.Tensor], torch.Tensor]


def knob(default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: tuple = ()) -> Any:
    """A field of a method that a user may set: its default, its meaning, and what is allowed.

    Args:
        low, high: the smallest and largest value allowed, for numbers.
        choices: the values allowed, for words.
    """
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, eq=False)
class Pattern:
    """A block mask and the order of the tokens in which it holds.

    Args:
        mask: the blocks that attend, counted in the permuted sequence.
        orders: permutations of the whole sequence, int64 (tokens,): ``order[n]`` is the frame-major index of the token
            that stands at place n. None is frame-major order.
        head_order: int64 (heads,), which of ``orders`` each head uses; None where all use the first, or where it is
            decided from the queries and keys.
    """

    mask: BlockMask
    orders: tuple[torch.Tensor | None, ...] = (None,)
    head_order: torch.Tensor | None = None


@dataclass(frozen=True)
class Method:
    """Dense attention; the base of every method."""

    title: ClassVar[str] = "Dense"
    """Name in tables and figures."""
    source: ClassVar[str] = ""
    """Paper or code that the method comes from."""
    budget_knob: ClassVar[str | None] = None
    """The knob that sets the density, if one does."""
    sparse: ClassVar[bool] = True
    """Whether the method computes fewer query-key pairs than dense attention at all."""
    dynamic: ClassVar[bool] = False
    """Whether the pattern depends on the queries and keys (see ``pattern_for``)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_knob(type(self).name(), field, getattr(self, field.name))

    @classmethod
    def name(cls) -> str:
        """The method's name everywhere: the name of its file."""
        return cls.__module__.rpartition(".")[2]

    def knobs(self) -> dict[str, Any]:
        """Every knob and its value."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    # --- the pattern ---------------------------------------------------------------------------------------------

    def order(self, layout: VideoLayout, device: torch.device | str = "cpu") -> torch.Tensor | None:
        """The order in which the mask sees the video tokens: int64 (video,), or None for frame-major order."""
        return None

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The mask for a layout, in the order of ``order``; by default every block."""
        return dense_mask(layout, block, device)

    def pattern(self, layout: VideoLayout, block: int, heads: int = 1, device: torch.device | str = "cpu") -> Pattern:
        """Mask and order for all heads; override it where heads differ."""
        order = self.order(layout, device)
        if order is not None:
            order = with_text(order, layout)
        return Pattern(self.block_mask(layout, block, device), (order,))

    def pattern_for(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layout: VideoLayout,
        block: int,
        planned: Pattern | None = None,
    ) -> Pattern:
        """The pattern of one attention call; ``dynamic`` methods override it.

        Args:
            q, k, v: (1, tokens, heads, head size), rotated. The samples of a batch come as further heads, so that each
                sample gets a pattern of its own.
            planned: the method's ``pattern`` for this layout, if the caller has it already: what need not be planned
                at every call.
        """
        return planned or self.pattern(layout, block, q.shape[2], q.device)

    def density_knob(self) -> str | None:
        """The knob that a budget is solved for at this setting; None where there is none."""
        return self.budget_knob

    def settings(self, layout: VideoLayout, block: int) -> Iterator[Method]:
        """Every setting worth considering for a budget, where the knob is not one ordered number; see ``budget``."""
        return iter(())

    # --- the operator ----------------------------------------------------------------------------------------------

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotate: Rotation,
        layout: VideoLayout,
        block: int,
        kernel: Kernel,
        pattern: Pattern | None = None,
    ) -> torch.Tensor:
        """The attention of one layer: softmax attention over the method's pattern.

        Args:
            q, k, v: (batch, tokens, heads, head size); q and k before the rotary embedding.
            rotate: applies the model's rotary embedding to q or k.
            kernel: block-sparse softmax attention, ``kernel(q, k, v, mask)``.
            pattern: the method's ``pattern`` for this layout, if the caller has it already.

        Returns:
            (batch, tokens, heads, head size), in the order of the input.
        """
        q, k = rotate(q), rotate(k)
        if not self.dynamic:
            return attend_pattern(q, k, v, pattern or self.pattern(layout, block, q.shape[2], q.device), kernel)
        batch, tokens, heads, size = q.shape
        q, k, v = (x.transpose(0, 1).reshape(1, tokens, batch * heads, size) for x in (q, k, v))
        out = attend_pattern(q, k, v, self.pattern_for(q, k, v, layout, block, pattern), kernel)
        return out.reshape(tokens, batch, heads, size).transpose(0, 1)

    def attention_operations(self, layout: VideoLayout, block: int, heads: int, head_dim: int) -> float:
        """Operations of one layer's attention for one sample, a multiply-add being two: its executed pairs."""
        return 4.0 * heads * head_dim * self.pattern(layout, block, heads).mask.executed_pairs()

    def density(self, layout: VideoLayout, block: int, heads: int = 1, head_dim: int = 64) -> float:
        """Executed query-key pairs over those of dense attention: the budget that this setting takes.

        Args:
            head_dim: size of a head; it matters only to operators that compute no query-key pairs.
        """
        return self.pattern(layout, block, heads).mask.density

    # --- the positions ---------------------------------------------------------------------------------------------

    def temporal_frequencies(self, frequencies: torch.Tensor, frames: int, repetition: float | None) -> torch.Tensor:
        """The temporal frequencies of the rotary embedding, in radians a latent frame; by default the model's own.

        Args:
            frequencies: (components,), the model's, highest first.
            frames: latent frames of the clip that is generated.
            repetition: the period, in latent frames, at which the model was seen to repeat itself beyond its trained
                length; None where nobody has looked.
        """
        return frequencies


def with_text(order: torch.Tensor, layout: VideoLayout) -> torch.Tensor:
    """An order of the video tokens, with the text tokens left at the end: int64 (tokens,)."""
    return torch.cat([order, torch.arange(layout.video, layout.tokens, device=order.device)])


def attend_pattern(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pattern: Pattern, kernel: Kernel) -> torch.Tensor:
    """Softmax attention over a pattern: permute the tokens, run the kernel, permute back.

    Args:
        q, k, v: (batch, tokens, heads, head size), rotated, in frame-major order.

    Raises:
        ValueError: the pattern has several orders and does not say which head uses which.
    """
    orders, head_order = pattern.orders, pattern.head_order
    if all(order is None for order in orders):
        return kernel(q, k, v, pattern.mask)
    if head_order is None:
        if len(orders) != 1:
            raise ValueError(f"pattern with {len(orders)} orders: head_order must say which head uses which")
        there, back = orders[0], inverse(orders[0])
    else:
        identity = torch.arange(q.shape[1], device=q.device)
        there = torch.stack([identity if order is None else order for order in orders])[head_order]
        back = torch.stack([identity if order is None else inverse(order) for order in orders])[head_order]
    q, k, v = (_Permuted.apply(x, there, back) for x in (q, k, v))
    return _Permuted.apply(kernel(q, k, v, pattern.mask), back, there)


class _Permuted(torch.autograd.Function):
    """``permute_tokens`` with a backward pass that is one as well, and not a scattered sum."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, orders: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return permute_tokens(x, orders)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return permute_tokens(gradient, *ctx.saved_tensors), None, None


def inverse(order: torch.Tensor) -> torch.Tensor:
    """The permutation that undoes another: int64 (tokens,)."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def permute_tokens(x: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Puts the tokens in another order, for all heads or for each head in its own.

    The channels of a token in one head are moved as one row, so that there is one index a row and not one a value.

    Args:
        x: (batch, tokens, heads, head size).
        orders: int64 (tokens,) or (heads, tokens): the token that comes to stand at each place.

    Returns:
        (batch, tokens, heads, head size), contiguous.
    """
    if orders.dim() == 1:
        return x.index_select(1, orders)
    batch, tokens, heads, size = x.shape
    if x.stride(3) != 1 or x.stride(2) != size or x.stride(1) % size or (batch > 1 and x.stride(0) % size):
        x = x.contiguous()
    # Rows are counted in storage, so that a slice of a larger tensor (v in a joint projection) need not be copied.
    per_token, per_sample = x.stride(1) // size, x.stride(0) // size if batch > 1 else 0
    number = (batch - 1) * per_sample + (tokens - 1) * per_token + heads
    rows = x.as_strided((number, size), (size, 1))
    index = orders.T * per_token + torch.arange(heads, device=x.device)
    index = index + torch.arange(batch, device=x.device)[:, None, None] * per_sample
    return rows[index.flatten()].view(x.shape)


def check_definition(kind: type[Method]) -> None:
    """Refuses a method that would fail, or be counted wrongly, only once it runs.

    Raises:
        ValueError: naming the method's file: the class is no dataclass of its own, a knob has no default, the budget
            knob is no knob or has no range, or an operator comes without what it costs.
    """
    where = f"methods/{kind.name()}.py"
    if "__dataclass_params__" not in vars(kind):
        raise ValueError(f"{where}: @dataclass(frozen=True) is needed above class {kind.__name__}")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING:
            raise ValueError(
                f"{where}: {field.name}: a knob's default is needed, as in knob(default, help, low=, high=)"
            )
    if kind.budget_knob is not None:
        budget_knob(kind, kind.budget_knob)
    needed = [name for name in ("attention_operations", "density") if getattr(kind, name) is getattr(Method, name)]
    if kind.attend is not Method.attend and needed:
        raise ValueError(
            f"{where}: attend is defined without {' and '.join(needed)}, which would count pairs of a mask that an "
            "operator of one's own does not have; define both"
        )


def budget_knob(kind: type[Method], name: str) -> dataclasses.Field:
    """The field of a knob that a budget is solved for.

    Raises:
        ValueError: there is no such knob, or it has no lowest value to begin at.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    where = f"methods/{kind.name()}.py: budget knob {name}"
    if name not in fields:
        raise ValueError(f"{where}: it is no field of class {kind.__name__}; its knobs: {', '.join(fields) or 'none'}")
    if fields[name].metadata.get("low") is None:
        raise ValueError(
            f"{where}: it needs knob(..., low=, high=), between which a budget is solved for; without high= it ends at "
            "the frames of the clip"
        )
    return fields[name]


def check_knob(method: str, field: dataclasses.Field, value: Any) -> None:
    """Refuses a knob's value that is not allowed.

    Raises:
        ValueError: naming the method, the knob, the value and what is allowed.
    """
    choices, low, high = (field.metadata.get(key) for key in ("choices", "low", "high"))
    where = f"{method}: {field.name}={value!r}"
    kind = type(field.default)
    number = kind in (int, float)
    if field.default is not None and not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{where}: a value like {field.default!r} is needed")
    if number and kind is not bool and isinstance(value, bool):
        raise ValueError(f"{where}: a number like {field.default!r} is needed")
    if isinstance(value, float) and not math.isfinite(value):  # nan lies between any two numbers
        raise ValueError(f"{where}: a finite number is needed")
    if choices and value not in choices:
        raise ValueError(f"{where}: one of {', '.join(map(str, choices))} is needed")
    if value is not None and low is not None and value < low:
        raise ValueError(f"{where}: at least {low} is needed")
    if value is not None and high is not None and value > high:
        raise ValueError(f"{where}: at most {high} is allowed")
