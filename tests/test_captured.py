"""Drawing clips from CUDA graphs: which methods can, and that the clips are those of eager steps."""

from __future__ import annotations

import pytest
import torch
from tiny_testbed import GRID, PROMPT, tiny_noise, tiny_spec, tiny_transformer

from benchmark import kernels, registry
from benchmark.attention import AttentionRouter, Schedule
from benchmark.captured import CapturedTransformer, capturable
from benchmark.models import wan
from benchmark.testbed.grammar import encode
from benchmark.testbed.sample import sample


def router(method: str, kernel) -> AttentionRouter:
    made = registry.get(method, {"tile": "2x2x2", "window": "1x1x1"} if method == "sta" else {})
    return AttentionRouter(made, GRID, 4, kernel, Schedule(4, 2))


@pytest.mark.parametrize(
    ("name", "kernel", "expected"),
    [
        ("radial", "gathered", True),
        ("radial", "flex", True),
        ("svg", "gathered", False),
        ("radial", "sdpa", False),
        ("dense_repeated", "sdpa", True),
    ],
)
def test_what_is_decided_or_read_at_each_call_is_not_captured(name: str, kernel: str, expected: bool) -> None:
    assert capturable(registry.get(name, {}), kernel) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", [name for name in registry.names() if name != "svg"])
def test_captured_clips_are_the_eager_ones(name: str) -> None:
    spec = tiny_spec()
    _, kernel = kernels.select("gathered", "cuda", block=4, head_dim=spec.head_dim)
    transformer = tiny_transformer(spec).to("cuda", torch.bfloat16)
    routed = router(name, kernel)
    wan.install(transformer, routed, 2.0)
    noise, text = tiny_noise(spec, 2).cuda(), encode([PROMPT]).cuda()

    def before_step(step: int) -> None:
        routed.step = step

    eager = [sample(transformer, one, text, 4, before_step) for one in noise.split(1)]
    forward = CapturedTransformer(transformer, routed)
    for one, expected in zip(noise.split(1), eager, strict=True):  # the second clip runs from the first one's graphs
        torch.testing.assert_close(sample(transformer, one, text, 4, before_step, forward), expected)
