"""The keys of a service's YAML."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, field_validator

from dpsd.config.sections import Section
from dpsd.defences import parse_defence
from dpsd.errors import UserError
from dpsd.guard.limits import Tier
from dpsd.guard.policy import Level, Policy

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


class LevelSettings(Section):
    """A graded response to suspicion."""

    name: str = Field(min_length=1, max_length=40)
    at: float = Field(ge=0, le=2)
    """Suspicion from which it holds: 0 without evidence, 1 at the alarm, at most 2."""
    rate: float = Field(default=1.0, gt=0, le=1)
    """Share of the tier's images a minute and a day that is left."""
    defences: tuple[str, ...] = ()
    """Beside those of the tier."""
    work: bool = False
    """Answers cost proof of work."""
    block: bool = False
    """Nothing is answered."""

    @field_validator("defences")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_defence(text)
        return value


_LEVELS = (
    LevelSettings(name="observe", at=0.4),
    LevelSettings(name="slow", at=0.6, rate=0.25),
    LevelSettings(name="less", at=0.8, rate=0.25, defences=("labels",)),
    LevelSettings(name="challenge", at=0.9, rate=0.25, defences=("labels",), work=True),
    LevelSettings(name="block", at=1.0, block=True),
)


class PolicySettings(Section):
    """What is done about suspicion."""

    dry_run: bool = True
    """Levels are decided and logged, and change no answer."""
    allow_wrong_labels: bool = False
    """Defences that name a wrong class on purpose; `/v1/model` discloses it."""
    leave: float = Field(default=0.5, ge=0, le=1)
    """A level is left where suspicion falls below this part of its `at`."""
    levels: tuple[LevelSettings, ...] = _LEVELS


class DetectionSettings(Section):
    """Who is looked at, and what is kept."""

    watch: bool = True
    """Needs a reference; without one the service says that it detects nothing."""
    reference: Path | None = None
    """Of `dpsd guard calibrate`; null: `guard/reference.npz` of the run, if it is there."""
    days: Count = 30
    """After so many days without a question an account's sketch and log are deleted."""
    clusters_minutes: Count = 10
    """Between looks for accounts that are one hand, while somebody asks."""
    work_hashes: Count = 4096
    """Base work of one image at a level with `work`, in SHA-256 hashes."""


class DashboardSettings(Section):
    """The operator's side."""

    hosts: tuple[str, ...] = ()
    """Names under which the dashboard is reached, beside those of this machine."""


class ServeSettings(Section):
    """A service."""

    tiers: dict[str, TierSettings] = Field(default_factory=lambda: dict(_TIERS))
    limits: LimitSettings = Field(default_factory=LimitSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)
    detection: DetectionSettings = Field(default_factory=DetectionSettings)
    dashboard: DashboardSettings = Field(default_factory=DashboardSettings)
    proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed."""

    def tier_table(self) -> dict[str, Tier]:
        """The tiers as the guard takes them.

        Raises:
            UserError: a tier gives wrong labels on purpose and the policy does not allow it.
        """
        for name, tier in self.tiers.items():
            self._check(f"tiers.{name}", tier.defences)
        return {name: Tier(t.per_minute, t.per_day, t.defences, t.needs)
                for name, t in self.tiers.items()}  # fmt: skip

    def policy_table(self) -> Policy:
        """The policy as the guard takes it.

        Raises:
            UserError: levels that do not rise, or one that gives wrong labels where the policy
                does not allow it.
        """
        for level in self.policy.levels:
            self._check(f"policy.levels.{level.name}", level.defences)
        levels = tuple(Level(x.name, x.at, x.rate, x.defences, x.work, x.block)
                       for x in self.policy.levels)  # fmt: skip
        return Policy(levels, self.policy.leave, self.policy.dry_run)

    def wrong_labels(self, tier: str) -> bool:
        """Whether answers of a tier may name a wrong class on purpose, suspected or not."""
        found = self.tiers.get(tier)
        texts = () if found is None else found.defences
        if not self.policy.dry_run:
            texts += tuple(text for level in self.policy.levels for text in level.defences)
        return any(gives_wrong_labels(text) for text in texts)

    def _check(self, place: str, defences: tuple[str, ...]) -> None:
        wrong = [text for text in defences if gives_wrong_labels(text)]
        if wrong and not self.policy.allow_wrong_labels:
            raise UserError(
                f"{place}.defences: {wrong[0]} names wrong classes on purpose; accepted "
                "with policy.allow_wrong_labels: true, which /v1/model discloses"
            )


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
    settings.policy_table()
    return settings
