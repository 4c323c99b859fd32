"""`secformer check`: the cluster file, this machine's keys and the others, one line each."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import asdict
from typing import Annotated

import typer

from secformer_jax.cli.commands.cluster import read
from secformer_jax.cli.options import ClusterFile, Json, TlsFolder
from secformer_jax.cli.report import Reporter
from secformer_jax.cluster.checks import keys, others
from secformer_jax.cluster.checks.finding import Finding
from secformer_jax.cluster.config import DEALER, Cluster
from secformer_jax.errors import UserError


def check(
    cluster: ClusterFile,
    role: Annotated[str | None, typer.Option("--role", help="Whose machine this is; all whose keys are here.")] = None,
    tls: TlsFolder = None,
    offline: Annotated[bool, typer.Option("--offline", help="The file and the keys alone.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", help="The most that a server may take to answer.")] = 5.0,
    json: Json = False,
) -> None:
    """The cluster file, this machine's keys and the other servers: one line each, and what to do."""
    reporter = Reporter(json)
    if seconds <= 0:
        raise UserError(f"--seconds {seconds:g}: more than 0 is expected")
    try:
        found = read(cluster, tls)
    except UserError as error:
        findings = [Finding("cluster file", str(error), "mend the file")]
    else:
        findings = [
            Finding("cluster file", f"{found.protocol}; {', '.join(found.roles)}"),
            *_protocol(found),
            *_findings(found, role, offline, seconds),
        ]
    for each in findings:
        reporter.say(f"{each.verdict:5} {each.what}: {each.found}{f'. To do: {each.advice}' if each.advice else ''}")
    reporter.results([{**asdict(each), "verdict": each.verdict} for each in findings])
    if wrong := sum(each.verdict == "mend" for each in findings):
        reporter.say(f"{wrong} to mend.")
        raise typer.Exit(1)


def _protocol(cluster: Cluster) -> list[Finding]:
    """Whether SPU takes the file's runtime_config; looked at where it is installed, as at every server."""
    try:
        from secformer_jax.mpc.runtime import config
    except ModuleNotFoundError:
        return []
    try:
        config.load(cluster.path)
    except UserError as error:
        return [Finding("protocol", str(error), "mend runtime_config in the file")]
    return [Finding("protocol", "SPU takes it")]


def _findings(cluster: Cluster, role: str | None, offline: bool, seconds: float) -> list[Finding]:
    roles = [role] if role is not None else keys.roles_here(cluster)
    if not roles:
        folder = cluster.tls(cluster.parties[0]).key.parent
        raise UserError(f"no role's key is in {folder}: pass --role, or --tls with the folder of this role's keys")
    now = datetime.datetime.now(datetime.UTC)
    # What several roles of one machine share is said once.
    findings = list(dict.fromkeys(each for name in roles for each in keys.examine(cluster, name, now)))
    callers = [name for name in roles if name != DEALER]
    if offline or not callers:
        return findings
    try:
        return [*findings, *asyncio.run(others.examine(cluster, callers[0], seconds))]
    except UserError as error:
        return [*findings, Finding("the others", f"not asked: {error}", "mend this role's files first")]
