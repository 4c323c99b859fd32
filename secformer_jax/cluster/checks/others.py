"""The servers and the dealer, looked at from a role's machine: name, address, certificate, clock, version, model."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

import secformer_jax
from secformer_jax.cluster.checks.finding import Finding
from secformer_jax.cluster.checks.keys import SOON
from secformer_jax.cluster.config import DEALER, Address, Cluster
from secformer_jax.cluster.wire import bodies, tls
from secformer_jax.cluster.wire.paths import HEALTH_PATH, STATUS_PATH

CLOCK_SECONDS = 60
"""Clocks that differ by more are set: certificates and logs are read by them."""


@dataclass(frozen=True)
class _Met:
    """What a server answered."""

    name: str
    health: dict[str, Any]
    status: dict[str, Any]
    ends: datetime.datetime
    ahead_seconds: float


async def examine(cluster: Cluster, role: str, seconds: float) -> list[Finding]:
    """Ask every server, and the dealer where there is one.

    Args:
        cluster: where they are.
        role: who asks; not the dealer, whose certificate can't call.
        seconds: the most that each may take.

    Raises:
        UserError: the role's own TLS files can't be used.
    """
    addresses = {**cluster.control, **({DEALER: cluster.dealer} if cluster.dealer else {})}
    context = tls.client_context(cluster.tls(role))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, force_close=True)) as http:
        meeting = (_meet(http, context, name, address, seconds) for name, address in addresses.items())
        found = await asyncio.gather(*meeting)
    met = [each for each in found if isinstance(each, _Met)]
    lines = [_line(each) if isinstance(each, _Met) else each for each in found]
    return [*lines, *_agreement(met, cluster)]


async def _meet(
    http: aiohttp.ClientSession, context: ssl.SSLContext, name: str, address: Address, seconds: float
) -> _Met | Finding:
    what = f"{name} at {address}"
    start = f"start it: secformer {'dealer' if name == DEALER else f'party --name {name}'}; or mend its address"
    try:
        async with asyncio.timeout(seconds):
            ends = await _handshake(context, name, address)
            health, date = await _get(http, name, f"https://{address}{HEALTH_PATH}")
            status = {} if name == DEALER else (await _get(http, name, f"https://{address}{STATUS_PATH}"))[0]
        ahead = email.utils.parsedate_to_datetime(date).timestamp() - time.time()
        return _Met(name, health, status, ends, ahead)
    except socket.gaierror as error:
        return Finding(what, f"the name {address.host} is unknown here ({error.strerror})", "mend the name, or DNS")
    except ssl.SSLCertVerificationError as error:
        return Finding(what, f"somebody else answers: {error.verify_message}", "mend the address, or its certificate")
    except TimeoutError:
        return Finding(what, "no answer in time", "let connections to it through the firewalls")
    except ConnectionRefusedError:
        return Finding(what, "nobody answers", start)
    except (aiohttp.ClientError, OSError, KeyError, TypeError, ValueError) as error:
        return Finding(what, f"no server of this cluster: {error or type(error).__name__}", "look into its log")


async def _handshake(context: ssl.SSLContext, name: str, address: Address) -> datetime.datetime:
    """The end of the certificate at an address, which has to be that of this role."""
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname=name)
    ends = ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"])
    writer.close()
    return datetime.datetime.fromtimestamp(ends, datetime.UTC)


async def _get(http: aiohttp.ClientSession, name: str, url: str) -> tuple[dict[str, Any], str]:
    """The JSON at an address, and the date of the answer."""
    async with http.get(url, server_hostname=name, raise_for_status=True, allow_redirects=False) as answer:
        return dict(json.loads(await bodies.body(answer))), answer.headers["Date"]


def _line(met: _Met) -> Finding:
    """Its clock and certificate, or that it is well."""
    what, now = met.name, datetime.datetime.now(datetime.UTC)
    if abs(met.ahead_seconds) > CLOCK_SECONDS:
        way = "ahead of" if met.ahead_seconds > 0 else "behind"
        return Finding(what, f"its clock is {abs(met.ahead_seconds):.0f} s {way} this one", "set both by NTP")
    if met.ends - now < SOON:
        return Finding(what, f"its certificate ends on {met.ends:%Y-%m-%d}", f"renew it at {met.name}", waits=True)
    return Finding(what, str(met.health.get("state", "well")))


def _agreement(met: Sequence[_Met], cluster: Cluster) -> list[Finding]:
    """Whether all have one version, and the servers one protocol and one model."""
    versions = {each.name: each.health.get("version") for each in met} | {"here": secformer_jax.__version__}
    protocols = {each.name: each.status.get("protocol") for each in met if each.name != DEALER}
    models = {each.name: each.status.get("model") for each in met if each.name != DEALER}
    lines = []
    if met:
        lines.append(_same("versions", versions, "install the same version everywhere"))
    if models:
        expected = protocols | {"the file": cluster.protocol}
        lines.append(_same("protocols", expected, "give everybody the same cluster file"))
        lines.append(_same("models", models, "publish again: secformer publish"))
    return lines


def _same(what: str, values: dict[str, Any], advice: str) -> Finding:
    if len(set(values.values())) <= 1:
        [value] = set(values.values())
        return Finding(what, str(value or "none")[:12])
    told = ", ".join(f"{name} {str(value or 'none')[:12]}" for name, value in values.items())
    return Finding(what, told, advice)
