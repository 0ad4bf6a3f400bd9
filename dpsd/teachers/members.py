"""The teachers of an ensemble: trained on disjoint shards, many at a time; they answer by votes.

Nothing couples two teachers. A teacher's random stream of (key, index) decides its initial weights,
its draws of records and its augmentation. All take the same number of steps of the same batch size,
whatever their shards hold, and updates are elementwise. So a replaced record (or user) changes one
teacher, and the others stay as they are bit for bit. A vote histogram then moves by one vote.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dpsd.config import PublicFacts
from dpsd.config.sections import TeacherConfig
from dpsd.data.rows import Images, ahead
from dpsd.errors import UserError
from dpsd.models.augment import DRAWS, augment
from dpsd.models.networks import ConvNet, build_model
from dpsd.models.stacked import stack, stacked_logits
from dpsd.randomness import stream
from dpsd.teachers.ridge import choices, fit_member, linear_choices

KINDS = ("cnn", "cnn-small", "cnn-tiny", "scatter-linear")
CHUNK = 16
"""Networks trained at once. A network's number decides its chunk."""
_VOTE_BATCH = 32
_WARMUP = 0.2

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Members:
    """The private data, and which of their rows some of the teachers learn from."""

    images: Images
    """Pixel values 0 to 255, uint8 [N, C, H, W]: all private rows, in memory or on disk."""
    labels: Tensor
    """int64 [N]."""
    rows: Mapping[int, Tensor]
    """The rows of each teacher's shard, by the teacher's number."""
    key: bytes


def chunks(n: int) -> list[range]:
    """The numbers of n teachers, `CHUNK` at a time."""
    return [range(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]


def train_members(
    recipe: TeacherConfig,
    facts: PublicFacts,
    members: Members,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Weights:
    """Train one chunk of teachers.

    Args:
        recipe: model, shard_steps, shard_batch, lr, augment, copies and ridge are read.
        facts: public shape and number of classes.
        members: which teachers, on what.
        device: where to train.
        dtype: of the forward passes.

    Returns:
        Weights stacked on dimension 0 in the order of `members.rows`, on the CPU; and `empty`,
        bool [n]: the teachers that had no records and vote for class 0.

    Raises:
        UserError: a model that cannot be trained in an ensemble.
    """
    if recipe.model not in KINDS:
        raise UserError(
            f"teacher.model: {recipe.model} with teacher.shards {recipe.shards}; accepted for an "
            f"ensemble: {', '.join(KINDS)}"
        )
    train = _train_linear if recipe.model == "scatter-linear" else _train_networks
    weights = train(recipe, facts, members, device, dtype)
    empty = torch.tensor([not len(rows) for rows in members.rows.values()])
    for w in weights.values():
        w[empty] = 0
    return weights | {"empty": empty}


def ensemble_votes(
    model: str, facts: PublicFacts, weights: Weights, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """The frozen ensemble, a function from uint8 images [B, C, H, W] to votes int64 [B, K].

    Each row sums to the number of teachers. A teacher without records, or whose logits for an
    image are not all finite, votes for class 0.

    Raises:
        UserError: by the function, for images that are not uint8 of the declared shape.
    """
    choose = member_choices(model, facts, weights, device, dtype)

    def ask(images: Tensor) -> Tensor:
        chosen = choose(images)
        votes = torch.zeros(chosen.shape[1], facts.classes, dtype=torch.int64)
        return votes.scatter_add_(1, chosen.mT, torch.ones_like(chosen.mT))

    return ask


def member_choices(
    model: str, facts: PublicFacts, weights: Weights, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """As `ensemble_votes`, but each teacher's own vote: int64 [n, B], on the CPU."""
    empty = weights["empty"]
    stacked = {name: w.to(device) for name, w in weights.items() if name != "empty"}
    if model == "scatter-linear":
        parts, net = [], None
    else:
        net = _network(model, facts)
        pieces = {name: w.split(CHUNK) for name, w in stacked.items()}
        parts = [{k: v[i] for k, v in pieces.items()} for i in range(-(-len(empty) // CHUNK))]

    @torch.inference_mode()
    def choose(images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.shape[1:] != facts.shape:
            given = f"{images.dtype} {list(images.shape)}"
            raise UserError(f"teacher input is {given}; accepted: uint8 [B, *{list(facts.shape)}]")
        if net is None:
            chosen = linear_choices(stacked["weight"], stacked["bias"], images.to(device))
        else:
            votes = []
            for part in parts:
                batches = (x.to(device).float() / 255 for x in images.split(_VOTE_BATCH))
                each = [choices(stacked_logits(net, part, x, dtype)) for x in batches]
                votes.append(torch.cat(each, 1))
            chosen = torch.cat(votes)
        return torch.where(empty[:, None], 0, chosen.cpu())

    return choose


def _train_networks(
    recipe: TeacherConfig,
    facts: PublicFacts,
    members: Members,
    device: torch.device,
    dtype: torch.dtype,
) -> Weights:
    """AdamW under one fixed one-cycle schedule, on the sum of the members' losses."""
    steps, batch = recipe.shard_steps, recipe.shard_batch
    nets, rows, draws = [], [], []
    for index, own in members.rows.items():
        rng = stream(members.key, index)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
            nets.append(_network(recipe.model, facts))
        u = torch.rand(steps, batch, dtype=torch.float64, generator=rng)
        place = (u * len(own)).long().clamp(max=max(0, len(own) - 1))
        # Row 0 stands in for missing records; `train_members` wipes what was learned from it.
        rows.append(own[place] if len(own) else torch.zeros_like(place))
        draws.append(torch.rand(steps, batch, DRAWS, generator=rng))
    weights = {name: w.to(device).requires_grad_() for name, w in stack(nets).items()}
    optimizer = torch.optim.AdamW(
        weights.values(), lr=recipe.lr, weight_decay=1e-2, betas=(0.9, 0.99), fused=True
    )
    # A warm-up of one step makes the scheduler divide by zero.
    rise = _WARMUP if steps * _WARMUP != 1 else 2 * _WARMUP
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=steps, pct_start=rise
    )
    order, change = torch.stack(rows), torch.stack(draws)
    batches = ahead(members.images, (order[:, step].flatten() for step in range(steps)))
    for step, (_, images) in enumerate(batches):
        now = order[:, step]
        images = augment(images, recipe.augment, change[:, step].flatten(0, 1)).to(device).float()
        images = (images / 255).unflatten(0, now.shape)
        logits = stacked_logits(nets[0], weights, images, dtype).float()
        labels = members.labels[now].to(device)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: w.detach().cpu() for name, w in weights.items()}


def _train_linear(
    recipe: TeacherConfig,
    facts: PublicFacts,
    members: Members,
    device: torch.device,
    dtype: torch.dtype,
) -> Weights:
    """One after another, so that the size of a shard changes no other teacher's arithmetic."""
    trained = []
    for index, own in members.rows.items():
        images, labels = members.images[own], members.labels[own]
        if not len(own):
            images = torch.zeros(1, *facts.shape, dtype=torch.uint8)
            labels = torch.zeros(1, dtype=torch.int64)
        weight, bias = fit_member(
            images, labels, classes=facts.classes, rng=stream(members.key, index),
            kind=recipe.augment, copies=recipe.copies, ridge=recipe.ridge,
        )  # fmt: skip
        trained.append({"weight": weight.half(), "bias": bias})
    return {name: torch.stack([member[name] for member in trained]) for name in trained[0]}


def _network(model: str, facts: PublicFacts) -> ConvNet:
    net = build_model(model, facts.shape, facts.classes, norm="group")
    assert isinstance(net, ConvNet)
    return net
