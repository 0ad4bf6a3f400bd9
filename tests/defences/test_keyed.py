"""Draws from a key: no two questions share one, and they look uniform."""

import pytest
import torch

from dpsd.defences.keyed import commitment, key_uniforms, uniforms
from dpsd.errors import UserError

KEY = bytes(range(16))


def draw(images: torch.Tensor, **options: object) -> torch.Tensor:
    known = {"key": KEY, "purpose": "test", "account": "a"} | options
    return uniforms(images, 3, **known)  # type: ignore[arg-type]


def test_images_that_differ_in_the_last_pixel_alone_differ(tiny_images: torch.Tensor) -> None:
    changed = tiny_images.clone()
    changed[:, -1, -1, -1] ^= 1
    assert not bool((draw(tiny_images) == draw(changed)).any())
    assert torch.equal(draw(tiny_images), draw(tiny_images.clone()))


def test_key_purpose_account_and_shape_matter(tiny_images: torch.Tensor) -> None:
    base = draw(tiny_images)
    others = [
        draw(tiny_images, key=KEY + b"\0"), draw(tiny_images, purpose="tes", account="ta"),
        draw(tiny_images, account="b"), draw(tiny_images.view(-1, 4, 14, 14)),
    ]  # fmt: skip
    assert all(not bool((base == other).any()) for other in others)


def test_memory_layout_does_not_matter(tiny_images: torch.Tensor) -> None:
    wide = tiny_images.expand(-1, 3, -1, -1)
    laid_out = wide.contiguous(memory_format=torch.channels_last)
    assert torch.equal(draw(wide.contiguous()), draw(laid_out))


def test_draws_are_uniform() -> None:
    images = torch.arange(4_000).view(-1, 1, 1, 1).to(torch.uint8).expand(-1, 1, 2, 2).clone()
    images[:, 0, 0, 1] = (torch.arange(4_000) // 256).to(torch.uint8)
    u = draw(images).flatten().sort().values
    grid = torch.arange(1, len(u) + 1).double() / len(u)
    assert float((u - grid).abs().max()) < 1.95 / len(u) ** 0.5  # Kolmogorov, 0.1 %
    assert float(u.min()) >= 0 and float(u.max()) < 1


def test_a_short_key_is_refused_in_one_line(tiny_images: torch.Tensor) -> None:
    with pytest.raises(UserError, match="key: 15 bytes; accepted: 16 or more"):
        draw(tiny_images, key=KEY[1:])


def test_the_commitment_binds_the_key() -> None:
    assert commitment(KEY) != commitment(KEY + b"\0") and len(commitment(KEY)) == 64
    assert KEY.hex() not in commitment(KEY)
    assert len(key_uniforms(4, key=KEY, purpose="p").unique()) == 4
