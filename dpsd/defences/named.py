"""Defences by name, as the command line gives them."""

from dpsd.defences.defence import Defence, in_order
from dpsd.defences.output import Labels, Rounding, TopK
from dpsd.errors import UserError

DEFENCES = {"labels": Labels, "top_k": TopK, "rounding": Rounding}


def parse_defences(text: str) -> tuple[Defence, ...]:
    """`honey:threshold=1.5+rounding` -> the defences in the order in which they are applied."""
    found = []
    for part in text.split("+"):
        if part not in DEFENCES:
            raise UserError(f"defence: {part!r}; accepted: {', '.join(DEFENCES)}")
        found.append(DEFENCES[part]())
    return in_order(found)
