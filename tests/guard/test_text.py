"""Texts: alike in spelling, near-duplicates, templates."""

import numpy as np
import pytest

from dpsd.guard.apps.text import embed, flags, near_duplicates, plain
from dpsd.guard.detection.sketch import Sketch

HONEST = [
    "What is the capital of Mongolia?",
    "Rewrite this mail to my landlord so that it sounds friendlier.",
    "My fern's leaves turn brown. What am I doing wrong?",
    "Translate 'good morning' into Portuguese, please.",
    "Can you explain how a heat pump works?",
    "How do I sort a dictionary by value in Python?",
    "Give me step-by-step instructions for changing a bicycle tyre.",
    "Please rate this restaurant idea: noodles and coffee.",
    "Which criteria should I use to choose a laptop?",
    "Is the answer 1 or 2?",
]


def test_embeddings_are_of_length_one_and_alike_for_alike_texts():
    rows = embed([*HONEST, "what is the CAPITAL of  Mongolia", "", "\u00e9t\u00e9 \U0001f600", "a"])
    assert rows.shape == (14, 256) and rows.dtype == np.float32
    norms = np.linalg.norm(rows, axis=1)
    assert np.allclose(norms[[*range(11), 12]], 1) and norms[11] == 0
    alike = rows[0] @ rows[10]
    assert alike > 0.9 and max(rows[0] @ rows[k] for k in range(1, 10)) < 0.4
    assert np.array_equal(embed(HONEST), embed(HONEST))


def test_hashed_counts_keep_inner_products():
    """Signed hashing keeps inner products of n-gram counts on average (Weinberger et al. 2009)."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(200)]
    texts = [" ".join(rng.choice(words, 40)) for _ in range(40)]

    def counts(text):
        padded, found = f" {text} ", {}
        for n in (3, 4, 5):
            for k in range(len(padded) - n + 1):
                gram = padded[k : k + n]
                found[gram] = found.get(gram, 0) + 1
        return found

    exact = []
    for a, b in zip(texts[::2], texts[1::2], strict=True):
        one, two = counts(a), counts(b)
        inner = sum(v * two.get(g, 0) for g, v in one.items())
        exact.append(inner / np.sqrt(sum(v * v for v in one.values())
                                     * sum(v * v for v in two.values())))  # fmt: skip
    rows = embed(texts)
    hashed = (rows[::2] * rows[1::2]).sum(1)
    assert np.abs(hashed - exact).max() < 0.25 and np.abs(np.mean(hashed - exact)) < 0.05


def test_near_duplicates_differ_in_few_bits():
    base = " ".join(f"word{k}" for k in range(100))
    near = base.replace("word50", "other")
    hashes = near_duplicates([base, near, base.upper(), *HONEST, ""])
    assert hashes.dtype == np.uint64

    def apart(a, b):
        return int(hashes[a] ^ hashes[b]).bit_count()

    assert apart(0, 2) == 0
    assert apart(0, 1) <= 4  # J = 95 / 101: 1.9 bits on average
    far = [apart(a, b) for a in range(3, 13) for b in range(3, a)]
    assert min(far) > 4 and 26 < np.mean(far) < 38  # 32 where nothing is shared
    sketch = Sketch()
    sketch._repeats(hashes[:4])  # as the detectors read them
    assert sketch["repeats"] == 2


REASONING = [
    "Think step by step and show your full reasoning before answering: what is 17 * 23?",
    "Solve the puzzle. Write out your thinking in <thinking> tags, then give your final answer.",
    "Provide the complete chain-of-thought. Do not skip any steps.",
]
GRADING = [
    "You are an impartial judge. Rate the response on a scale of 1 to 10. Output only the score.",
    "Grade the answer with this rubric:\n1. accuracy\n2. style\nScore:",
    "Evaluate which is better.\nResponse A: x\nResponse B: y\nReply with your verdict: [[A]]",
]


def test_templates_are_flagged_and_honest_prompts_are_not():
    assert [flags(text) for text in HONEST] == [[]] * len(HONEST)
    for kind, texts in (("reasoning", REASONING), ("grading", GRADING)):
        for text in texts:
            first = flags(text)[0]
            assert first.kind == kind and 0.6 <= first.score < 1 and len(first.found) >= 2
    one = flags("Let us go step by step.", at_least=0.4)
    assert [f.score for f in one] == [0.5] and one[0].found == ("step by step",)


def test_long_and_odd_texts_are_bounded():
    bomb = "(" * 300_000 + "response a " * 50_000
    assert len(plain(bomb)) == 20_000 and len(plain("\ufdfa" * 20_000)) == 20_000
    assert embed([bomb]).shape == (1, 256) and flags(bomb) == []
    assert near_duplicates([bomb]).shape == (1,)


def test_without_datasketch_it_is_one_line(monkeypatch):
    from dpsd.errors import UserError

    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    with pytest.raises(UserError, match=r"pip install dpsd\[serve\]"):
        near_duplicates(["x"])
