"""Where a request comes from."""

from collections.abc import Sequence

from fastapi import Request

from dpsd.guard.network import network_prefix


def network_of(request: Request, proxies: Sequence[str]) -> str:
    """The network prefix of a request, see `network_prefix`."""
    address = request.client.host if request.client else ""
    return network_prefix(address, ",".join(request.headers.getlist("x-forwarded-for")), proxies)
