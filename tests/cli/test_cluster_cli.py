"""The commands of a cluster's owner and clients, with servers that are played in this process."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import families as cases
import pytest

from secformer_jax.cli import app as cli
from secformer_jax.cluster.requirements import approximations
from secformer_jax.models import checkpoint
from secformer_jax.models.plaintext import Plaintext
from secformer_jax.mpc.runtime import config as mpc_config

pytest.importorskip("aiohttp")

FILE = str(mpc_config.CONFIG_DIR / "hosts" / "2pc_semi2k_dealer.json")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "a", "dog", "sat", "ran")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """classification/ and embedding/."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tokens").mkdir()
    (folder / "tokens" / "vocab.txt").write_text("\n".join(WORDS))
    for head in ("classification", "embedding"):
        model = dataclasses.replace(cases.small("bert", head), tokenizer_dir=folder / "tokens")
        checkpoint.save(model, folder / head)
    return folder


@pytest.fixture
def servers(monkeypatch):
    """What was published, served in plaintext."""
    from secformer_jax.cluster.clients import client, owner

    state = SimpleNamespace(asked=[])

    async def publish(cluster, model, deployment):
        state.model, state.deployment = model, deployment
        return SimpleNamespace(deployment=deployment.name, tensors=7, sent_bytes=(2_000_000, 3_000_000))

    class Client:
        def __init__(self, cluster, role):
            state.asked.append(role)

        async def __aenter__(self):
            return self

        async def __aexit__(self, *exception):
            return None

        async def deployment(self):
            return state.deployment

        async def infer(self, encoded):
            served = state.deployment
            plain = Plaintext(state.model, approximations(served), calibration=served.calibration, head=served.head)
            return client.Answer(plain(encoded), 0.5, (10, 20), {"seconds": 0.25})

    async def statuses(cluster, role):
        state.asked.append(role)
        counts = {
            "secformer_requests_total answered": 3,
            "secformer_sent_bytes_total link": 4e6,
            "secformer_received_bytes_total owner": 5e6,
        }
        serving = {"role": "S0", "state": "serving", "model": None, "waiting": 1, "counts": counts, "description": {}}
        return {"S0": serving, "S1": {"role": "S1", "error": "no answer"}}

    monkeypatch.setattr(owner, "publish", publish)
    monkeypatch.setattr(client, "ClusterClient", Client)
    monkeypatch.setattr(client, "statuses", statuses)
    return state


@pytest.fixture
def run(capsys):
    def call(*arguments):
        capsys.readouterr()
        code = cli.run([*map(str, arguments)])
        printed = capsys.readouterr()
        assert (code, printed.err == "") in ((0, True), (2, False))
        return printed.err or printed.out

    return call


def results(printed):
    return json.loads(printed)["results"]


def test_publish_and_infer(models, servers, run):
    publish = "publish", "--cluster", FILE, "--model", models / "classification", "--preset", "secformer"
    printed = run(*publish, "--softmax", "puma", "--embedding", "inside", "--no-keep-weights")
    assert "2.0 MB to S0, 3.0 MB to S1" in printed
    assert (servers.deployment.embedding, servers.deployment.keep_weights) == ("inside", False)
    assert servers.deployment.functions["softmax"] == "puma"
    [published] = results(run(*publish, "--json"))
    assert published["preset"] == "secformer" and published["sent_bytes"] == {"S0": 2_000_000, "S1": 3_000_000}
    assert servers.deployment.keep_weights and servers.deployment.name == published["deployment"]
    infer = "infer", "--cluster", FILE, "--model", models / "classification", "--text", "the cat", "--text", "a dog"
    one, two = results(run(*infer, "--client", "somebody", "--json"))
    assert servers.asked == ["somebody"] and (one["text"], two["text"]) == ("the cat", "a dog")
    assert one["head"] == "classification" and one["sent_bytes"] == {"S0": 10, "S1": 20}
    assert (one["seconds"], one["party"]) == (0.5, {"seconds": 0.25}) and one["label"].startswith("LABEL_")
    assert f"private answer: {one['label']}" in run(*infer)
    assert "pass one pair for each text" in run(*infer, "--text-pair", "ran")
    assert "the limit is 3" in run(*infer, "--max-length", 3)
    for option in (["--compare"], ["--preset", "puma"], ["--config", "3pc_aby3"], ["--embedding", "inside"]):
        assert "a cluster's model is its own" in run(*infer, *option)
    assert "embedding was asked for" in run("embed", *infer[1:])
    assert "no text" in run(*infer[:5])


def test_embed(models, servers, run):
    publish = "publish", "--cluster", FILE, "--model", models / "embedding", "--preset", "exact"
    embed = "embed", "--cluster", FILE, "--model", models / "embedding", "--text", "the cat"
    run(*publish)
    assert "--head embedding" in run(*embed)
    run(*publish, "--head", "embedding")
    [entry] = results(run(*embed, "--json"))
    assert len(entry["embedding"]) == 64 and entry["head"] == "embedding" and servers.asked == ["client"] * 2
    wrong = "publish", "--cluster", FILE, "--model", models / "classification", "--head", "embedding"
    assert "gives no vectors" in run(*wrong)


def test_status(servers, run):
    serving, silent = results(run("status", "--cluster", FILE, "--json"))
    assert serving["state"] == "serving" and "description" not in serving and silent["error"] == "no answer"
    printed = run("status", "--cluster", FILE, "--role", "client")
    assert "4.0 / 5.0" in printed and "no answer" in printed and servers.asked == ["owner", "client"]


def test_mistakes(run, tmp_path):
    assert "at least 1" in run("certs", "--cluster", FILE, "--out", tmp_path, "--days", 0)
    assert "0.1 to 1024" in run("dealer", "--cluster", FILE, "--memory-limit", 0)
    for command in (("dealer",), ("party", "--name", "S0")):
        assert "debug, info, warning, error" in run(*command, "--cluster", FILE, "--log-level", "loud")
    assert "its parties are S0, S1" in run("party", "--cluster", FILE, "--name", "S2")
    assert "no config file" in run("status", "--cluster", tmp_path / "none.json")


def test_packages_of_clusters_and_of_mpc_are_imported_where_they_are_needed():
    code = (
        "import sys; from secformer_jax.cli import app\n"
        "assert app.run(['--help']) == 0 and not {'aiohttp', 'numpy', 'tokenizers'} & set(sys.modules)\n"
        "assert app.run(['infer', '--text', 'a', '--cluster', 'none']) == 2\n"
        "assert not {'spu', 'jax', 'flax', 'uvloop', 'gmssl_pyx', 'prometheus_client'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("secformer: no config file none") and done.stderr.count("\n") == 1
