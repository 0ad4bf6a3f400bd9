"""Procedural image priors: random pictures that need no training and know nothing private.

Four families of rising complexity: pen strokes, thresholded noise (blobs), 1/f^a noise (spectra)
and dead leaves. Noise and dead leaves follow Baradad et al., "Learning to See by Looking at
Noise" (NeurIPS 2021). Nothing here holds a glyph, a font, a class shape or a real image.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dpsd.errors import UserError

FAMILIES = ("strokes", "blobs", "spectra", "leaves")
Shape = tuple[int, int, int]
Draw = Callable[[int, Shape, Generator], Tensor]

_POINTS = 128  # samples along all strokes of an image
_CHAINS, _SEGMENTS = 4, 3  # pen-down phases of an image, and segments of each, at most
_LEAVES = 16  # shapes of a dead-leaves image, at most
_SMOOTH = 12  # cosine modes per axis that suffice for blobs and textures
_CHUNK_FLOATS = 2**20  # largest temporary of a chunk: small enough to stay in cache


def procedural(
    family: str, n: int, shape: Shape, rng: Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw images of one family.

    Args:
        family: one of `FAMILIES`.
        n: number of images.
        shape: (C, H, W), C at least 1, H and W at least 4.
        rng: the only source of randomness; the images are computed on its device.
        device: where the images are returned.

    Returns:
        uint8 [n, C, H, W].

    Raises:
        UserError: unknown family, negative n, or an impossible shape.
    """
    families = {"strokes": strokes, "blobs": blobs, "spectra": spectra, "leaves": leaves}
    if family not in families:
        raise UserError(f"procedural family {family!r} is unknown; use one of {FAMILIES}")
    return families[family](n, shape, rng).to(device)


def _in_chunks(draw: Draw) -> Draw:
    """Check the arguments, draw floats in [0, 1] chunk by chunk, and return them as uint8."""

    @functools.wraps(draw)
    def images(n: int, shape: Shape, rng: Generator) -> Tensor:
        if n < 0:
            raise UserError(f"number of images is {n}; it must be 0 or more")
        if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 4:
            raise UserError(f"image shape is {shape}; use (C, H, W) with C >= 1 and H, W >= 4")
        out = torch.empty((n, *shape), dtype=torch.uint8, device=rng.device)
        chunk = _CHUNK_FLOATS // (max(6, shape[0]) * shape[1] * shape[2])  # leaves have 6 planes
        for part in torch.split(out, max(1, min(2048, chunk))):
            part.copy_(draw(len(part), shape, rng).clamp_(0, 1).mul_(255).round_())
        return out

    return images


def uniform(rng: Generator, *size: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers, float32 of this size, on the device of `rng`."""
    return torch.rand(size, generator=rng, device=rng.device).mul_(high - low).add_(low)


def normal(rng: Generator, *size: int) -> Tensor:
    """Standard normal numbers, float32 of this size, on the device of `rng`."""
    return torch.randn(size, generator=rng, device=rng.device)


def chance(p: float, rng: Generator, *size: int) -> Tensor:
    """True with probability p, bool of this size, on the device of `rng`."""
    return torch.rand(size, generator=rng, device=rng.device) < p


def _colours(n: int, c: int, rng: Generator) -> Tensor:
    """Colours of random saturation, [n, c, 1, 1]; for c = 1 uniform grey levels."""
    grey = uniform(rng, n, 1)
    if c > 1:
        grey = grey.lerp(uniform(rng, n, c), uniform(rng, n, 1))
    return grey[:, :, None, None]


def _centred(size: int, rng: Generator) -> Tensor:
    """Pixel centres along one axis, 0 in the middle of the image."""
    return torch.arange(size, device=rng.device) - (size - 1) / 2


@_in_chunks
def strokes(n: int, shape: Shape, rng: Generator) -> Tensor:
    """Draw pen scribbles: 1 to 4 lines, looping, cornered or closed, as `procedural` does."""
    c, h, w = shape
    path, pen_down = _paths(n, rng)
    path[0] *= torch.exp(0.25 * normal(rng, n, 1))
    # Fit the bounding box into a random frame, then move it within what is left of the image.
    low, high = path.aminmax(dim=2, keepdim=True)
    size = torch.tensor([w, h], device=rng.device).view(2, 1, 1)
    frame = uniform(rng, n, 1, low=0.4, high=0.95)
    path = (path - (low + high) / 2) * frame * (size / (high - low).clamp_(min=1e-3)).amin(0)
    path += 0.25 * (1 - frame) * size * uniform(rng, 2, n, 1, low=-1)
    gap = torch.hypot(*path.diff(dim=2, prepend=path[:, :, :1])) * pen_down

    pen = uniform(rng, n, 1, low=1.0, high=3.5) * (min(h, w) / 28)
    # A Gaussian falls to one half at 1.18 sigma: that is half the pen's width. Samples further
    # apart than two sigma would show as beads.
    sigma = torch.maximum(pen / (2 * 1.18), 0.5 * gap.amax(dim=1, keepdim=True)).clamp_(min=0.4)
    k = (math.sqrt(0.5) / sigma)[:, :, None]
    splat_x = _bell(_centred(w, rng) * k - path[0, :, :, None] * k)
    splat_y = _bell(_centred(h, rng) * k - path[1, :, :, None] * k)
    # Weighting by the gap makes the sum a line integral: about 1 on the line at any pen speed.
    splat_y *= (gap / (math.sqrt(2 * math.pi) * sigma))[:, :, None]
    ink = torch.bmm(splat_y.transpose(1, 2), splat_x)
    # The slope at half height is 0.59 / sigma; bring it to one per pixel, for a flat bright core.
    ink = ink.sub_(0.5).mul_((sigma / 0.59).clamp_(min=1)[:, :, None]).add_(0.5).clamp_(0, 1)

    share, level = (0.15, 0.3) if c == 1 else (0.6, 1.0)
    paper = level * _colours(n, c, rng) * chance(share, rng, n, 1, 1, 1)
    bright = 1 - 0.5 * _colours(n, c, rng).square_()
    pen_colour = torch.where(paper > 0.5, 1 - bright, bright)
    return paper + (pen_colour - paper) * ink[:, None]


def _bell(x: Tensor) -> Tensor:
    """exp(-x^2) in place; far out 1e-13, as exp is ten times slower where it underflows."""
    return x.square_().neg_().clamp_(min=-30).exp_()


def _paths(n: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Random scribbles: (x, y) [2, n, _POINTS], and where the pen is down [n, _POINTS]."""
    chains = 1 + (_CHAINS * uniform(rng, n, 1) ** 1.7).long()
    progress = torch.arange(_POINTS, device=rng.device) * chains
    chain, u = progress // _POINTS, (progress % _POINTS) / _POINTS
    v = u * (_SEGMENTS * uniform(rng, n, _CHAINS)).floor_().add_(1).gather(1, chain)
    key = chain * _SEGMENTS + v.long()
    v = v.frac_()

    # Half of the images: arcs of constant curvature, which give lines, hooks, loops and coils.
    table = (n, _CHAINS, _SEGMENTS)
    turn = normal(rng, *table) * (math.pi / 2) * chance(0.75, rng, *table)
    loop = turn.sign() * uniform(rng, *table, low=3.5, high=7.5)
    turn = torch.where(chance(0.25, rng, *table), loop, turn)
    corner = uniform(rng, *table, low=-math.pi, high=math.pi) * chance(0.4, rng, *table)
    corner[:, :, 0] = uniform(rng, n, _CHAINS, low=-math.pi, high=math.pi)
    start = (corner + turn).cumsum(2) - turn
    step = uniform(rng, *table, low=0.3) * 4 * chains[:, :, None] / _POINTS
    arcs = torch.stack((start, turn, step)).flatten(2)
    start, turn, step = arcs.gather(2, key.expand(3, -1, -1))
    heading = start + turn * v
    walk = torch.stack((heading.cos() * step, heading.sin_() * step)).cumsum_(2)
    # Spread the gap between both ends over a chain to close it; count from its middle.
    ends = torch.arange(_CHAINS + 1, device=rng.device) * _POINTS // chains
    ends = walk.gather(2, ends.clamp_(max=_POINTS - 1).expand(2, -1, -1))
    first, last = ends[:, :, :-1], ends[:, :, 1:]
    drift = (last - first) * chance(0.3, rng, n, _CHAINS)
    at = chain.expand(2, -1, -1)
    walk -= ((first + last - drift) / 2).gather(2, at) + drift.gather(2, at) * u

    # The other half: quadratic Bezier chains with continuous tangents (a uniform B-spline).
    control = normal(rng, 2, n, _CHAINS, _SEGMENTS + 2)
    p0, p1, p2 = control[..., :-2], control[..., 1:-1], control[..., 2:]
    curves = torch.stack((p0 / 2 - p1 + p2 / 2, p1 - p0, (p0 + p1) / 2)).flatten(3)
    bend, slope, base = curves.gather(3, key.expand(3, 2, -1, -1))
    spline = (bend * v + slope) * v + base

    path = torch.where(chance(0.5, rng, n, 1), walk, spline)
    path += 0.6 * normal(rng, 2, n, _CHAINS).gather(2, at)
    return path, chain == chain.roll(1, 1)


def smooth_noise(
    h: int, w: int, exponent: Tensor, rng: Generator, modes: int, mirror: Tensor | None = None
) -> Tensor:
    """Fields of mean 0, variance 1 and amplitude 1/f^exponent: [n, 1] -> [n, h, w].

    `modes` caps the frequencies per axis; `mirror`, bool [n, 1, 1], asks for symmetric fields.
    """
    bases, powers = [], []
    for side in (h, w):
        f = torch.arange(min(side, modes), device=rng.device, dtype=torch.float32)
        grid = torch.arange(side, device=rng.device)[:, None] + 0.5
        bases.append(torch.cos(math.pi / side * grid * f) * math.sqrt(2 / side))
        bases[-1][:, 0] /= math.sqrt(2)
        tilted = exponent + 0.2 * normal(rng, len(exponent), 1)  # makes the grain directional
        powers.append((f * (min(h, w) / side)) ** tilted.clamp_(min=0.1))
    spectrum = powers[0][:, :, None] + powers[1][:, None, :]
    coefficients = normal(rng, *spectrum.shape).div_(spectrum)
    coefficients[:, 0, 0] = 0
    if mirror is not None:
        coefficients[:, :, 1::2] *= ~mirror  # odd modes are the antisymmetric ones
    # The basis is orthonormal, so this sets the variance over the pixels.
    norm = coefficients.square().sum((1, 2), keepdim=True).sqrt_()
    return bases[0] @ (coefficients.mul_(math.sqrt(h * w) / norm) @ bases[1].T)


@_in_chunks
def blobs(n: int, shape: Shape, rng: Generator) -> Tensor:
    """Draw thresholded smooth noise, often a centred object, as `procedural` does."""
    (c, h, w), one = shape, (n, 1, 1)
    mirror = chance(0.5, rng, *one)
    field = smooth_noise(h, w, uniform(rng, n, 1, low=1.2, high=3), rng, _SMOOTH, mirror)
    # Pulling the field down away from the centre leaves an object with a natural outline.
    windowed = chance(0.6, rng, *one)
    radius, power = uniform(rng, 2, n, 1, low=0.2, high=0.5), uniform(rng, n, 1, low=2, high=6)
    down = (_centred(h, rng).abs() / (h * radius[0])) ** power
    window = down[:, :, None] + ((_centred(w, rng).abs() / (w * radius[1])) ** power)[:, None]
    threshold = torch.where(windowed, normal(rng, *one) - 1.2, 0.8 * normal(rng, *one))
    field -= window.mul_(3 * windowed)
    # Neither an empty nor a full image: each would come again and again.
    threshold = threshold.clamp(field.amin((1, 2), True) + 0.3, field.amax((1, 2), True) - 0.3)
    mask = (field - threshold).mul_(uniform(rng, *one, high=3).exp_() / 2).add_(0.5).clamp_(0, 1)
    mask = mask * mask * (3 - 2 * mask)

    texture = smooth_noise(h, w, uniform(rng, n, 1, low=0.3, high=2.5), rng, _SMOOTH, mirror)
    contrast = 0.3 * uniform(rng, *one).square_()
    fill = _colours(n, c, rng).sqrt() + texture.mul_(contrast)[:, None]
    ground = _colours(n, c, rng) * (~windowed & chance(0.6, rng, *one))[:, None]
    return ground + (fill - ground) * mask[:, None]


@_in_chunks
def spectra(n: int, shape: Shape, rng: Generator) -> Tensor:
    """Draw noise of amplitude 1/f^a, a uniform in [0.5, 3], as `procedural` does."""
    c, h, w = shape
    exponent = uniform(rng, n, 1, low=0.5, high=3).repeat_interleave(c, 0)
    images = smooth_noise(h, w, exponent, rng, max(h, w)).view(n, c, h * w)
    if c > 1:
        mixing = normal(rng, n, c, c)
        images = (mixing / mixing.norm(dim=2, keepdim=True)) @ images
    contrast = uniform(rng, n, 1, 1, low=0.05, high=0.4)
    offset = uniform(rng, n, 1, 1, low=0.1, high=0.9) + 0.1 * normal(rng, n, c, 1) * (c > 1)
    images.mul_(contrast).add_(offset)
    return torch.where(chance(0.05, rng, n, 1, 1), 1 - images, images).view(n, c, h, w)


@_in_chunks
def leaves(n: int, shape: Shape, rng: Generator) -> Tensor:
    """Draw textured shapes painted over each other, as `procedural` does."""
    c, h, w = shape
    # Busy images come first, so that each layer is painted on a shrinking prefix.
    bold, u = chance(0.35, rng, n), uniform(rng, n)
    count = torch.where(bold, 1 + 3.99 * u, 4 + 12.99 * u * u).long()
    count, order = count.sort(descending=True, stable=True)
    bold = bold[order]
    ground = _colours(n, c, rng) * (~bold & chance(0.75, rng, n)).view(n, 1, 1, 1)
    canvas, base = ground.repeat(1, 1, h, w).flatten(2), _colours(n, c, rng)[..., 0].sqrt()
    grain = smooth_noise(h, w, uniform(rng, n, 1, low=0.3, high=2.5), rng, _SMOOTH).flatten(1)

    y, x = torch.meshgrid(_centred(h, rng), _centred(w, rng), indexing="ij")
    plane = torch.stack((torch.ones_like(x), x, y)).flatten(1)
    layer = torch.arange(_LEAVES, device=rng.device)[:, None]
    for m in filter(None, (layer < count).sum(1).tolist()):
        forms, ellipse, radius = _leaf_forms(bold[:m], h, w, rng)
        forms = forms @ plane
        # Half a radius makes the edge of an ellipse about one pixel wide.
        disc = (1 - forms[:, 0].square() - forms[:, 1].square()).mul_(radius / 2)
        mask = torch.where(ellipse, disc, forms[:, :4].amin(1)).add_(0.5).clamp_(0, 1)[:, None]
        contrast = uniform(rng, m, 1, high=0.3).square_()
        stripes = uniform(rng, m, 1, high=0.25) * chance(0.4, rng, m, 1)
        shade = forms[:, 4] + forms[:, 5].sin_() * stripes + grain[:m] * contrast
        # The parts of a bold shape share one colour, up to a little.
        colour = _colours(m, c, rng)[..., 0]
        colour = torch.where(bold[:m, None, None], base[:m].lerp(colour, 0.2), colour)
        canvas[:m].lerp_(shade[:, None] + colour, mask)
    canvas = canvas.view(n, c, h, w)
    mirror = torch.where(bold, 0.85, 0.2).view(n, 1, 1, 1) > uniform(rng, n, 1, 1, 1)
    left, right = canvas[..., : w // 2].flip(3), canvas[..., w - w // 2 :]
    right.copy_(torch.where(mirror, left, right))
    canvas = torch.where(chance(0.05, rng, n, 1, 1, 1), 1 - canvas, canvas)
    return canvas[torch.randperm(n, generator=rng, device=rng.device)]


def _leaf_forms(bold: Tensor, h: int, w: int, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Linear forms [m, 6, 3] in (1, x, y), which leaves are ellipses, and radii, both [m, 1].

    A polygon is where forms 0 to 3 are positive, in pixels; the axes of an ellipse are forms 0
    and 1. Form 4 is the gradient of the leaf's grey level and form 5 the phase of its stripes.
    """
    m, side, bold = len(bold), min(h, w), bold[:, None]
    spread = torch.where(bold, 0.15, 0.5)
    centre = uniform(rng, m, 2, low=-1) * spread * torch.tensor([w, h], device=rng.device)
    r = uniform(rng, m, 1)  # many small leaves and few large ones
    radius = torch.where(bold, 0.2 + 0.25 * r, 0.08 + 0.42 * r * r) * side
    ellipse = chance(0.3, rng, m, 1) & ~(bold & chance(0.6, rng, m, 1))

    # Rectangles, trapezia and, where the fourth side is the first again, triangles.
    tilt = uniform(rng, m, 1, high=2 * math.pi) * ~(bold & chance(0.8, rng, m, 1))
    turn = 2 * math.pi / torch.where(chance(0.2, rng, m, 1), 3, 4)
    angle = tilt + turn * torch.arange(4, device=rng.device)
    angle += 0.2 * normal(rng, m, 4) * chance(0.6, rng, m, 1)
    distance = radius * uniform(rng, m, 4, low=0.3, high=1.1)
    edges = torch.stack((angle.cos(), angle.sin()), 2)
    edges /= torch.where(ellipse, distance, 1)[:, :, None]

    slope = normal(rng, m, 1, 2) * (0.5 / side) * chance(0.5, rng, m, 1, 1)
    directions = torch.cat((edges, slope, normal(rng, m, 1, 2) * (14 / side)), 1)
    phase = uniform(rng, m, 1, high=2 * math.pi)
    offsets = torch.cat((distance * ~ellipse, torch.zeros_like(phase), phase), 1)[:, :, None]
    return torch.cat((offsets - directions @ centre[:, :, None], directions), 2), ellipse, radius
