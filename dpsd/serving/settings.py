"""The keys of a service's YAML."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, field_validator

from dpsd.config.sections import Section
from dpsd.defences import parse_defence
from dpsd.errors import UserError
from dpsd.guard.limits import Tier

Count = Annotated[int, Field(ge=1)]


class TierSettings(Section):
    """What accounts of a tier may do."""

    per_minute: Count = 600
    """Images."""
    per_day: Count | None = None
    """Images, UTC days; null: any number."""
    defences: tuple[str, ...] = ()
    """What answers go through, as `noise:size=0.2`."""
    needs: str = ""
    """What the operator verifies before an account gets the tier; in words."""

    @field_validator("defences")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_defence(text)
        return value


_TIERS = {
    "trial": TierSettings(per_minute=120, per_day=1_000, defences=("labels",)),
    "verified": TierSettings(per_minute=600, per_day=20_000, defences=("rounding:digits=2",)),
    "trusted": TierSettings(per_minute=6_000),
}


class LimitSettings(Section):
    """Of the whole service."""

    images_per_minute: Count = 60_000
    network_images_per_minute: Count = 6_000
    """Of one network prefix, all accounts together."""
    images_per_request: Count = 256
    body_bytes: Count = 16 * 2**20
    pixels: Count = 16 * 2**20
    """Of one picture before it is decoded, and of all pictures of a request together."""
    requests_at_once: Count = 200


class PolicySettings(Section):
    """What may be done to answers."""

    allow_wrong_labels: bool = False
    """Defences that name a wrong class on purpose; `/v1/model` discloses it."""


class ServeSettings(Section):
    """A service."""

    tiers: dict[str, TierSettings] = Field(default_factory=lambda: dict(_TIERS))
    limits: LimitSettings = Field(default_factory=LimitSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)
    proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed."""

    def tier_table(self) -> dict[str, Tier]:
        """The tiers as the guard takes them.

        Raises:
            UserError: a tier gives wrong labels on purpose and the policy does not allow it.
        """
        for name, tier in self.tiers.items():
            wrong = [t for t in tier.defences if gives_wrong_labels(t)]
            if wrong and not self.policy.allow_wrong_labels:
                raise UserError(
                    f"tiers.{name}.defences: {wrong[0]} names wrong classes on purpose; accepted "
                    "with policy.allow_wrong_labels: true, which /v1/model discloses"
                )
        return {name: Tier(t.per_minute, t.per_day, t.defences, t.needs)
                for name, t in self.tiers.items()}  # fmt: skip


def gives_wrong_labels(defence: str) -> bool:
    """Whether a defence may change the likeliest class."""
    return not parse_defence(defence).keeps_top1


def read_settings(path: Path | None) -> ServeSettings:
    """The settings of a YAML file; without one the defaults.

    Raises:
        UserError: the file cannot be read, or a key or value is not accepted; one line.
    """
    if path is None:
        return ServeSettings()
    try:
        tree = yaml.safe_load(path.read_text()) or {}
        settings = ServeSettings.model_validate(tree)
    except (OSError, yaml.YAMLError) as e:
        raise UserError(f"{path}: cannot be read ({' '.join(str(e).split())})") from e
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: {place}: {first['msg']}") from e
    settings.tier_table()
    return settings
