"""The section on a diffusion model as synthesizer."""

from pathlib import Path

from render_tables.common import read, table


def diffusion(path: Path) -> list[str]:
    """The section from diffusion.json; nothing where it is missing."""
    found = read(path)
    if not found:
        return []
    asked, seconds = found["asked"], found["seconds"]
    rows = [
        (_titled(name), f"{100 * one['accuracy']:.2f}", f"{100 * one['agreement']:.2f}",
         f"{one['entropy_of_classes']:.2f}", f"{seconds[name]:.0f}" if name in seconds else "-")
        for name, one in found["sources"].items()
    ]  # fmt: skip
    return [
        "## A diffusion model as synthesizer (Fashion-MNIST, none, not private)",
        "",
        f"A network of {found['weights']:,} weights learned from {found['trained']:,} images of "
        "the synthesizer (procedural images, untrained networks, crops of two photographs) in "
        f"{found['updates']:,} batches of {found['batch']}, {seconds['training']:.0f} s; "
        f"{found['steps']} steps make an image. Guided images are drawn towards each class of a "
        f"student that learned from the synthesizer's. A student learns from {asked:,} images of a "
        f"source in {found['passes']} passes; holdout rows, one seed (`scripts/bench diffusion`).",
        "",
        *table(
            ("images", "student", "agreement", "entropy of their classes (nats)", "seconds"), rows
        ),
        "",
    ]


def _titled(name: str) -> str:
    half = "half of each: the synthesizer's and " if name.startswith("half ") else ""
    source, _, pull = name.removeprefix("half ").partition(" ")
    kinds = {"synthesizer": "the synthesizer's", "diffusion": "diffusion, not guided"}
    return half + kinds.get(source, f"diffusion, guided by {pull} a step")
