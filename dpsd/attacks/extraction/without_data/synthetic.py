"""Without any data: dpsd's own synthesizer asks, and the clone says where it is in doubt.

This is transcription without the consent of whoever serves the model.
"""

from collections.abc import Iterator

import torch

from dpsd.attacks.extraction.clone import Clone, Holdings, Transcript, learnt, staged
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.config import Config, PublicFacts
from dpsd.config.sections import GeneratorConfig
from dpsd.generator.synthesizer import Synthesizer, Undecided
from dpsd.runs.release import Labeller

_FIRST = 0.25  # of the first step of the ladder, asked before there is a clone
_GROWTH = 1.6  # what is asked after a round, by what was asked before it
_PASSES = 3  # of a clone that only chooses
_SELECT = 4  # images drawn for each that is asked


def synthetic(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about made images; of those drawn, the doubtful ones and rare classes are preferred.

    `Holdings.pool` is not used. It needs labels alone; the clone learns probabilities where there
    are any.
    """
    source = synthesizer(endpoint, holdings.seed)
    brief = holdings.brief(_PASSES)
    round_number = 0

    def ask(transcript: Transcript, count: int) -> None:
        nonlocal round_number
        end = transcript.asked + count
        while (done := transcript.asked) < end:
            most = round(_FIRST * end) if done == 0 else round((_GROWTH - 1) * done)
            opinion = _opinion(transcript, brief, endpoint)
            images = source.sample(min(max(1, most), end - done), opinion, round=round_number)
            transcript.ask(endpoint, images)
            source.remember(images, opinion.predict)
            round_number += 1

    return staged(endpoint, holdings, ask, lambda t: learnt(t, holdings, endpoint))


def synthesizer(endpoint: Endpoint, seed: int) -> Synthesizer:
    """Procedural images, and crops of the shipped photographs where the model takes colour."""
    shares = GeneratorConfig().shares | ({"photographs": 0.5} if endpoint.shape[0] == 3 else {})
    generator = GeneratorConfig(kind="procedural", shares=shares, select=_SELECT)
    names = tuple(str(k) for k in range(endpoint.classes))
    facts = PublicFacts(shape=endpoint.shape, classes=endpoint.classes, class_names=names)
    config = Config.model_construct(seed=seed, generator=generator)
    return Synthesizer(config, facts, torch.device("cpu"))


def _opinion(
    transcript: Transcript, holdings: Holdings, endpoint: Endpoint
) -> Labeller | Undecided:
    """A clone of the answers so far, as the synthesizer takes it."""
    if not len(transcript):
        return Undecided(endpoint.classes)
    return Labeller(learnt(transcript, holdings, endpoint).model, torch.device("cpu"))
