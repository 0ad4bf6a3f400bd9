"""Where a request comes from: an address prefix, behind proxies that the operator names."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

_V4, _V6 = 24, 48


def network_prefix(address: str, forwarded: str, proxies: Sequence[str]) -> str:
    """The network prefix: /24 of IPv4, /48 of IPv6; `unknown` where there is no address.

    `X-Forwarded-For` is read from the right, and only as long as the hops are named proxies: what a
    client writes there itself changes nothing.

    Args:
        address: of the connection.
        forwarded: all values of `X-Forwarded-For`, joined by commas.
        proxies: addresses whose header is believed.
    """
    hops = forwarded.split(",")
    while address in proxies and hops and hops[-1].strip():
        address = hops.pop().strip()
    return _prefix(address)


@lru_cache(maxsize=4096)
def _prefix(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    width = _V4 if found.version == 4 else _V6
    return str(ipaddress.ip_network(f"{found}/{width}", strict=False))
