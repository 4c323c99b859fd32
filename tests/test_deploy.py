"""What is in deploy/ fits the package: its commands parse, its steps run, its metrics exist."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import light_environments
import pytest
import yaml

pytest.importorskip("gmssl_pyx")

from secformer_jax.cli import app
from secformer_jax.cluster import config
from secformer_jax.cluster.dealer.server import Dealer
from secformer_jax.cluster.party.metrics import PartyMetrics

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DOCKERFILE = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())


def commands() -> list[str]:
    """Every command of ours that a service runs."""
    found = [service["command"] for service in COMPOSE["services"].values()]
    for unit in UNITS:
        found += re.findall(r"^ExecStart(?:Pre)?=/opt/secformer/bin/secformer (.*)$", unit.read_text(), re.MULTILINE)
    return [line.replace("%i", "S0") for line in found]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    name, *options = shlex.split(line)
    app.command(name).make_context(name, options)


def test_there_are_services_for_every_server():
    cluster = config.load(DEPLOY / "cluster.json")
    services = COMPOSE["services"]
    assert {name.lower() for name in (*cluster.parties, config.DEALER)} == set(services)
    for role in (*cluster.parties, config.DEALER):
        [host] = cluster.hosts(role)
        assert services[role.lower()]["hostname"] == host
    assert len(UNITS) == 2 and len(commands()) == 7


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_the_image_runs_as_nobody_in_particular():
    users = instructions("USER")
    assert users == ["secformer"] and json.loads(instructions("ENTRYPOINT")[0]) == ["secformer"]


def test_the_steps_of_the_image_in_a_plain_shell(tmp_path):
    """Its first stage, but without what the package needs: that is what `make` installs."""
    source, made = tmp_path / "source", tmp_path / "opt"
    source.mkdir()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in instructions("COPY"):
        if line.startswith("--from"):
            continue
        *names, target = line.split()
        for name in names:
            assert name in kept, f"{name} is not sent to the builder"
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, source / target)
    for line in instructions("RUN")[:2]:
        line = line.replace("/opt/secformer", str(made)).replace("pip install", "pip install --no-deps")
        done = subprocess.run(line, shell=True, cwd=source, capture_output=True, text=True)
        if done.returncode and light_environments.NO_INDEX.search(done.stderr):
            pytest.skip("no package index")
        assert done.returncode == 0, done.stderr[-1000:]
    assert (made / "bin" / "secformer").exists()
    [student] = made.glob("lib/*/site-packages/secformer_jax/data/sst2_student")
    assert {"config.json", "model.safetensors"} <= {path.name for path in student.iterdir()}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_good(unit, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd")
    text = unit.read_text().replace("/opt/secformer/bin/secformer", "/bin/true").replace("%i", "S0")
    (tmp_path / "x.service").write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "x.service"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_metrics_that_are_watched_exist(tmp_path):
    dealer = Dealer(config.load(DEPLOY / "cluster.json"), None, plaintext=True)
    registries = PartyMetrics().registry, dealer.metrics.registry
    known = {family.name for registry in registries for family in registry.collect()}
    dealer.close()
    watched = set()
    for path in (DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "grafana" / "cluster.json"):
        watched |= set(re.findall(r"secformer_\w+", path.read_text()))
    watched -= {"secformer_jax"}
    assert {re.sub("_(total|bucket)$", "", name) for name in watched} <= known and len(watched) >= 10


def test_prometheus_asks_every_server_by_its_name():
    cluster = config.load(DEPLOY / "cluster.json")
    addresses = {**cluster.control, config.DEALER: cluster.dealer}
    asked = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    found = {each["tls_config"]["server_name"]: each["static_configs"][0]["targets"] for each in asked}
    assert found == {name: [str(address)] for name, address in addresses.items()}
    assert {Path(each["tls_config"]["cert_file"]).stem for each in asked} == set(cluster.options.operators)
