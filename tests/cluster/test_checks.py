"""`secformer check` finds what is wrong with a cluster file, with a role's keys and with the others, each by name."""

import asyncio
import contextlib
import datetime
import email.utils
import json
import shutil
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import aiohttp
import jsonschema
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from tls_cases import on_free_ports

pytest.importorskip("gmssl_pyx")

import secformer_jax
from secformer_jax.cli import app
from secformer_jax.cluster import certs, config, signing
from secformer_jax.cluster.checks import keys, others
from secformer_jax.cluster.checks.finding import Finding
from secformer_jax.cluster.options import KEYS as OPTIONS
from secformer_jax.cluster.wire import tls
from secformer_jax.cluster.wire.http import Server, application
from secformer_jax.cluster.wire.paths import HEALTH_PATH, STATUS_PATH
from secformer_jax.mpc.runtime import config as spu_config
from secformer_jax.mpc.runtime import layout
from secformer_jax.mpc.runtime.layout import CONFIG_DIR

SCHEMA = json.loads((CONFIG_DIR / "schema" / "cluster.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a cluster file for free ports, and everybody's keys."""
    folder = tmp_path_factory.mktemp("made")
    on_free_ports(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def checked(folder: Path, capsys, *options: str) -> tuple[int, list[dict]]:
    capsys.readouterr()
    code = app.run(["check", "--cluster", str(folder / "cluster.json"), "--json", *options])
    return code, json.loads(capsys.readouterr().out)["results"]


def edited(folder: Path, edit: Callable[[dict], None]) -> dict:
    path = folder / "cluster.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return document


def device(document: dict) -> dict:
    return document["devices"]["SPU"]["config"]


def test_a_cluster_without_a_mistake(folder, capsys):
    code, found = checked(folder, capsys, "--offline")
    assert code == 0 and {each["verdict"] for each in found} == {"ok"}
    looked_at = {each["what"] for each in found}
    assert {"cluster file", "certificate of the CA", "SM2 key of the dealer"} <= looked_at
    assert {f"{what} of {role}" for what in ("key", "certificate") for role in ("S0", "owner", "client")} <= looked_at


FILE_MISTAKES: dict[str, tuple[Callable[[dict], object], str, bool]] = {
    # What is done to the file, what is said of it, and whether the schema alone sees it.
    "unknown key": (lambda d: d["secformer"].update(dealr="x"), '"secformer" is an object with the keys', True),
    "no port": (lambda d: d["nodes"].update(S0="127.0.0.1"), "node S0 is at '127.0.0.1'", True),
    "one address twice": (lambda d: d["nodes"].update(S0=d["nodes"]["S1"]), "given to two listeners", False),
    "name twice": (lambda d: d["secformer"].update(clients=["S0"]), "the name 'S0' is given twice", False),
    "name of a file": (lambda d: d["secformer"].update(clients=["../x"]), "can't stand in a certificate", True),
    "no dealer": (lambda d: d["secformer"].pop("dealer"), "has no dealer", False),
    "all audited": (lambda d: d["secformer"].update(audits=1), '"audits" is 1', True),
    "link missing": (lambda d: device(d)["spu_internal_addrs"].pop(), "2 node_ids and 1 spu_internal_addrs", False),
    "no protocol": (lambda d: device(d).pop("runtime_config"), "not in SPU's layout", True),
    "no such field": (lambda d: device(d)["runtime_config"].update(field="FM46"), "FM46", True),
    "no networks": (lambda d: d["secformer"].update(link_sources="10.0.0.0/8"), '"link_sources" has networks', True),
}


@pytest.mark.parametrize("name", FILE_MISTAKES)
def test_a_mistake_in_the_file(name, folder, capsys):
    edit, said, in_schema = FILE_MISTAKES[name]
    document = edited(folder, edit)
    code, found = checked(folder, capsys, "--offline")
    [wrong] = [each for each in found if each["verdict"] == "mend"]
    assert code == 1 and wrong["what"] in ("cluster file", "protocol") and said in wrong["found"] and wrong["advice"]
    errors = list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(document))
    assert bool(errors) == in_schema


def test_the_schema_knows_every_key_and_every_file_that_comes_along(made):
    assert set(SCHEMA["$defs"]["secformer"]["properties"]) == set(config.KEYS) >= set(OPTIONS)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    runtime = SCHEMA["$defs"]["device"]["properties"]["runtime_config"]["properties"]
    assert set(runtime["protocol"]["enum"]) == set(layout.PARTIES)
    assert set(runtime["field"]["enum"]) == set(spu_config.FIELDS)
    bits = range(runtime["fxp_fraction_bits"]["minimum"], runtime["fxp_fraction_bits"]["maximum"] + 1)
    assert bits == spu_config.FRACTION_BITS
    for path in (made / "cluster.json", *CONFIG_DIR.glob("*.json"), *CONFIG_DIR.glob("hosts/*.json")):
        jsonschema.validate(json.loads(path.read_text()), SCHEMA)


def authority(folder: Path) -> certs.Authority:
    return certs.Authority.load(folder / "tls")


def give(folder: Path, role: str, **terms) -> None:
    """Another certificate for a role, with a key of its own."""
    pems = authority(folder).issue(role, ("127.0.0.1",), **terms)
    for suffix, pem in zip(("pem", "key"), pems, strict=True):
        certs.write_file(folder / "tls" / f"{role}.{suffix}", pem, secret=suffix == "key")


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def other_ca(folder: Path) -> None:
    pem = certs.Authority.create().certificate.public_bytes(certs.serialization.Encoding.PEM)
    (folder / "tls" / "ca.pem").write_bytes(pem)


def other_key(folder: Path) -> None:
    pem = certs.key_pem(ec.generate_private_key(ec.SECP256R1()))
    certs.write_file(folder / "tls" / "S0.key", pem, secret=True)


def other_sm2(folder: Path) -> None:
    (folder / "tls" / certs.SM2_PUBLIC).unlink()
    (folder / "tls" / certs.SM2_PRIVATE).rename(folder / "kept")
    certs.write_sm2(folder / "tls")
    (folder / "kept").replace(folder / "tls" / certs.SM2_PRIVATE)


def moved(folder: Path) -> None:
    edited(folder, lambda d: d["nodes"].update(S0="10.1.2.3:7000"))


def revoked(folder: Path) -> None:
    signing.revoke(folder / "tls" / "S0.pem", folder / "tls")


KEY_MISTAKES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    # What is done to the folder, whose machine it is, what is looked at, and what is found.
    "no key": (lambda f: (f / "tls" / "S0.key").unlink(), "S0", "key of S0", "is not there"),
    "open key": (lambda f: (f / "tls" / "S0.key").chmod(0o644), "S0", "key of S0", "can be read by others (mode 644)"),
    "damaged key": (lambda f: (f / "tls" / "S0.key").write_text("x"), "S0", "key of S0", "can't be read"),
    "no certificate": (lambda f: (f / "tls" / "S0.pem").unlink(), "S0", "certificate of S0", "is not there"),
    "another's certificate": (
        lambda f: shutil.copy(f / "tls" / "S1.pem", f / "tls" / "S0.pem"),
        *("S0", "certificate of S0", "it is that of S1"),
    ),
    "another key": (other_key, "S0", "certificate of S0", "it belongs to another key"),
    "another host": (moved, "S0", "certificate of S0", "it does not name 10.1.2.3"),
    "no server": (lambda f: give(f, "S0", serves=False), "S0", "certificate of S0", "it may not serve"),
    "no client": (lambda f: give(f, "S0", calls=False), "S0", "certificate of S0", "it may not call"),
    "ended": (lambda f: give(f, "S0", ends=now()), "S0", "certificate of S0", "ended on"),
    "another CA": (other_ca, "S0", "who signed the certificate of S0", "another CA"),
    "another CA at the dealer": (other_ca, "dealer", "who signed the certificate of dealer", "another CA"),
    "no CA": (lambda f: (f / "tls" / "ca.pem").unlink(), "client", "certificate of the CA", "is not there"),
    "no dealer's CA": (
        lambda f: (f / "tls" / config.DEALER_CA).unlink(),
        *("S0", "certificate of the dealer's CA", "is not there"),
    ),
    "no SM2 key": (
        lambda f: (f / "tls" / certs.SM2_PUBLIC).unlink(),
        *("S1", "the dealer's public SM2 key", "is not there"),
    ),
    "another SM2 key": (other_sm2, "dealer", "SM2 key of the dealer", "is that of another key"),
    "revoked": (revoked, "S0", "list of revoked certificates", "the certificate of S0 is on it"),
    "damaged list": (
        lambda f: (f / "tls" / "revoked.pem").write_text("x"),
        *("S0", "list of revoked certificates", "is no list of revoked certificates"),
    ),
}


@pytest.mark.parametrize("name", KEY_MISTAKES)
def test_a_mistake_in_the_keys(name, folder, capsys):
    do, role, what, said = KEY_MISTAKES[name]
    do(folder)
    code, found = checked(folder, capsys, "--offline", "--role", role)
    [wrong] = [each for each in found if each["verdict"] == "mend"]
    assert code == 1 and wrong["what"] == what and said in wrong["found"] and wrong["advice"]


def test_a_certificate_that_ends_soon_still_works(folder, capsys):
    give(folder, "S0", days=29)
    code, found = checked(folder, capsys, "--offline", "--role", "S0")
    assert code == 0 and [each["what"] for each in found if each["verdict"] == "soon"] == ["certificate of S0"]


def test_a_clock_before_the_certificates(made):
    early = now() - datetime.timedelta(days=1)
    found = list(keys.examine(config.load(made / "cluster.json"), "S0", early))
    assert {each.what for each in found if "valid only from" in each.found} == {
        *("certificate of the CA", "certificate of S0")
    }


def test_nobodys_keys(folder, capsys):
    shutil.rmtree(folder / "tls")
    assert app.run(["check", "--cluster", str(folder / "cluster.json")]) == 2
    assert "no role's key is in" in capsys.readouterr().err


def look(folder: Path, **changed: web.Application | None) -> dict[str, Finding]:
    """What the owner finds of servers that say they are well, of which some are others, or not there."""
    cluster = config.load(folder / "cluster.json")

    async def run() -> list[Finding]:
        async with contextlib.AsyncExitStack() as stack:
            for name, address in {**cluster.control, "dealer": cluster.dealer}.items():
                app = changed.get(name, server())
                if app is not None:
                    running = Server(app, address, tls.server_context(cluster.tls(name)))
                    await running.start()
                    stack.push_async_callback(running.close)
            return await others.examine(cluster, "owner", 2.0)

    return {each.what.partition(" at ")[0]: each for each in asyncio.run(run())}


def server(health: dict | None = None, status: dict | None = None, headers: dict | None = None) -> web.Application:
    """A server of a cluster with the model abc, but for what is given."""
    health = {"state": "ready", "version": secformer_jax.__version__, **(health or {})}
    status = {"protocol": "SEMI2K", "model": "abc", **(status or {})}
    app = web.Application()

    async def show_health(request: web.Request) -> web.Response:
        return web.json_response(health, headers=headers)

    async def show_status(request: web.Request) -> web.Response:
        return web.json_response(status)

    app.add_routes([web.get(HEALTH_PATH, show_health), web.get(STATUS_PATH, show_status)])
    return app


def test_others_without_a_mistake(folder):
    found = look(folder)
    assert set(found) == {"S0", "S1", "dealer", "versions", "protocols", "models"}
    assert {each.verdict for each in found.values()} == {"ok"}


def test_health_says_the_version(folder):
    async def run() -> dict:
        cluster = config.load(folder / "cluster.json")
        app = application([], cluster.roles, operators=())
        running = Server(app, config.Address("127.0.0.1", 0), tls.server_context(cluster.tls("S0")))
        address = await running.start()
        ask = tls.client_context(cluster.tls("client"))
        async with aiohttp.ClientSession() as http:
            answer = await http.get(f"https://{address}{HEALTH_PATH}", ssl=ask, server_hostname="S0")
            found = await answer.json()
        await running.close()
        return found

    assert asyncio.run(run())["version"] == secformer_jax.__version__


def date(seconds: float) -> dict[str, str]:
    return {"Date": email.utils.format_datetime(now() + datetime.timedelta(seconds=seconds), usegmt=True)}


@pytest.mark.parametrize(
    ("changed", "what", "said"),
    [
        ({"S0": None}, "S0", "nobody answers"),
        ({"dealer": None}, "dealer", "nobody answers"),
        ({"S1": server(headers=date(-3600))}, "S1", "behind this one"),
        ({"S1": server(headers=date(+3600))}, "S1", "ahead of this one"),
        ({"S1": server({"version": "0.0.9"})}, "versions", "S1 0.0.9"),
        ({"dealer": server({"version": None})}, "versions", "dealer none"),
        ({"S1": server(status={"protocol": "ABY3"})}, "protocols", "S1 ABY3"),
        ({"S1": server(status={"model": None})}, "models", "S1 none"),
    ],
)
def test_a_mistake_in_the_others(changed, what, said, folder):
    found = look(folder, **changed)
    assert found[what].verdict == "mend" and said in found[what].found


def test_another_role_at_an_address(folder):
    """S1 at S0's address, as where two lines of the file were mixed up."""
    for suffix in ("pem", "key"):
        shutil.copy(folder / "tls" / f"S1.{suffix}", folder / "tls" / f"S0.{suffix}")
    assert "somebody else answers" in look(folder)["S0"].found


def test_no_answer_in_time(folder):
    cluster = config.load(folder / "cluster.json")

    async def run() -> list[Finding]:
        async with await asyncio.start_server(lambda reader, writer: None, *astuple(cluster.control["S0"])):
            return await others.examine(cluster, "owner", 0.5)

    assert asyncio.run(run())[0].found == "no answer in time"


def test_an_unknown_name(folder):
    edited(folder, lambda d: d["nodes"].update(S0="nowhere.invalid:7000"))
    found = asyncio.run(others.examine(config.load(folder / "cluster.json"), "owner", 2.0))
    assert "the name nowhere.invalid is unknown here" in found[0].found
