"""The attacks by name."""

from dataclasses import dataclass

from dpsd.attacks.extraction.adaptive.domain import adapted
from dpsd.attacks.extraction.adaptive.recovery import recovery
from dpsd.attacks.extraction.adaptive.repeated import accounts, neighbours
from dpsd.attacks.extraction.clone import Attack
from dpsd.attacks.extraction.labels.active import (
    active,
    active_centres,
    active_entropy,
    active_margin,
)
from dpsd.attacks.extraction.labels.boundary import boundary
from dpsd.attacks.extraction.labels.hard import augmented, basic, mixup, top1
from dpsd.attacks.extraction.probabilities.marich import marich
from dpsd.attacks.extraction.probabilities.soft import distillation, random_erasing
from dpsd.attacks.extraction.probabilities.spsg import spsg
from dpsd.attacks.extraction.weights.equations import SOLVED, equations
from dpsd.attacks.extraction.weights.relu import relu
from dpsd.attacks.extraction.without_data.dfme import dfme
from dpsd.attacks.extraction.without_data.synthetic import synthetic


@dataclass(frozen=True)
class Named:
    """An attack, what it needs of an answer (`probabilities` or `labels`), and what it does.

    `of` names the architectures that it can copy; it then takes the victim's own. Empty: any.
    """

    run: Attack
    needs: str
    text: str
    of: tuple[str, ...] = ()


_ANY, _SOFT = "labels", "probabilities"
ATTACKS = {
    "basic": Named(basic, _ANY, "learns the named classes of random images of the pool"),
    "augmented": Named(augmented, _ANY, "asks about four versions of each image"),
    "mixup": Named(mixup, _ANY, "asks about four points between two images"),
    "boundary": Named(boundary, _ANY, "halves segments between differently named images"),
    "active": Named(active, _ANY, "asks where the clone is in doubt, far apart"),
    "active_entropy": Named(active_entropy, _ANY, "asks where the clone's entropy is largest"),
    "active_margin": Named(active_margin, _ANY, "asks where the clone's margin is smallest"),
    "active_centres": Named(active_centres, _ANY, "asks far from all that was asked"),
    "marich": Named(marich, _ANY, "entropy, differing gradients, then where the clone errs"),
    "distillation": Named(distillation, _SOFT, "learns the whole answers to random images"),
    "random_erasing": Named(random_erasing, _SOFT, "distillation with parts of images erased"),
    "spsg": Named(spsg, _SOFT, "learns how answers change with superpixels"),
    "equations": Named(
        equations, _ANY, "solves for the weights of a student on fixed wavelets", SOLVED
    ),
    "relu": Named(relu, _SOFT, "finds the units of a two-layer ReLU network by their kinks"),
    "synthetic": Named(synthetic, _ANY, "asks about images of dpsd's own synthesizer"),
    "dfme": Named(dfme, _SOFT, "trains a generator on estimated gradients, without data"),
    "adapted": Named(adapted, _ANY, "for other problems' pools: active, adapted statistics"),
    "top1": Named(top1, _ANY, "ignores probabilities: against defences that keep the class"),
    "neighbours": Named(neighbours, _ANY, "averages nearly equal copies: against keyed changes"),
    "recovery": Named(recovery, _SOFT, "restores answers: against a defence that is known"),
    "accounts": Named(accounts, _ANY, "asks under several names and lets them vote"),
}
"""Name -> attack. `fusion.Fused` gives each of them several models at once."""
