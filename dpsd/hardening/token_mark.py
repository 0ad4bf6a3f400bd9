"""A keyed mark in generated text: some tokens are a little likelier than they would be.

Kirchenbauer et al., *A Watermark for Large Language Models*, ICML 2023 (arXiv 2301.10226), the soft
mark: the tokens before a position and a key draw a green list, and green tokens get `delta` more.
Whoever has the key counts green tokens. It is the text that is marked: a model trained on marked
answers may repeat the mark, and is tested by its own text in the same way.

Each token is green on its own with probability gamma under a keyed random function, where the paper
cuts a random permutation. So the number of green tokens has an exact binomial law for any text that
was written without the key.

Out of scope: marks in meaning or structure (choice of sentences, of facts, of formats), which
survive a paraphrase. This mark does not survive one, nor a translation, and text of low entropy,
such as code, carries little of it.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

from dpsd.errors import UserError

_KEPT = 1024  # green lists


class TokenMark:
    """Raises green tokens' scores; a logits processor as `transformers` calls them.

    Example:
        model.generate(..., logits_processor=[TokenMark(key, len(tokenizer))])
    """

    def __init__(
        self, key: bytes, vocabulary: int, gamma: float = 0.25, delta: float = 2.0, context: int = 1
    ) -> None:
        """A mark.

        Args:
            key: secret, at least 16 bytes.
            vocabulary: V, number of tokens.
            gamma: probability that a token is green.
            delta: added to green tokens' logits.
            context: tokens before a position that draw its list. With more, the lists are harder to
                learn from marked text, and one changed token unmarks more positions.

        Raises:
            UserError: a value out of range.
        """
        accepted = {
            "key": (len(key) >= 16, f"{len(key)} bytes; accepted: at least 16"),
            "vocabulary": (vocabulary >= 2, f"{vocabulary}; accepted: at least 2"),
            "gamma": (0 < gamma < 1, f"{gamma}; accepted: above 0, below 1"),
            "delta": (0 <= delta < math.inf, f"{delta}; accepted: at least 0"),
            "context": (context >= 1, f"{context}; accepted: at least 1"),
        }
        for name, (fits, text) in accepted.items():
            if not fits:
                raise UserError(f"token mark: {name}: {text}")
        facts = json.dumps(["dpsd tokens", vocabulary, gamma, context]).encode()
        self._key = hashlib.blake2b(facts, key=key[:64], digest_size=32).digest()
        self.vocabulary, self.gamma, self.delta, self.context = vocabulary, gamma, delta, context
        self._lists: dict[tuple[int, ...], NDArray[np.bool_]] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with green tokens raised; positions without enough tokens before stay.

        Args:
            input_ids: tokens so far, int64 [B, T].
            scores: logits float [B, W] with W at least V; columns beyond V, if any, stay.
        """
        if input_ids.shape[1] < self.context:
            return scores
        before = input_ids[:, -self.context :].tolist()
        green = torch.from_numpy(np.stack([self.green(tuple(row)) for row in before]))
        marked = scores.clone()
        marked[:, : self.vocabulary] += self.delta * green.to(scores.device, scores.dtype)
        return marked

    def green(self, before: tuple[int, ...]) -> NDArray[np.bool_]:
        """The green list after these tokens, bool [V]."""
        if before not in self._lists:
            text = json.dumps(before).encode()
            seed = hashlib.blake2b(text, key=self._key, digest_size=16).digest()
            draw = np.random.Philox(key=int.from_bytes(seed)).random_raw(self.vocabulary)
            while len(self._lists) >= _KEPT:
                self._lists.pop(next(iter(self._lists)))
            self._lists[before] = draw < np.uint64(self.gamma * 2**64)
        return self._lists[before]


@dataclass(frozen=True)
class TokenCount:
    """What a text says about a mark.

    Attributes:
        counted: positions with different tokens before and at them.
        green: of them.
        z: standard deviations above what text without the key has.
        p_value: probability of as many green tokens in a text that was written without the key.
    """

    counted: int
    green: int
    z: float
    p_value: float


def count_tokens(tokens: Sequence[int], mark: TokenMark) -> TokenCount:
    """Test a text for a mark.

    Null: the text does not depend on the key. Each run of `context` + 1 tokens is counted once,
    however often it occurs, since repetitions are green together. Then the counted tokens are green
    independently with probability gamma, and the p-value is the exact binomial tail.

    Args:
        tokens: of the text, by the tokenizer of the marked model; prompts left out.
        mark: key and parameters with which the text may have been made.

    Raises:
        UserError: a token outside of the vocabulary.
    """
    wrong = [t for t in tokens if not 0 <= t < mark.vocabulary]
    if wrong:
        raise UserError(f"token: {wrong[0]}; accepted: 0 to {mark.vocabulary - 1}")
    width = mark.context
    runs = {tuple(tokens[i : i + width + 1]) for i in range(len(tokens) - width)}
    hits = sum(bool(mark.green(run[:-1])[run[-1]]) for run in sorted(runs))
    n, g = len(runs), mark.gamma
    if n == 0:
        return TokenCount(0, 0, 0.0, 1.0)
    z = (hits - g * n) / math.sqrt(n * g * (1 - g))
    return TokenCount(n, hits, z, float(binom.sf(hits - 1, n, g)))
