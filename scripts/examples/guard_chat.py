"""A guard before a chat endpoint that speaks OpenAI's protocol; the model behind it is a stub.

    python scripts/examples/guard_chat.py          # http://127.0.0.1:8002/v1/chat/completions

The prompt is the question. The account's log gets a line where prompts elicit chains of thought or
grade by rubrics, and where an account suddenly turns to a new model. Answers carry a keyed mark in
their tokens; `check` tests a text for it.
"""

import json
import tempfile
import time
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from dpsd.guard import Asked, GuardMiddleware, Tier, open_guard
from dpsd.guard.apps.text import embed, flags, near_duplicates
from dpsd.guard.apps.turns import Turns
from dpsd.hardening.token_mark import TokenMark, count_tokens

KEYS = {"alice": "Alice's shop", "bob": "Bob's mill"}
MODELS = ("stub-1", "stub-2")
VOCABULARY = [f"word{k}" for k in range(400)]
MARK = TokenMark(b"a secret of the operator", len(VOCABULARY))
LENGTH = 60


def account(scope):
    """Who asks: the account of the bearer token."""
    token = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    return KEYS.get(token.removeprefix("Bearer "))


def make_embedder():
    """From a request to what the guard sees: the prompt's text, and what is remarkable in it."""
    turns = Turns()

    def questions(body, scope):
        tree = json.loads(body)
        text = "\n".join(m["content"] for m in tree["messages"] if m["role"] != "assistant")
        found = [
            (flag.kind, f"prompts look like a {flag.kind} template: " + ", ".join(flag.found))
            for flag in flags(text)
        ]
        turn = turns.asked(account(scope) or "", str(tree["model"])[:100])
        if turn is not None:
            found.append(
                (
                    "turn",
                    f"{turn.share:.0%} of its last questions went to {turn.model}, "
                    f"{turn.before:.0%} before (p = {turn.p_value:.1g})",
                )
            )
        return Asked(embed([text]), near_duplicates([text]), found, bool(tree.get("logprobs")))

    return questions


def generate(prompt):
    """Words of no meaning that follow from the prompt, with the operator's mark."""
    rng = torch.Generator().manual_seed(sum(map(ord, prompt)) % 2**31)
    logits = torch.randn(len(VOCABULARY), len(VOCABULARY), generator=rng)
    ids = torch.randint(0, len(VOCABULARY), (1, 1), generator=rng)
    for _ in range(LENGTH):
        scores = MARK(ids, logits[ids[:, -1]])
        ids = torch.cat([ids, torch.multinomial(scores.softmax(1), 1, generator=rng)], 1)
    return " ".join(VOCABULARY[k] for k in ids[0].tolist())


def check(text):
    """What a text says about the mark; its p-value is small where a marked model wrote it."""
    places = {word: k for k, word in enumerate(VOCABULARY)}
    return count_tokens([places[word] for word in text.split() if word in places], MARK)


def make_app(folder, per_minute=120):
    """The endpoint behind a guard that keeps its memory in a folder."""
    app = FastAPI(title="chat")

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        """One answer to a conversation."""
        try:
            tree = await request.json()
            prompt, model = tree["messages"][-1]["content"], tree["model"]
            if model not in MODELS or not isinstance(prompt, str):
                raise ValueError(model)
        except (ValueError, KeyError, IndexError, TypeError) as e:
            raise HTTPException(400, f"accepted: messages, and a model of {MODELS}") from e
        message = {"role": "assistant", "content": generate(prompt)}
        return {
            "object": "chat.completion",
            "model": model,
            "created": int(time.time()),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }

    guard = open_guard(Path(folder), {"trial": Tier(per_minute, per_day=5_000)})
    app.add_middleware(
        GuardMiddleware, guard=guard, account=account, embedder=make_embedder(), body_bytes=100_000
    )
    return app


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        uvicorn.run(make_app(folder), host="127.0.0.1", port=8002)
