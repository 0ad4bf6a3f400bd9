"""Text as the guard sees it: a hashing embedder, near-duplicates, and templates of distillation.

Nothing is downloaded and nothing is learned. Two prompts are alike where their spelling is: this
sees templates, topics and languages, and no paraphrase.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError

WIDTH = 256
"""Numbers in an embedding."""
_GRAMS = (3, 4, 5)
_LONGEST = 20_000  # characters that are looked at; the rest of a text is not
_SHINGLE = 3  # words
_BITS = 64


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Counts of character n-grams, hashed into 256 signed places: float32 [B, 256], length 1.

    Weinberger et al. 2009, *Feature hashing for large scale multitask learning*. A text without
    three characters is all zeros.
    """
    rows = np.zeros((len(texts), WIDTH))
    for row, text in zip(rows, texts, strict=True):
        points = np.frombuffer(f" {plain(text)} ".encode("utf-32-le"), np.uint32).astype(np.uint64)
        for n in _GRAMS:
            codes = _mixed(_grams(points, n))
            signs = np.where(codes >> np.uint64(63) > 0, 1.0, -1.0)
            places = (codes & np.uint64(WIDTH - 1)).astype(np.int64)
            row += np.bincount(places, signs, WIDTH)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-12), np.float32)


def near_duplicates(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Hashes uint64 [B] of which those of near-duplicates differ in few bits.

    One bit of each of 64 min-hashes over shingles of three words (Li and König 2010, *b-bit minwise
    hashing*): two texts whose shingles have the Jaccard similarity J differ in 32 (1 - J) bits on
    average.

    Raises:
        UserError: `datasketch` is not installed.
    """
    try:
        from datasketch import MinHash
    except ImportError as e:
        raise UserError("near-duplicates of texts need more: pip install dpsd[serve]") from e
    found = np.zeros(len(texts), np.uint64)
    for i, text in enumerate(texts):
        words = plain(text).split() or [""]
        ends = range(max(1, len(words) - _SHINGLE + 1))
        hashed = MinHash(num_perm=_BITS, seed=1)
        hashed.update_batch([" ".join(words[k : k + _SHINGLE]).encode() for k in ends])
        bits = (np.asarray(hashed.hashvalues, np.uint64) & np.uint64(1)).astype(np.uint8)
        found[i] = np.packbits(bits).view(np.uint64)[0]
    return found


def plain(text: str) -> str:
    """Compatibility forms, lower case, single spaces; at most 20,000 characters."""
    return " ".join(unicodedata.normalize("NFKC", text[:_LONGEST]).lower().split())[:_LONGEST]


@dataclass(frozen=True)
class Flag:
    """A template that a prompt resembles.

    Attributes:
        kind: reasoning | grading.
        score: 0 to 1; how much of the template is there.
        found: the words that speak for it.
    """

    kind: str
    score: float
    found: tuple[str, ...]


_TEMPLATES: dict[str, tuple[tuple[float, str], ...]] = {
    "reasoning": (
        (0.5, r"step[- ]by[- ]step"),
        (0.5, r"chain[- ]of[- ]thoughts?"),
        (0.5, r"<(think|thinking|scratchpad|reasoning)>"),
        (0.4, r"(show|write|include|explain|give|lay out|output) (me )?(all |out )?(of )?your "
              r"(full |complete |detailed |entire |internal )*"
              r"(reasoning|thoughts?|thinking|work|working)"),
        (0.4, r"reasoning (trace|process|steps?|path)"),
        (0.3, r"before (you answer|answering|giving|you give|the final answer)"),
        (0.3, r"(then|and) (give|state|output|write) (the|your) final answer"),
        (0.2, r"(do not|don't) (skip|omit) (any )?steps?"),
    ),
    "grading": (
        (0.5, r"\brubric\b"),
        (0.5, r"(impartial|strict|fair|expert) (judge|grader|evaluator)"),
        (0.5, r"(on a )?scale (of|from) \d+ (to|-) \d+"),
        (0.4, r"(grade|score|rate|evaluate|assess|judge) (the|this|each|both|how|which)"),
        (0.4, r"(assistant|response|answer|model) (a|1)\b.{0,400}(assistant|response|answer|model) "
              r"(b|2)\b"),
        (0.3, r"(criteria|criterion)\b"),
        (0.3, r"\b(output|return|reply with|give) (only |just )?(the|a|one|your) "
              r"(score|grade|rating|verdict|number)"),
        (0.3, r"\b(score|rating|verdict|grade)\s*:"),
        (0.3, r"\[\[[^\]]{0,20}\]\]"),
    ),
}  # fmt: skip
_COMPILED = {
    kind: [(weight, re.compile(pattern, re.DOTALL)) for weight, pattern in parts]
    for kind, parts in _TEMPLATES.items()
}


def flags(text: str, at_least: float = 0.6) -> list[Flag]:
    """Templates that a prompt resembles, the strongest first.

    A template's phrases count as independent hints: 1 - prod(1 - weight). One phrase alone, which
    honest users write too, is below 0.6. An honest teacher grades with rubrics as well: a flag is
    a reason to look at an account's share of such prompts, and no verdict on a prompt.

    Args:
        text: a prompt.
        at_least: score.
    """
    words, found = plain(text), []
    for kind, parts in _COMPILED.items():
        rest, said = 1.0, []
        for weight, pattern in parts:
            match = pattern.search(words)
            if match is not None:
                rest *= 1 - weight
                said.append(match.group(0)[:60])
        if 1 - rest >= at_least:
            found.append(Flag(kind, 1 - rest, tuple(said)))
    return sorted(found, key=lambda flag: -flag.score)


def _grams(points: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """A number for each run of n code points, uint64 [max(0, L - n + 1)]."""
    length = max(0, len(points) - n + 1)
    codes = np.full(length, n, np.uint64)
    for k in range(n):
        codes = codes * np.uint64(1_099_511_628_211) + points[k : k + length]
    return codes


def _mixed(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): each bit depends on all."""
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(codes ^ (codes >> np.uint64(31)), np.uint64)
