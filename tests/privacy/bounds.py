"""Lower bounds at a threshold that is fixed before the draws are seen."""

from dpsd.attacks.audit.bounds import epsilon_from_hits, mu_from_hits


def epsilon_bound(world0, world1, threshold=0.0, delta=0.0, alpha=0.05):
    """The epsilon at delta that the scores of two worlds refute all smaller values of."""
    hits = (*counted(world0, threshold), *counted(world1, threshold))
    return float(epsilon_from_hits(*hits, delta, alpha))


def mu_bound(world0, world1, threshold=0.0, alpha=0.05):
    """The mu of Gaussian DP that the scores refute all smaller values of."""
    return float(mu_from_hits(*counted(world0, threshold), *counted(world1, threshold), alpha))


def counted(scores, threshold):
    """Scores above the threshold, and all."""
    return int((scores > threshold).sum()), len(scores)
