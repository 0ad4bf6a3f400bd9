"""The accountant against a second implementation that shares no code with it.

Each loss is put on a fine grid here, split between its two neighbours so that its mean stays, and
composed by numpy's FFT. Splitting adds at most cell^2 / 4 to the variance of each loss, and the FFT
about 1e-12 to delta. `test_the_reference_knows_its_own_error` measures the sum: the reference is
right within ERROR.
"""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from dpsd.privacy.accounting import compose_delta, compose_epsilon
from dpsd.privacy.events import DpSgdRelease, GaussianRelease, VotesRelease

ERROR = 1e-4  # relative, of an epsilon of the reference
CELLS = 2**20


def votes_loss(sigma):
    """Losses and masses of one count of a histogram that moves by one."""
    x = np.arange(-math.ceil(13 * sigma), math.ceil(13 * sigma) + 1)
    mass = np.exp(-(x**2) / (2 * sigma**2))
    return (1 - 2 * x) / (2 * sigma**2), mass / mass.sum()


def gaussian_loss(mu):
    x, dx = np.linspace(-13, 13, 2**16, retstep=True)
    return mu**2 / 2 + mu * x, norm.pdf(x) * dx


def sgd_loss(noise, rate, worlds):
    x, dx = np.linspace(-13 * noise - 1, 13 * noise + 1, 2**16, retstep=True)

    def density(shift):
        return (1 - rate) * norm.pdf(x, 0, noise) + rate * norm.pdf(x, shift, noise)

    null = norm.pdf(x, 0, noise)
    upper = null if worlds == "add" else density(1)
    lower = {"remove": null, "add": density(1), "replace": density(-1)}[worlds]
    return np.log(upper / lower), upper * dx


class Reference:
    """The composed loss of parts, each a triple of losses, masses and how often."""

    def __init__(self, parts, cells=CELLS):
        means = [n * np.dot(loss, mass) for loss, mass, n in parts]
        spread = math.sqrt(sum(n * np.dot(loss**2, mass) for loss, mass, n in parts))
        largest = max(np.abs(loss[mass > 1e-13]).max() for loss, mass, n in parts)
        low, high = sum(means) - 12 * spread - largest, sum(means) + 12 * spread + largest
        cell = (high - low) / cells
        spectrum = np.ones(cells // 2 + 1, complex)
        for loss, mass, n in parts:
            at = np.floor(loss / cell).astype(int)
            right = loss / cell - at
            grid = np.bincount(at % cells, mass * (1 - right), cells)
            grid += np.bincount((at + 1) % cells, mass * right, cells)
            spectrum *= np.fft.rfft(grid) ** n
        first = math.floor(low / cell)
        self.losses = cell * (first + np.arange(cells))
        self.masses = np.roll(np.fft.irfft(spectrum, cells), -first)

    def delta(self, epsilon):
        above = self.losses > epsilon
        return float(-np.expm1(epsilon - self.losses[above]) @ self.masses[above])

    def epsilon(self, delta):
        return brentq(lambda e: self.delta(e) - delta, 0, self.losses[-1], xtol=1e-12)


def reference_parts(releases, worlds):
    parts = []
    for release, n in releases:
        if isinstance(release, VotesRelease):
            parts.append((*votes_loss(release.sigma), 2 * n))
        elif isinstance(release, GaussianRelease):
            parts.append((*gaussian_loss(release.sensitivity / release.sigma), n))
        else:
            noise, rate = release.noise_multiplier, release.sample_rate
            parts.append((*sgd_loss(noise, rate, worlds), n * release.steps))
    return parts


MANY_VOTES, FEW_VOTES = (VotesRelease(190.0), 8192), (VotesRelease(2.0), 3)
FAINT_VOTES = (VotesRelease(6000.0), 64)
SGD = (DpSgdRelease(1.3, 512 / 60_000, 1758), 1)
SHORT_SGD = (DpSgdRelease(0.9, 0.02, 60), 2)
GAUSSIAN = (GaussianRelease(1.0, 4.0), 5)
MIXES = {
    "many votes": [MANY_VOTES],
    "few votes": [FEW_VOTES],
    "faint votes": [FAINT_VOTES],
    "many faint votes": [(VotesRelease(6000.0), 10**6)],
    "two kinds of votes": [MANY_VOTES, (VotesRelease(11.0), 1)],
    "DP-SGD": [SGD],
    "little noise": [SHORT_SGD],
    "DP-SGD and votes": [SGD, MANY_VOTES],
    "DP-SGD and faint votes": [(DpSgdRelease(4.0, 0.002, 500), 1), (VotesRelease(6000.0), 10**5)],
    "DP-SGD and few votes": [SHORT_SGD, FEW_VOTES],
    "Gaussian and votes": [GAUSSIAN, (VotesRelease(40.0), 200)],
    "all": [GAUSSIAN, MANY_VOTES, SGD],
}
RELATIONS = {"replace_one": ["replace"], "add_or_remove_one": ["remove", "add"]}
CASES = [
    (name, relation)
    for name, mix in MIXES.items()
    for relation in RELATIONS
    if relation == "replace_one" or any(isinstance(r, DpSgdRelease) for r, _ in mix)
]


@pytest.mark.parametrize(("name", "relation"), CASES)
def test_epsilon_against_a_second_implementation(name, relation):
    releases = MIXES[name]
    references = [Reference(reference_parts(releases, worlds)) for worlds in RELATIONS[relation]]
    for delta in (1e-5, 1e-7):
        expected = max(reference.epsilon(delta) for reference in references)
        found = compose_epsilon(releases, delta, relation)
        assert expected * (1 - ERROR) <= found <= expected * 1.005
        reached = max(reference.delta(expected) for reference in references)
        assert reached * (1 - 20 * ERROR) <= compose_delta(expected, releases, relation)


def test_the_reference_knows_its_own_error():
    """Gaussians have a closed form; half the cells quadruple what the grid adds."""
    releases = [(GaussianRelease(1.0, 190.0), 2 * 8192), (GaussianRelease(1.0, 6000.0), 640)]
    exact = compose_epsilon(releases, 1e-5)
    found = Reference(reference_parts(releases, "replace")).epsilon(1e-5)
    assert found == pytest.approx(exact, rel=ERROR / 10)
    for mix in ("faint votes", "DP-SGD and votes"):
        parts = reference_parts(MIXES[mix], "replace")
        fine, coarse = (Reference(parts, cells).epsilon(1e-5) for cells in (CELLS, CELLS // 2))
        assert fine == pytest.approx(coarse, rel=ERROR)
