"""`secformer certs` and `secformer dealer` as processes: ready, asked, drained; one line for each mistake."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("gmssl_pyx")

from secformer_jax.cli import app as cli
from secformer_jax.cluster import config
from secformer_jax.cluster.wire import tls
from secformer_jax.mpc.runtime import layout

COMMAND = [sys.executable, "-c", "from secformer_jax.cli.app import main; main()"]


@pytest.fixture(scope="module")
def cluster_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    document = json.loads((layout.CONFIG_DIR / "2pc_semi2k_dealer.json").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        document["secformer"]["dealer"] = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "cluster.json").write_text(json.dumps(document))
    assert cli.run(["certs", "--cluster", str(folder / "cluster.json"), "--out", str(folder / "tls"), "--json"]) == 0
    return folder / "cluster.json"


def asked(cluster, path, role="S0"):
    address = cluster.dealer_address()
    connection = http.client.HTTPSConnection(
        address.host, address.port, context=tls.client_context(cluster.tls(role)), timeout=10
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_dealer_starts_answers_and_drains(cluster_file):
    cluster = config.load(cluster_file)
    process = subprocess.Popen([*COMMAND, "dealer", "--cluster", str(cluster_file)], stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stderr.readline()]
        while "ready" not in lines[-1]:
            assert process.poll() is None, lines
            lines.append(process.stderr.readline())
        ready = json.loads(lines[-1])
        assert (ready["role"], ready["level"], ready["address"]) == ("dealer", "info", str(cluster.dealer))
        assert json.loads(asked(cluster, "/health")[1])["status"] == "ok"
        assert "secformer_dealer_requests" in asked(cluster, "/metrics", "owner")[1]
        assert asked(cluster, "/nothing")[0] == 404
        again = subprocess.run([*COMMAND, "dealer", "--cluster", str(cluster_file)], capture_output=True, text=True)
        assert again.returncode == 2 and "is another one running?" in again.stderr
        assert again.stderr.count("secformer:") == 1 and "Traceback" not in again.stderr
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[1]
        assert process.returncode == 0 and time.monotonic() - started < 10
        assert [json.loads(line)["event"] for line in rest.splitlines()] == ["draining", "stopped"]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert (cluster_file.parent / "tls" / "dealer-state" / "beaver-sessions").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dealer", "--cluster", "nowhere.json"), "no config file nowhere.json"),
        (("dealer", "--cluster", "2pc_cheetah"), "has no dealer"),
        (("dealer", "--cluster", "2pc_semi2k"), "know every mask"),
        (("dealer", "--cluster", "FILE", "--tls", "/nowhere"), "make them with secformer certs"),
        (("dealer", "--cluster", "FILE", "--memory-limit", "0"), "--memory-limit 0"),
        (("dealer", "--cluster", "FILE", "--log-level", "loud"), "--log-level loud"),
        (("certs", "--cluster", "FILE", "--out", "OUT", "--days", "0"), "--days 0"),
        (("certs", "--cluster", "FILE", "--out", "FILE"), "FILE"),
    ],
)
def test_mistakes(cluster_file, tmp_path, capsys, arguments, said):
    replaced = {"FILE": str(cluster_file), "OUT": str(tmp_path / "out")}
    assert cli.run([replaced.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and replaced.get(said, said) in error


def test_certs_says_what_it_wrote(cluster_file, tmp_path, capsys):
    assert cli.run(["certs", "--cluster", str(cluster_file), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"(\S+)\.key$", out, re.MULTILINE) and str(tmp_path / "ca.pem") in out
    assert f"who has {tmp_path} has every key" in " ".join(out.split())
    assert cli.run(["certs", "--cluster", str(cluster_file), "--out", str(tmp_path)]) == 0
    assert "has all of them already" in capsys.readouterr().out
