"""Which sources of query images fit the shape and the kind of the data, and why."""

from typing import Any

from dpsd.config import Config, PublicFacts
from dpsd.config.public import drawn_shares, public_photographs

_SMALL = 40  # pixels of the longer side: a written sign or an icon, as a rule
_WRITTEN = ("digits", "mnist")
_LISTED = "the statement lists them as declared public"


def priors(config: Config) -> dict[str, Any]:
    """What the run asks about, and what fits its data by public facts alone.

    Returns:
        `asked`, the shares of the configured sources; `fits`, the names of those that fit, best
        first; `why`, in words.
    """
    g = config.generator
    shares = drawn_shares(g) or {"images": 1.0}
    asked = {k: v / sum(shares.values()) for k, v in shares.items()}
    fits, why = _fitting(config.data.name, config.facts)
    if "photographs" in fits and g.kind != "images" and not public_photographs(g):
        why += f"; this run takes none: set generator.shares.photographs ({_LISTED})"
    return {"asked": asked, "fits": fits, "why": why}


def priors_line(found: dict[str, Any]) -> str:
    """`priors` in words."""
    asked = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found["asked"].items())
    return (
        f"Query images: {asked}. What fits such data: {', '.join(found['fits'])}; {found['why']}."
    )


def _fitting(name: str, facts: PublicFacts) -> tuple[list[str], str]:
    channels, height, width = facts.shape
    if name in _WRITTEN:
        return ["strokes"], "writing consists of lines, and strokes are lines of all forms"
    if name == "fashion_mnist":
        return (
            ["blobs", "leaves", "strokes", "spectra"],
            "things on plain ground have outlines and textures, which the four procedural families "
            "vary",
        )
    if channels > 1:
        return (
            ["photographs", "leaves", "spectra"],
            "colour images are natural ones as a rule, and crops of photographs are nearest to "
            "them; procedural images add outlines",
        )
    if max(height, width) <= _SMALL:
        return (
            ["strokes", "blobs", "leaves", "photographs"],
            "small grey images are signs, outlines or small photographs; ask about all, unless you "
            "know which",
        )
    return (
        ["photographs", "blobs", "leaves", "spectra"],
        "large grey images are photographs as a rule (X-rays, faces), with shades that procedural "
        "images lack",
    )
