"""The guard: who asks a served model, how much, and what is done about it.

It knows accounts, keys, networks and times, and nothing of images beyond a feature vector.
`guard` puts limits, policy and detection together; `storage` remembers, `detection` finds one
account's strangeness, `clusters` many accounts' common hand, `proof_of_work` makes answers dear,
`apps` stands before other applications, `offline` reads logs, `indicators` tells partners.

Example:
    guard = open_guard(Path("guard"), {"trial": Tier(per_minute=60, per_day=1_000)})
    app.add_middleware(GuardMiddleware, guard=guard, account="shop.guarding:account",
                       embedder="shop.guarding:embed")
"""

from typing import Any

from dpsd.imports import import_object

_EXPORTED = {
    "Asked": "apps.middleware", "Guard": "guard", "GuardMiddleware": "apps.middleware",
    "Level": "policy", "Policy": "policy", "Tier": "limits", "open_guard": "apps.opening",
}  # fmt: skip
__all__ = list(_EXPORTED)


def __getattr__(name: str) -> Any:
    """What is exported, imported when it is first used: it needs the extra `serve`."""
    if name not in _EXPORTED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_object(f"{__name__}.{_EXPORTED[name]}:{name}")
