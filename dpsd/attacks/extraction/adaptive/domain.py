"""A pool of another problem: what the model is sure of sets the clone's batch statistics."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dpsd.attacks.extraction.clone import Clone, Holdings, Transcript, learnt, predict
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.attacks.extraction.labels.active import doubtful_and_apart
from dpsd.attacks.extraction.rounds import by_rounds
from dpsd.models.networks import as_input

_SURE = 0.5  # of the answered images set the clone's batch statistics
_BATCH = 256


def adapted(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask as `active` does, and adapt the clone to images of which the model was sure.

    The attacker has no image of the model's problem, and takes confidence for likeness. The clone's
    batch statistics become those of the half of the answered images with the surest answers; where
    answers are labels, with those that the clone itself finds likeliest. Batch statistics adapt a
    network to a domain (Li et al. 2016, AdaBN). A clone without batch normalisation stays as it is.
    """
    return by_rounds(
        endpoint, holdings, doubtful_and_apart, "adapted",
        train=lambda transcript: _finish(endpoint, holdings, transcript),
    )  # fmt: skip


def _finish(endpoint: Endpoint, holdings: Holdings, transcript: Transcript) -> Clone:
    clone = learnt(transcript, holdings, endpoint)
    sure = transcript.answers.max(1).values
    if endpoint.gives == "labels":
        named = transcript.answers.argmax(1, keepdim=True)
        sure = predict(clone.model, transcript.images).gather(1, named)[:, 0]
    likely = sure.topk(max(1, round(_SURE * len(sure)))).indices
    set_statistics(clone.model, transcript.images[likely])
    return clone


@torch.no_grad()
def set_statistics(model: nn.Module, images: Tensor) -> None:
    """Give batch normalisation the statistics of these images, uint8 [N, C, H, W].

    A model without batch normalisation stays as it is.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers or len(images) < 2:
        return
    before = [m.momentum for m in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over the batches
        layer.train()
    for part in images.tensor_split(max(1, len(images) // _BATCH)):
        model(as_input(part))
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum
        layer.eval()
