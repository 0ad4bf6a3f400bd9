"""A guard before a small text classifier: FastAPI, scikit-learn, a hashing embedder.

    python scripts/examples/guard_text.py          # http://127.0.0.1:8001
    curl -H 'Authorization: Bearer alice' -d '{"texts": ["the cat sleeps"]}' \
        -H 'Content-Type: application/json' http://127.0.0.1:8001/classify

The accounts are a table in this file; an application of yours asks its own. There is no calibrated
reference here, so that limits hold and nothing is detected: `dpsd guard calibrate` makes one.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sklearn.linear_model import LogisticRegression

from dpsd.guard import Asked, GuardMiddleware, Tier, open_guard
from dpsd.guard.apps.text import embed, near_duplicates

KEYS = {"alice": "Alice's shop", "bob": "Bob's mill"}
TOPICS = ("animals", "weather")
WORDS = (
    ["cat", "dog", "horse", "sparrow", "fish", "cow", "the bird sings", "the dog barks"],
    ["rain", "snow", "sunny", "wind", "storm", "cloud", "it is cold today", "a warm night"],
)


class Question(BaseModel):
    """Texts to classify."""

    texts: list[str] = Field(min_length=1, max_length=32)


def account(scope):
    """Who asks: the account of the bearer token."""
    token = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    return KEYS.get(token.removeprefix("Bearer "))


def questions(body, scope):
    """The texts of a body, as the guard sees them."""
    texts = json.loads(body)["texts"]
    return Asked(embed(texts), near_duplicates(texts), wanted=True)


def probabilities(body):
    """What the classifier answered, float32 [B, K]."""
    return np.array(json.loads(body)["probabilities"], np.float32)


def make_app(folder, per_minute=60):
    """The classifier behind a guard that keeps its memory in a folder."""
    texts = [text for words in WORDS for text in words]
    labels = [topic for topic, words in enumerate(WORDS) for _ in words]
    model = LogisticRegression(C=30).fit(embed(texts), labels)
    app = FastAPI(title="topics")

    @app.post("/classify")
    def classify(question: Question):
        """Topics of texts."""
        if any(len(text) > 1_000 for text in question.texts):
            raise HTTPException(422, "a text has more than 1,000 characters")
        found = model.predict_proba(embed(question.texts))
        return {"topics": [TOPICS[k] for k in found.argmax(1)], "probabilities": found.tolist()}

    @app.get("/healthz")
    def healthz():
        """The process lives."""
        return "ok"

    guard = open_guard(Path(folder), {"trial": Tier(per_minute, per_day=1_000)})
    app.add_middleware(
        GuardMiddleware,
        guard=guard,
        account=account,
        embedder=questions,
        answers=probabilities,
        body_bytes=50_000,
    )
    return app


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        uvicorn.run(make_app(folder), host="127.0.0.1", port=8001)
