"""The cells of scripts/bench_dpsgd: data, model and recipe of DP-SGD, and its hash."""

import hashlib
import json
from pathlib import Path

from bench_cells import RESULTS as RESULTS

from dpsd.config import Config, load_config

DATA = {"mnist": ("mnist", (1, 2, 3, 10)), "fashion": ("fashion_mnist", (1, 3, 10))}
MODELS = {
    "scatter-linear": ["batch_size=4096", "epochs=20", "lr=8", "max_grad_norm=0.1"],
    # Below: two or three trials.
    "cnn-tanh": ["batch_size=2048", "epochs=20", "lr=2", "max_grad_norm=0.1"],
    # An epoch takes two minutes on one core. Holdout rows of MNIST at eps 1 per record: one epoch
    # at lr 2 80.2 %, two at lr 4 92.7 %.
    "cnn-small": ["batch_size=2048", "epochs=4", "lr=4", "max_grad_norm=0.1"],
}
LOWER = {("mnist", "scatter-linear"): ["lr=4"]}  # as in configs/mnist_dp.yaml


def cells() -> dict[str, dict]:
    """Name -> cell: data, model, epsilon (for one record) and overrides of the configuration."""
    return {
        f"dpsgd-{short}-{model}-eps{epsilon}": {
            "data": data, "model": model, "epsilon": epsilon,
            "set": [f"data.name={data}", f"teacher.model={model}", f"teacher.dp.epsilon={epsilon}",
                    *(f"teacher.dp.{item}" for item in [*recipe, *LOWER.get((data, model), [])])],
        }
        for short, (data, epsilons) in DATA.items()
        for model, recipe in MODELS.items()
        for epsilon in epsilons
    }  # fmt: skip


def configure(overrides: list[str], seed: int, teachers: Path) -> Config:
    """A configuration whose teacher is the cell's; nothing is transcribed."""
    return load_config(None, [
        *overrides, f"seed={seed}", f"teacher.seed={seed}", f"teacher.root={teachers}",
        "privacy.mechanism=none", "privacy.insecure_seeded_noise=true",
    ])  # fmt: skip


def current_hash(cell: dict, seed: int) -> str:
    """`config_hash` of what the cell trains now."""
    return config_hash(configure(cell["set"], seed, Path("teachers")))


def config_hash(config: Config) -> str:
    """Of the data's name, the teacher's recipe and the seed."""
    t = config.teacher
    facts = [config.data.name, t.model, t.dp.model_dump(), t.seed]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
