"""The configuration: every key with its type, default and range, and how keys fit together."""

from dpsd.config.config import Config, quorum
from dpsd.config.public import NAMED, NUMBERED, PublicFacts, public_facts
from dpsd.config.reading import flatten, load_config, parse_config, placed, read_tree

__all__ = [
    "NAMED",
    "NUMBERED",
    "Config",
    "PublicFacts",
    "flatten",
    "load_config",
    "parse_config",
    "placed",
    "public_facts",
    "quorum",
    "read_tree",
]
