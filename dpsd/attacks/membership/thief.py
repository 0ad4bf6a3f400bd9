"""Does a stolen copy tell who was in the data? Copies of models, for the attacks on membership."""

import json
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpsd.attacks.context import Attack
from dpsd.attacks.extraction.copying import copied
from dpsd.attacks.extraction.pools import made
from dpsd.attacks.membership.game import Ask, Game, logits_on
from dpsd.attacks.statistics import Floats
from dpsd.attacks.store import Arrays, kept
from dpsd.console import track
from dpsd.data.load import load_data
from dpsd.runs.release import Labeller


class Thief:
    """Copies models by questions about the test rows, or about synthetic images without them.

    So no question is about a row that a model of the game was trained on.
    """

    def __init__(self, context: Attack, questions: int) -> None:
        self.context, self.questions = context, questions

    @cached_property
    def pool(self) -> Tensor:
        """What it asks about, uint8 [N, C, H, W]."""
        config = self.context.config
        test = load_data(config.data).test
        return made(config, self.questions, self.context.seed) if test is None else test.images[:]

    def copy(self, ask: Ask, number: int = 0) -> Ask:
        """A copy of a model that gives logits: a function from images to log-probabilities."""
        config = self.context.config
        clone = copied(
            lambda images: ask(images).float().softmax(1), config.facts, self.pool, self.questions,
            model=config.student.model, seed=self.context.seed + number,
        )  # fmt: skip
        predict = Labeller(clone, torch.device("cpu")).predict
        return lambda images: predict(images).clamp_min(1e-12).log()

    def said(self, asks: Sequence[Ask], game: Game, folder: Path) -> tuple[Floats, Floats]:
        """What a copy of each model says of the game's rows and of its population.

        Copies that the folder holds are read. float64 [M, N, K] and [M, Z, K] of M models.
        """
        parts = []
        for m, ask in enumerate(track(asks, "membership: copies")):
            facts = [self.context.run.id, self.context.budget_name, self.context.seed, m]
            key = json.dumps([*facts, self.questions, str(self.context.data)])
            make = partial(self._part, ask, m, game)
            parts.append(kept(folder / f"clone-{self.context.seed}-{m}.npz", key, make))
        return np.stack([p["rows"] for p in parts]), np.stack([p["population"] for p in parts])

    def _part(self, ask: Ask, number: int, game: Game) -> Arrays:
        clone = self.copy(ask, number)
        return {
            "rows": logits_on(clone, game.rows.images),
            "population": logits_on(clone, game.population.images),
        }
