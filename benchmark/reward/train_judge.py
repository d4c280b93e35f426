"""The verb ``train_judge``: trains the testbed's judge and fits the weights of its answers, on a CPU, in minutes.

Clips are drawn by the procedural world and spoilt by the degradations that the judge is trained on, with strengths from
0 to 1. The first stage reads each clip once; the network is trained on what it read. A degradation's questions have the
target 2^(-strength / 0.2) for yes: half of the judges would say no at a strength of 0.2. Questions whose answer a
degradation leaves unsure are left out. Clean clips are softened a little, and some are noisier or out of focus by less
than what counts as spoilt, so that the look of a generator is not a flaw in itself.

Weights of answers follow from preference pairs by logistic regression: of a clip and a more spoilt copy the first is
preferred. All of it is deterministic for a seed, a number of threads and a processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from benchmark.records import describe_device, provenance, sha256_file, write_json
from benchmark.reward.degradations import BY_NUMBER, DEGRADATIONS, UNGRADED, blur_clips, degrade, names
from benchmark.reward.judge import QUESTIONS, RECORD_FILE, WEIGHTS_FILE, WEIGHTS_FOLDER, Checklist, Judge, load
from benchmark.reward.perception import Seen, perceive, wanted
from benchmark.testbed.grammar import Description, description_of
from benchmark.testbed.world import SceneBatch, render_batch, sample_batch, to_scenes

logger = logging.getLogger(__name__)

SHAPES_OF_CLIPS = ((16, 48), (32, 48), (24, 64), (64, 48), (32, 64), (48, 64), (96, 64))  # frames, size
EVALUATED = 5  # the first so many of these shapes are evaluated on
HALF = 0.2  # strength at which a question's target is one half
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
LARGEST_FILE = 1_000_000  # bytes
LEAST_PREFERRED = 0.95  # share of pairs in which a published judge prefers the cleaner clip
# Scenes of training, of the fit and of the evaluation come from generators of their own.
TRAINING, FITTING, EVALUATION = 0, 1, 2


@dataclass(frozen=True)
class JudgeSettings:
    """How the judge is trained.

    Args:
        chunks: groups of clips drawn; a group holds ``scenes`` scenes, clean and spoilt by ``kinds`` degradations.
        scenes: scenes a group.
        kinds: degradations a group.
        epochs: passes over all groups.
        rate: highest learning rate of AdamW; it rises over the first tenth and falls to zero as a cosine.
        decay: weight decay.
        pairs: preference pairs for each degradation, to fit the weights of the answers.
        ridge: strength of the squared penalty that draws the weights towards one another in that fit.
        held_out: preference pairs for each degradation in the evaluation.
        seed: of scenes, degradations and weights.

    Raises:
        ValueError: a setting is out of its range.
    """

    chunks: int = 112
    scenes: int = 4
    kinds: int = 7
    epochs: int = 11
    rate: float = 3e-3
    decay: float = 1e-2
    pairs: int = 8
    ridge: float = 0.01
    held_out: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("chunks", "scenes", "epochs", "pairs", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"training: {name}={getattr(self, name)}; a whole number of at least 1 is needed")
        trained = len(names(trained=True))
        if not 1 <= self.kinds <= trained:
            raise ValueError(f"training: kinds={self.kinds}; 1 to {trained} is allowed")
        if self.rate <= 0 or self.decay < 0 or self.ridge <= 0 or self.seed < 0:
            raise ValueError("training: rate and ridge above 0 are needed, decay and seed of at least 0")


@dataclass(frozen=True)
class Group:
    """Clips of one shape as the first stage read them, with targets of yes and their weight in the loss."""

    seen: Seen
    targets: torch.Tensor
    counted: torch.Tensor
    clean: torch.Tensor


def targets(name: str | None, strength: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets of yes (batch, questions), and 1 where they are known, 0 where not; ``name`` None is a clean clip."""
    order = {question: index for index, question in enumerate(QUESTIONS)}
    wanted_answers = torch.ones(len(strength), len(order))
    known = torch.ones_like(wanted_answers)
    if name is not None:
        kind = DEGRADATIONS[name]
        for question in kind.unsure:
            known[:, order[question]] = 0.0
        for question in kind.spoils:
            flaw = kind.least + (1 - kind.least) * strength
            wanted_answers[:, order[question]] = 0.5 ** (flaw / HALF)
            known[:, order[question]] = 1.0
    return wanted_answers, known


def soften(clips: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What no judge should mind: slightly soft, noisy, brighter, or paler clips, each by an amount of its own."""
    count = len(clips)
    size = clips.shape[-1]
    chance = torch.rand(5, count, generator=generator)
    sigma = 0.5 * chance[0] * (chance[1] < 0.7) * size / 64
    clips = blur_clips(clips, sigma)
    noise = 0.02 * chance[2] ** 2
    clips = clips + noise[:, None, None, None, None] * torch.randn(clips.shape, generator=generator)
    gain = 1 + 0.06 * (chance[3] - 0.5)
    pale = 0.1 * chance[4][:, None, None, None, None]
    clips = torch.lerp(clips * gain[:, None, None, None, None], clips.mean(dim=2, keepdim=True), pale)
    return torch.round(clips.clamp(0, 1) * 255) / 255


def _prompts(scenes: SceneBatch) -> list[Description]:
    return [description_of(scene) for scene in to_scenes(scenes)]


def draw_group(settings: JudgeSettings, number: int) -> Group:
    """One group of training clips: each scene clean, and spoilt by some degradations with strengths of their own."""
    random = np.random.Generator(np.random.PCG64([settings.seed, TRAINING, number]))
    generator = torch.Generator().manual_seed(int(random.integers(2**62)))
    frames, size = SHAPES_OF_CLIPS[_shape(number)]
    scenes = sample_batch(random, settings.scenes)
    clean = render_batch(scenes, frames, size)
    prompts = wanted(_prompts(scenes))
    kinds = random.permutation(names(trained=True))[: settings.kinds]
    parts = []
    for name in (None, *kinds.tolist()):
        strength = torch.from_numpy(random.random(settings.scenes)).float()
        spoilt = clean if name is None else degrade(name, scenes, clean, strength, generator)
        seen = perceive(soften(spoilt, generator), prompts)
        answers, known = targets(name, strength)
        parts.append(Group(seen, answers, known, torch.full((settings.scenes,), name is None)))
    return join(parts)


def _shape(number: int) -> int:
    """Which shape a group has; short clips, which cost less, come more often."""
    longest = 6 if number % 32 == 31 else 5
    return (0, 2, 0, 1, 0, 2, 1, 4, 0, 2, 0, 1, 3, 2, 0, longest)[number % 16]


def join(groups: list[Group]) -> Group:
    """Groups of one shape as one."""
    seen = Seen(
        **{
            field.name: torch.cat([getattr(group.seen, field.name) for group in groups])
            for field in dataclasses.fields(Seen)
        }
    )
    rest = {name: torch.cat([getattr(group, name) for group in groups]) for name in ("targets", "counted", "clean")}
    return Group(seen, **rest)


def loss_of(network: Judge, group: Group) -> torch.Tensor:
    """Cross-entropy of the answers, and of the shapes and backgrounds that clean clips show."""
    answers, shapes, backgrounds = network.read(group.seen)
    loss = functional.binary_cross_entropy_with_logits(answers, group.targets, reduction="none")
    loss = (loss * group.counted).sum() / group.counted.sum()
    clean, crops = group.clean, shapes.shape[2]
    if bool(clean.any()):
        shown = group.seen.present & clean[:, None]
        known = group.seen.shape[shown][:, None].expand(-1, crops)
        loss = loss + 0.3 * functional.cross_entropy(shapes[shown].flatten(0, 1), known.flatten())
        known = group.seen.background[clean][:, None].expand(-1, backgrounds.shape[1])
        loss = loss + 0.1 * functional.cross_entropy(backgrounds[clean].flatten(0, 1), known.flatten())
    return loss


def train_network(settings: JudgeSettings, groups: list[Group]) -> tuple[Judge, list[float]]:
    """The network, in evaluation mode, and its mean loss in each epoch."""
    from tqdm import tqdm

    torch.manual_seed(settings.seed)
    network = Judge()
    # Means and deviations of the first stage's numbers are taken once, over all groups.
    network.train()
    with torch.no_grad():
        for group in groups:
            network.objects.scale(group.seen.objects.flatten(0, 1)[group.seen.present.flatten()])
            network.whole.scale(group.seen.whole)
    network.eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.decay)
    steps = settings.epochs * len(groups)
    order = np.random.Generator(np.random.PCG64([settings.seed, 9]))

    def level(step: int) -> float:
        return min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + np.cos(np.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, level)
    losses = []
    for _ in tqdm(range(settings.epochs), desc="training the judge", unit="epoch"):
        found = []
        for number in order.permutation(len(groups)):
            loss = loss_of(network, groups[number])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            found.append(float(loss.detach()))
        losses.append(round(float(np.mean(found)), 4))
    # What is published is bfloat16, so that is what answers are weighted for.
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return network, losses


def answers_on(
    checklist: Checklist, name: str, which: int, settings: JudgeSettings, count: int, strengths: tuple[float, ...]
) -> torch.Tensor:
    """Answers on new clips that one degradation spoils, at strength 0 (clean) and at each of ``strengths``.

    The same scenes, softened in the same way, at all strengths. What a degradation draws is the same too.

    Returns:
        (1 + strengths, clips, questions).
    """
    kind = list(DEGRADATIONS).index(name)
    found = []
    batch = 4
    for part in range(-(-count // batch)):
        random = np.random.Generator(np.random.PCG64([settings.seed, which, kind, part]))
        frames, size = SHAPES_OF_CLIPS[(part + kind) % EVALUATED]
        scenes = sample_batch(random, batch)
        seed = int(random.integers(2**62))
        clean = render_batch(scenes, frames, size)
        prompts = _prompts(scenes)
        row = []
        for strength in (None, *strengths):
            generator = torch.Generator().manual_seed(seed)
            spoilt = clean
            if strength is not None:
                spoilt = degrade(name, scenes, clean, torch.full((batch,), strength), generator)
            clips = soften(spoilt, torch.Generator().manual_seed(seed + 1))
            row.append(checklist.answers(clips, prompts))
        found.append(torch.stack(row))
    return torch.cat(found, dim=1)[:, :count]


def strengths_of(name: str) -> tuple[float, ...]:
    """The strengths at which a degradation is looked at."""
    if name in UNGRADED:
        return STRENGTHS[-1:]
    return (1 / 3, 2 / 3, 1.0) if name in BY_NUMBER else STRENGTHS


def fit_weights(differences: np.ndarray, ridge: float) -> np.ndarray:
    """Weights of answers by logistic regression on preferences, none negative, with mean 1.

    The probability that the better clip is preferred is sigmoid(sum of weight x difference). The penalty draws all
    weights towards their mean: a question that few pairs decide keeps a say.

    Args:
        differences: (pairs, questions), answers on the better clip minus those on the worse one.
        ridge: strength of that penalty.

    Returns:
        (questions,).
    """
    from scipy.optimize import minimize

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = differences @ weights
        loss = np.logaddexp(0, -margin).mean()
        slope = -(differences / (1 + np.exp(margin))[:, None]).mean(axis=0)
        apart = weights - weights.mean()
        size = weights.mean()
        # A small penalty on the mean keeps weights finite where every pair is told apart.
        loss += ridge * (apart**2).mean() + 1e-2 * ridge * size**2
        count = len(weights)
        return loss, slope + 2 * ridge * apart / count + 2e-2 * ridge * size / count

    start = np.ones(differences.shape[1])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
    return found.x / found.x.mean()


def preference_pairs(answers: torch.Tensor) -> np.ndarray:
    """Differences of answers between each strength and the next one (pairs, questions), and between clean and all."""
    steps = answers[:-1] - answers[1:]
    return torch.cat([steps.flatten(0, 1), (answers[:1] - answers[2:]).flatten(0, 1)]).numpy()


def evaluate(checklist: Checklist, settings: JudgeSettings, kinds: list[str] | None = None) -> dict[str, Any]:
    """Preferences and mean scores on held-out scenes, for each degradation.

    Returns:
        By degradation: ``trained``, the share of pairs of a clean and a spoilt clip in which the clean one scores
        higher (``preferred``), the mean score at strength 0 and at each strength, and whether it ``falls`` at every
        step. ``preferred`` of those trained on, of those not, and of all; ``falls``, whether all do.
    """
    from tqdm import tqdm

    found: dict[str, Any] = {}
    for name in tqdm(kinds or names(), desc="evaluating the judge", unit="degradation"):
        strengths = strengths_of(name)
        scores = checklist.scores(
            answers_on(checklist, name, EVALUATION, settings, settings.held_out, strengths).flatten(0, 1)
        ).unflatten(0, (1 + len(strengths), -1))
        means = scores.mean(dim=1)
        found[name] = {
            "trained": DEGRADATIONS[name].trained,
            "preferred": float((scores[:1] > scores[1:]).float().mean()),
            "preferred_by_strength": [float((scores[0] > row).float().mean()) for row in scores[1:]],
            "strengths": [round(strength, 3) for strength in strengths],
            "mean_score": [round(float(mean), 4) for mean in means],
            "falls": bool((means[1:] < means[:-1]).all()),
        }
    summary = {}
    for key, chosen in (("trained", [True]), ("not_trained", [False]), ("all", [True, False])):
        shares = [item["preferred"] for item in found.values() if item["trained"] in chosen]
        if shares:
            summary[key] = float(np.mean(shares))
    return {
        "clips": settings.held_out,
        "preferred": summary,
        "falls": all(item["falls"] for item in found.values()),
        "degradations": found,
    }


def train_judge(settings: JudgeSettings, out: Path) -> dict[str, Any]:
    """Trains, weighs, evaluates, and writes ``judge.safetensors`` and ``judge.training.json`` into a folder.

    Returns:
        The training record.

    Raises:
        ValueError: the file would be larger than is allowed.
    """
    from safetensors.torch import save_file
    from tqdm import tqdm

    began = time.monotonic()
    parts = [draw_group(settings, number) for number in tqdm(range(settings.chunks), desc="drawing", unit="group")]
    drawn = time.monotonic()
    network, losses = train_network(settings, parts)
    trained = time.monotonic()
    checklist = Checklist(network, torch.ones(len(QUESTIONS)))
    pairs = [
        preference_pairs(answers_on(checklist, name, FITTING, settings, settings.pairs, strengths_of(name)))
        for name in tqdm(names(trained=True), desc="weighing", unit="degradation")
    ]
    weights = fit_weights(np.concatenate(pairs), settings.ridge)
    checklist = Checklist(network, torch.tensor(weights, dtype=torch.float32))
    found = evaluate(checklist, settings)
    out.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.bfloat16() if value.is_floating_point() and "running" not in name else value
        for name, value in network.state_dict().items()
    }
    save_file(state, out / WEIGHTS_FILE)
    size = (out / WEIGHTS_FILE).stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"train_judge: {out / WEIGHTS_FILE} has {size} bytes; at most {LARGEST_FILE} are allowed")
    record = {
        "sha256": sha256_file(out / WEIGHTS_FILE),
        "bytes": size,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "settings": asdict(settings),
        "clips": settings.chunks * settings.scenes * (1 + settings.kinds),
        "questions": {
            name: {"question": text, "weight": round(float(weight), 4)}
            for (name, text), weight in zip(QUESTIONS.items(), weights, strict=True)
        },
        "losses": losses,
        "seconds": {
            "drawing": round(drawn - began, 1),
            "training": round(trained - drawn, 1),
            "all": round(time.monotonic() - began, 1),
        },
        "evaluation": found,
        "provenance": provenance() | {"device": describe_device("cpu")},
    }
    write_json(out / RECORD_FILE, record)
    load(out)
    return record


def publish(source: Path, folder: Path = WEIGHTS_FOLDER) -> dict[str, Any]:
    """Checks a trained judge and copies it, with its training record, to where the metric looks for it.

    Args:
        source: folder written by ``train_judge``.

    Returns:
        File, SHA-256, bytes, and the shares of pairs in which the cleaner clip was preferred.

    Raises:
        ValueError: a file is missing, too large, or not the one that its record names; or the judge prefers the cleaner
            clip in less than 95 % of the pairs.
    """
    load(source)
    record = json.loads((source / RECORD_FILE).read_text())
    if (source / WEIGHTS_FILE).stat().st_size > LARGEST_FILE:
        raise ValueError(f"publish: {source / WEIGHTS_FILE} is too large; at most {LARGEST_FILE} bytes are allowed")
    preferred = record["evaluation"]["preferred"]
    if min(preferred.values()) < LEAST_PREFERRED:
        raise ValueError(
            f"publish: {source}: the cleaner clip is preferred in {preferred} of the pairs; at least {LEAST_PREFERRED} "
            "is needed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_FILE, RECORD_FILE):
        if source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
    return {"file": WEIGHTS_FILE, "sha256": record["sha256"], "bytes": record["bytes"], "preferred": preferred}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``train_judge``."""
    parser.description = "Trains the testbed's judge of vision reward on a CPU, and fits the weights of its answers."
    parser.epilog = "example: python -m benchmark train_judge --out results/judge"
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and training record")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--chunks", type=int, default=JudgeSettings.chunks, help="groups of clips (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=JudgeSettings.epochs, help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """The verb ``train_judge``."""
    settings = JudgeSettings(seed=args.seed, chunks=args.chunks, epochs=args.epochs)
    record = train_judge(settings, args.out)
    shown = {key: record[key] for key in ("sha256", "bytes", "parameters", "seconds")}
    print(json.dumps(shown | {"preferred": record["evaluation"]["preferred"]}, indent=1))
    return 0
