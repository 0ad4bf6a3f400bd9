"""The model card: what is released, how to load it, and what is guaranteed."""

from typing import Any

import yaml
from torch import nn

from dpsd.config import PublicFacts
from dpsd.files import whole_file
from dpsd.models.dp_networks import DP_MODELS
from dpsd.models.networks import OWN, ConvNet, ResNet20, build_model
from dpsd.privacy.statement_text import statement_text
from dpsd.runs.folder import Run

_FRONT = {
    "license": "unknown",
    "library_name": "dpsd",
    "pipeline_tag": "image-classification",
    "tags": [
        "image-classification",
        "differential-privacy",
        "knowledge-distillation",
        "synthetic-data",
    ],
}


LINEAR = ("scatter-linear", "scatter-bn", "scatter-public")
"""Students with one linear layer on fixed features."""


def write_card(run: Run, plan_facts: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
    """Write `release/README.md`, a model card with YAML front matter, whole or not at all.

    Args:
        run: a finished run.
        plan_facts: the statement's facts.
        evaluation: figures measured on private data, from `dpsd.evaluation.evaluate`, or None.
            They are left out unless the run's data were declared public.
    """
    facts = run.config.facts
    parts = [
        f"---\n{yaml.safe_dump(_FRONT, sort_keys=False)}---",
        _what(run, facts, plan_facts),
        _loading(run.config.student.model, facts),
        *_serving(run.config.student.model),
        f"## Privacy statement\n\n```text\n{statement_text(plan_facts)}```\n\n"
        "`statement.json` holds the same as facts, and the hashes of all released files. "
        "`dpsd verify` rebuilds it from `config.yaml`; with `--key` it tells whether the owner "
        "signed it, with `--ledger` whether the owner's ledger agrees.",
        _training(run),
    ]
    if evaluation is not None and run.data_is_public:
        parts.append(_measured(evaluation))
    # The attacks write these sections for public data alone.
    attacked = sorted((run.private / "attacks").glob("*/card.md"))
    parts += [section.read_text().rstrip("\n") for section in attacked]
    with whole_file(run.release / "README.md") as partial:
        partial.write_text("\n\n".join(parts) + "\n")


def _what(run: Run, facts: PublicFacts, plan_facts: dict[str, Any]) -> str:
    channels, height, width = facts.shape
    stamp = "" if plan_facts["private"] else (
        "> **NOT PRIVATE.** This release carries no privacy guarantee; the statement says why.\n\n"
    )  # fmt: skip
    names = ", ".join(facts.class_names[:20]) + (", ..." if facts.classes > 20 else "")
    return (
        f"# A student transcribed from a private teacher\n\n{stamp}"
        f"An image classifier (`{run.config.student.model}`) for images of {channels} x {height} x "
        f"{width} (channels, height, width) and {facts.classes} classes: {names}. It learned from "
        "the answers of a private model, the teacher, to synthetic images. The images were made "
        "from public knowledge; the answers passed the mechanism of the statement below. Neither "
        "the teacher nor the data that it was trained on is in this folder.\n\n"
        "| file | holds |\n|---|---|\n"
        "| `student.safetensors` | the student's weights |\n"
        "| `generator.safetensors` | the trainable generator's weights, empty without one |\n"
        "| `config.yaml`, `env.json` | settings, versions |\n"
        "| `metrics.jsonl`, `tb/`, `curves.png` | public figures of the training |\n"
        "| `synthetic.png` | synthetic images of the last round |\n"
        "| `statement.txt`, `statement.json` | the privacy statement |\n"
        "| `statement.sig` | its signature (Ed25519), and the public key |\n\n"
        "![synthetic images](synthetic.png)"
    )


def _loading(name: str, facts: PublicFacts) -> str:
    return (
        "## How to load it\n\nWith dpsd:\n\n```python\nimport dpsd\n\n"
        'model = dpsd.load_student(".")  # this folder\n'
        f"logits = model(images)  # float32 {_shape(facts)} in [0, 1] -> [B, {facts.classes}]\n```"
        f"\n\n{_plain_loading(name, facts)}"
    )


def _serving(name: str) -> list[str]:
    """What whoever serves a student that is linear on known features must know; else nothing."""
    if name not in LINEAR:
        return []
    return [
        "## Before you serve it\n\nThis student is linear on features that everybody can compute. "
        "Whoever may ask it for probabilities can solve for its weights, with about as many images "
        "as a class has weights. Rounded probabilities or labels alone leave the copy inexact, not "
        "impossible: `dpsd attack extraction` measures it. The privacy statement holds for a copy "
        "too, as it is made from the student alone."
    ]


def _plain_loading(name: str, facts: PublicFacts) -> str:
    """Code that loads the weights without dpsd, or the place of the architecture it would need."""
    read = "from safetensors.torch import load_file\n"
    plain = ("cnn", "cnn-small", "cnn-lite")
    if ":" in name or (name in (*OWN, *DP_MODELS) and name not in plain):
        where = f"`{name}`" if ":" in name else f'`dpsd.models.build_model("{name}", ...)`'
        return (
            "`safetensors.torch.load_file` reads the weights without dpsd; the architecture is "
            f"{where}. `dpsd export` writes a file that needs neither."
        )
    if name in plain:
        model = build_model(name, facts.shape, facts.classes)
        assert isinstance(model, ConvNet) and not isinstance(model, ResNet20)
        code = (
            f"{read}from torch import nn\n\nmodel = nn.ModuleDict({{\n"
            f'    "body": nn.Sequential(\n{_layers(model.body)}    ),\n'
            f'    "head": nn.{_layer(model.head)},\n}})\n'
            'model.load_state_dict(load_file("student.safetensors"))\nmodel.eval()\n'
            'logits = model["head"](model["body"]((images - 0.5) / 0.5))'
        )
    else:
        code = (
            f"{read}from torchvision.models import get_model\n\n"
            f'model = get_model("{name}", weights=None, num_classes={facts.classes})\n'
            'state = load_file("student.safetensors")\n'
            'model.load_state_dict({k.removeprefix("net."): v for k, v in state.items()})\n'
            "model.eval()\n"
            "logits = model((images.expand(-1, 3, -1, -1) - 0.5) / 0.5)"
        )
    return f"With plain torch:\n\n```python\n{code}  # images float32 {_shape(facts)}\n```"


def _layers(body: nn.Module) -> str:
    return "".join(f"        nn.{_layer(layer)},\n" for layer in body.children())


def _layer(layer: nn.Module) -> str:
    # bias=True is the default everywhere. Older versions of torch do not know it in batch norm.
    return repr(layer).replace(", bias=True", "")


def _shape(facts: PublicFacts) -> str:
    return f"[B, {', '.join(map(str, facts.shape))}]"


def _training(run: Run) -> str:
    last = (run.metrics() or [{}])[-1]
    rows = {
        "rounds": str(run.config.loop.rounds),
        "answers": f"{last.get('answers', 0):,}",
        "final loss": _figure(last.get("loss")),
        "gain over chance in predicting the answers, last round, nats per answer": _figure(
            last.get("gain_nats_per_answer")
        ),
        "agreement with the answers, last round": _figure(last.get("agreement_with_answers")),
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        "## Training\n\nPublic figures: they are computed from the privatised answers, not from "
        "private data. The answers are noisy, so that agreement with them is no accuracy.\n\n"
        f"| figure | value |\n|---|---|\n{lines}\n\n![curves](curves.png)"
    )


def _measured(evaluation: dict[str, Any]) -> str:
    teacher, student = evaluation["teacher"], evaluation["student"]
    rows = {
        "teacher's accuracy": teacher["accuracy"],
        "student's accuracy": student["accuracy"],
        f"student's agreement with {evaluation['agreement_with']}": student["agreement"],
        "student's expected calibration error": student["ece"],
    }
    lines = "\n".join(f"| {name} | {_figure(value)} |" for name, value in rows.items())
    return (
        "## Measured figures\n\nThe user declared the data public, so figures that were measured "
        f"on them are shown here (split `{evaluation['split']}`, {evaluation['rows']:,} rows). No "
        f"privacy guarantee covers them.\n\n| figure | value |\n|---|---|\n{lines}"
    )


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{round(value, 4) + 0.0:.4f}"
