"""A few hundred of the mutated messages of experiments/fuzz.py at every port of one cluster: nothing breaks."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import fuzz
from cluster_subject import ask, tiny
from mallory import NAME

from secformer_jax.cluster.loopback import LocalCluster

pytest.importorskip("spu")
pytestmark = pytest.mark.timeout(300)

READY = '"event": "ready"'


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    subject, folder = tiny("drop-in"), tmp_path_factory.mktemp("fuzz")
    with LocalCluster(folder, "2pc_semi2k_dealer", clients=("honest", NAME)) as local:
        subject.publish(local)
        asyncio.run(ask(local, "honest", subject.requests[:1]))
        yield local, subject, fuzz.entries(local, READY)
        [answer] = asyncio.run(ask(local, "honest", subject.requests[:1]))
        assert subject.error(0, answer) < 0.02


@pytest.mark.parametrize("port", fuzz.PORTS)
def test_mutated_messages_break_nothing(attacked, port):
    local, subject, sessions = attacked
    outcomes = asyncio.run(fuzz.attack(local.cluster, subject, port, 300, "tests"))
    assert outcomes.total() == 300 and "500" not in outcomes
    assert fuzz.errors(local) == {} and fuzz.entries(local, READY) == sessions
    assert all(process.poll() is None for process in local.processes.values())
