"""The configuration: every key with its type, default and range, and how keys fit together."""

from dpsd.config.config import (
    Config,
    flatten,
    load_config,
    parse_config,
    placed,
    quorum,
    read_tree,
)
from dpsd.config.public import NAMED, PublicFacts, public_facts

__all__ = [
    "NAMED",
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
