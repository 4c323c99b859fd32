"""Each role on a host of its own, with the files that are meant for it and by the commands that people type."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hosts import Hosts, why_not

pytest.importorskip("spu")
pytest.importorskip("gmssl_pyx")
pytestmark = [pytest.mark.timeout(900), pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

SERVERS = ("dealer", "S0", "S1")
ROLES = (*SERVERS, "owner", "client")
GIVEN = {
    "dealer": {"dealer.sm2.key"},
    "S0": {"dealer.sm2.pem", "dealer-ca.pem"},
    "S1": {"dealer.sm2.pem", "dealer-ca.pem"},
    "owner": set(),
    "client": set(),
}
"""What a role gets beside the CA's certificate, its own and its key."""
LIMIT_SECONDS = 30
TEXT = "A warm and funny film that I would happily watch again."


class Deployed:
    """A folder and a network address for each role, and the servers' processes."""

    def __init__(self, folder, hosts):
        self.folder, self.hosts, self.processes = folder, hosts, {}
        at = hosts.addresses
        document = json.loads((layout_folder() / "hosts" / "2pc_semi2k_dealer.json").read_text())
        device = document["devices"]["SPU"]["config"]
        document["nodes"] = {name: f"{at[name]}:61920" for name in ("S0", "S1")}
        device["spu_internal_addrs"] = [f"{at[name]}:61930" for name in ("S0", "S1")]
        document["secformer"]["dealer"] = f"{at['dealer']}:61940"
        for role in ROLES:
            (folder / role).mkdir(parents=True)
            (folder / role / "cluster.json").write_text(json.dumps(document))
        made = folder / "ca"
        made.mkdir()
        (made / "cluster.json").write_text(json.dumps(document))
        command = [
            sys.executable,
            "-m",
            "secformer_jax",
            "certs",
            "--cluster",
            made / "cluster.json",
            "--out",
            made / "tls",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        for role in ROLES:
            (folder / role / "tls").mkdir()
            for name in ("ca.pem", f"{role}.pem", f"{role}.key", *GIVEN[role]):
                shutil.copy2(made / "tls" / name, folder / role / "tls" / name)

    def command(self, role, *words):
        """A command of ours on a role's host."""
        own = ["--cluster", str(self.folder / role / "cluster.json")]
        return [*self.hosts.inside(role), sys.executable, "-m", "secformer_jax", words[0], *own, *map(str, words[1:])]

    def start(self, role):
        words = ["dealer"] if role == "dealer" else ["party", "--name", role]
        with (self.folder / role / "log").open("ab") as log:
            self.processes[role] = subprocess.Popen(self.command(role, *words), stderr=log, stdout=log)

    def run(self, role, *words):
        return subprocess.run(self.command(role, *words), capture_output=True, text=True, timeout=300)

    def ask(self, *texts):
        words = [word for text in texts for word in ("--text", text)]
        return self.command("client", "infer", "--model", "sst2-student", "--json", *words)

    def until_ready(self):
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            found = self.run("owner", "status", "--json")
            if '"ready"' in found.stdout:
                return
            time.sleep(1)
        raise AssertionError(found.stdout + found.stderr)


def layout_folder():
    from secformer_jax.mpc.runtime import layout

    return layout.CONFIG_DIR


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    with Hosts(ROLES) as hosts:
        found = Deployed(tmp_path_factory.mktemp("hosts"), hosts)
        for role in SERVERS:
            found.start(role)
        published = found.run("owner", "publish", "--model", "sst2-student", "--preset", "fast")
        assert published.returncode == 0, published.stderr
        found.until_ready()
        yield found
        for process in found.processes.values():
            process.send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in found.processes.values()] == [0, 0, 0]


def answered(done):
    assert done.returncode == 0, done.stderr
    [entry] = json.loads(done.stdout)["results"]
    return entry


def test_each_role_on_its_own_host(deployed):
    from secformer_jax.functions import presets
    from secformer_jax.models import checkpoint, folders
    from secformer_jax.models.plaintext import Plaintext
    from secformer_jax.models.ranges import load_calibration
    from secformer_jax.models.request import encode_request
    from secformer_jax.models.text import Tokenizer

    entry = answered(subprocess.run(deployed.ask(TEXT), capture_output=True, text=True, timeout=300))
    model, fast = checkpoint.load(folders.SHIPPED), presets.preset("fast")
    plain = Plaintext(model, fast, calibration=load_calibration(model, fast))
    expected = plain(encode_request(model, Tokenizer(model.tokenizer_dir, model.config), TEXT))
    assert entry["label"] == "positive"
    assert max(abs(ours - theirs) for ours, theirs in zip(entry["logits"], expected[0], strict=True)) < 0.02


def test_a_host_that_loses_its_network_in_a_request(deployed):
    log = deployed.folder / "S0" / "log"
    before = log.read_text().count('"answered"')
    asking = subprocess.Popen(deployed.ask(*[TEXT] * 40), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while log.read_text().count('"answered"') == before and asking.poll() is None:
        time.sleep(0.1)
    deployed.hosts.plug("S1", "down")
    try:
        started = time.monotonic()
        _, said = asking.communicate(timeout=2 * LIMIT_SECONDS)
        assert time.monotonic() - started < LIMIT_SECONDS
        assert asking.returncode == 2 and len(said.strip().splitlines()) == 1 and "S1" in said
    finally:
        deployed.hosts.plug("S1", "up")
        asking.kill()
    deployed.until_ready()
    assert (
        answered(subprocess.run(deployed.ask(TEXT), capture_output=True, text=True, timeout=300))["label"] == "positive"
    )
    assert all(process.poll() is None for process in deployed.processes.values())
