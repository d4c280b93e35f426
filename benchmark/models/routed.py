"""What the attention processors of all models share: the way to their router, in eager and in compiled code.

All processors of a transformer share a ``Link`` that holds the router of the moment. In a compiled block the attention
is one opaque operation, ``benchmark::routed_attention``: the compiler sees neither method nor kernel, and the graph has
no break. PyTorch's operations take no Python objects, so the operation gets the number of the link and the layer as a
tensor; a number in the code would make the compiler build every layer anew.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

import torch

from benchmark.attention import AttentionRouter
from benchmark.method import inverse
from benchmark.models.rotary import Rotation, changed_frequencies, with_temporal

# The one way from a tensor back to an object: nothing is kept alive by it, and a number is never used twice.
_LINKS: weakref.WeakValueDictionary[int, Link] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()

Tables = tuple[torch.Tensor, torch.Tensor]  # cosines and sines


class Link:
    """The router that serves a transformer's processors, and the hooks round its blocks.

    Hooks sit on modules before the first block and after the last, so that compiled blocks have none.

    Args:
        router: the router of the moment; ``fuse.reroute`` puts in another.
        heads: attention heads of the transformer.
        repetition: the period in latent frames at which the model was seen to repeat itself, if anyone looked.
    """

    def __init__(self, router: AttentionRouter, heads: int, repetition: float | None = None) -> None:
        self.router = router
        self.heads = heads
        self.repetition = repetition
        self.halved = False  # whether blocks want their rotary tables as (tokens, heads or 1, half of the head size)
        self.number = next(_NUMBERS)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        _LINKS[self.number] = self

    def place(self, layer: int) -> torch.Tensor:
        """What the opaque operation is told of a layer: int64 (2,), on the CPU, so that reading it never waits."""
        return torch.tensor([self.number, layer], device="cpu")

    def hold(self, *handles: torch.utils.hooks.RemovableHandle) -> None:
        """Keeps hooks, to be removed when another router is installed."""
        self._handles.extend(handles)

    def release(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def order(self, device: torch.device) -> torch.Tensor | None:
        """The order in which the blocks see the video tokens; None for frame-major order."""
        return self.router.hoisted_order(self.heads, device) if self.router.hoisted else None

    def permute(self, x: torch.Tensor, token_dim: int) -> torch.Tensor:
        """Video tokens in frame-major order, in that of the blocks.

        Raises:
            ValueError: there are not as many as the layout has.
        """
        order = self.order(x.device)
        if order is None:
            return x
        self._check(x.shape[token_dim])
        return x.index_select(token_dim, order)

    def permute_back(self, module: torch.nn.Module, args: tuple) -> tuple:
        """The hook before the first module after the blocks: its first argument, (batch, tokens, channels), comes in
        the order of the blocks and leaves in frame-major order."""
        order = self.order(args[0].device)
        return args if order is None else (args[0].index_select(1, inverse(order)), *args[1:])

    def positions(
        self, tables: tuple[torch.Tensor, torch.Tensor], frequencies: torch.Tensor | None, token_dim: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's rotary tables with the method's temporal frequencies, in the order of the blocks.

        Args:
            frequencies: the model's temporal frequencies, (components,); None where a method may not change them.
        """
        router = self.router
        if frequencies is not None:
            changed = changed_frequencies(frequencies, router.method, router.layout, self.repetition)
            if changed is not None:
                self._check(tables[0].shape[token_dim])
                tables = with_temporal(tables, changed, router.layout)
        return self.permute(tables[0], token_dim), self.permute(tables[1], token_dim)

    def read_text(self, name: str, position: int, args: tuple, kwargs: dict) -> None:
        """The hook's work before a forward pass of a model with text in its sequence: how much of it is valid.

        Args:
            name: the argument that holds the mask, (batch, text tokens), true where a token is valid.
            position: its place among positional arguments.

        Raises:
            ValueError: padding comes before a valid token.
        """
        mask = (kwargs[name] if name in kwargs else args[position]).bool()
        counts = mask.sum(dim=1)
        places = torch.arange(mask.shape[1], device=mask.device)
        in_front = (mask == (places < counts[:, None])).all(dim=1)
        self.router.text, ordered = (values.tolist() for values in (counts, in_front))
        if not all(ordered):
            raise ValueError(
                f"{name}: sample {ordered.index(False)} has padding before a valid token; padding must come last"
            )

    def _check(self, tokens: int) -> None:
        layout = self.router.layout
        if tokens != layout.video:
            raise ValueError(f"attention over {tokens} tokens: the layout {layout} has {layout.video}")


def connect(transformer: torch.nn.Module, router: AttentionRouter, heads: int, repetition: float | None = None) -> Link:
    """Links a transformer to a router, in place of the one that it was linked to."""
    former = getattr(transformer, "attention_link", None)
    if former is not None:
        former.release()
    device = next(transformer.parameters()).device
    # On the device meta there are shapes and no values, hence no orders.
    router.hoisted = device.type != "meta" and router.hoisted_order(heads, device) is not None
    transformer.attention_link = Link(router, heads, repetition)
    return transformer.attention_link


def connect_with_positions(
    transformer: torch.nn.Module,
    router: AttentionRouter,
    repetition: float | None,
    frequencies: Callable[[torch.nn.Module], torch.Tensor],
    half_tables: Callable[[Tables], Tables],
    token_dim: int,
) -> Link:
    """``connect`` for a transformer whose module ``rope`` makes one pair of rotary tables for all blocks, and whose
    blocks end before ``norm_out``: its temporal positions are the method's, its tokens in the order of the blocks.

    What permutes the tokens before the first block is left to the model.

    Args:
        repetition: the period in latent frames at which the model was seen to repeat itself, if anyone looked.
        frequencies: the model's temporal frequencies, of its module ``rope``.
        half_tables: the tables of ``rope`` as (tokens, 1, half of the head size) each.
        token_dim: dimension of the tokens in the tables of ``rope``.

    Raises:
        ValueError: the method refuses the model's temporal positions.
    """
    changed_frequencies(frequencies(transformer.rope), router.method, router.layout, repetition)
    link = connect(transformer, router, transformer.config.num_attention_heads, repetition)

    def tables(rope: torch.nn.Module, args: tuple, output: Tables) -> Tables:
        output = link.positions(output, frequencies(rope), token_dim)
        return half_tables(output) if link.halved else output

    link.hold(
        transformer.rope.register_forward_hook(tables),
        transformer.norm_out.register_forward_pre_hook(link.permute_back),
    )
    return link


class RoutedAttention:
    """The attention processor of one block, but for what differs between models.

    Args:
        layer: the block's number, from 0.
        link: the way to the router.
    """

    def __init__(self, layer: int, link: Link) -> None:
        self.layer = layer
        self.link = link
        self.rotates_first = link.router.rotates_first
        self.place: torch.Tensor | None = None  # set where the block is compiled round the opaque operation
        self.direct = RoutedAttention.ask  # another function of the same kind where compiled code stops for it

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        """The router's attention.

        Args:
            q, k, v: (batch, tokens, heads, head size).
            tables: cosines and sines of the video tokens, each (tokens, heads or 1, half of the head size); None where
                q and k are rotated.
        """
        if self.place is None:
            return self.direct(self, q, k, v, tables)
        return routed_attention(self.place, q, k, v, *(tables or (None, None)))

    def ask(self, q, k, v, tables) -> torch.Tensor:
        """The router's attention, as a plain call."""
        return self.link.router.attend(self.layer, q, k, v, Rotation(*tables) if tables else _same)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


@torch.library.custom_op("benchmark::routed_attention", mutates_args=())
def routed_attention(
    place: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cosines: torch.Tensor | None,
    sines: torch.Tensor | None,
) -> torch.Tensor:
    """The attention of the router and layer that ``place`` names; see ``RoutedAttention.attend``. Without gradients."""
    number, layer = place.tolist()
    rotate = _same if cosines is None else Rotation(cosines, sines)
    out = _LINKS[number].router.attend(layer, q, k, v, rotate)
    # An operation may not return its argument.
    return out.clone(memory_format=torch.contiguous_format) if _shared(out, q, k, v) else out.contiguous()


@routed_attention.register_fake
def _(place, q, k, v, cosines, sines):
    return v.new_empty(v.shape)


def _shared(out: torch.Tensor, *inputs: torch.Tensor) -> bool:
    return any(out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for x in inputs)
