"""The section on what noisy answers are worth in clean labels."""

from pathlib import Path

from render_tables.common import read, table


def clean_labels(path: Path) -> list[str]:
    """The section from clean-labels.json; nothing where it is missing."""
    found = read(path)
    if not found:
        return []
    rows = [(how, f"{100 * right:.2f}") for how, right in found["accuracy"].items()]
    return [
        "## What noisy answers are worth (MNIST, Gaussian, eps 1 per answer)",
        "",
        f"An answer carries {found['nats_per_answer']:.4f} nats about a class of which nothing is",
        f"known, so all answers of the row are worth at most {found['clean_labels']:,.0f} clean "
        "labels.",
        f"`scripts/bench clean-labels` trains the student's architecture on the answers without "
        f"noise to {found['images']:,} images of strokes, {found['steps']:,} steps, one seed. "
        "Nothing here protects anybody. The rarest class among these answers has "
        f"{min(found['shares']):,} images. By Fisher information an answer is worth "
        f"{found['fisher_share_at_half']:.4f} clean labels about a class that the student holds "
        f"for 50 % likely, and {found['fisher_share_at_99']:.5f} at 99 %.",
        "",
        *table(("answers, augmentation of their images", "accuracy on the test rows"), rows),
        "",
    ]
