"""Servers that look at what the dealer deals: an honest one is used, one that cheats is caught and named."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_processes import TOLERANCE, Tiny, ask, status, until_ready
from memory_link import at_every_end

from secformer_jax.cluster.config import DEALER
from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.cluster.transcript import RECEIPT
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime.coins import Coins

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny("drop-in")


class WithCheatingDealer(LocalCluster):
    """Its dealer is another program."""

    def start(self, name: str) -> None:
        if name != DEALER:
            super().start(name)
            return
        script = Path(__file__).with_name("cheating_dealer.py")
        path = os.pathsep.join(path for path in sys.path if path)
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, str(script), str(self.path)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )


def test_pieces_of_an_honest_dealer_are_looked_at_and_others_used(tiny, tmp_path):
    with LocalCluster(tmp_path, "2pc_semi2k_dealer", options={"audits": 0.75}) as local:
        tiny.publish(local)
        until_ready(local)
        texts = [tiny.text(seed) for seed in range(8)]
        answers = ask(local, "client", *texts)
        for text, answer in zip(texts, answers, strict=True):
            assert tiny.error(text, answer) < TOLERANCE
        signed = [[json.loads(each["text"]) for each in answer.transcript] for answer in answers]
        pieces = [{each["piece"] for each in facts if each["kind"] == RECEIPT} for facts in signed]
        assert all(len(piece) == 1 for piece in pieces) and len(set.union(*pieces)) == len(texts)
        programs = {each["program"] for facts in signed for each in facts} - {None}
        assert len(programs) == 1 and len({each["session"] for facts in signed for each in facts}) == 1
        events = [json.loads(line)["event"] for line in local.log("S0").read_text().splitlines()]
        # Before, there may have been a session without a model.
        served = events[events.index("published") :]
        assert served.count("ready") == 1 and served.count("answered") == len(texts)
        # The chance that none of so many is looked at is 4^-8, at the most.
        assert served.count("audited") > 0


def test_a_dealer_that_cheats_is_named_and_nothing_more_is_computed(tiny, tmp_path):
    with WithCheatingDealer(tmp_path, "2pc_semi2k_dealer", options={"audits": 0.7}) as local:
        tiny.publish(local)
        until_ready(local)
        with pytest.raises(UserError):
            ask(local, "client", *[tiny.text(seed) for seed in range(30)])
        ends = time.monotonic() + 60
        while local.processes["S0"].poll() is None and time.monotonic() < ends:
            time.sleep(0.2)
        assert local.processes["S0"].poll() not in (None, 0)
        assert "the dealer has dealt a wrong piece of material" in local.log("S0").read_text()
        assert status(local)["S1"]["state"] == "waiting for S0"


def test_parties_of_different_files_do_not_start(tiny, tmp_path):
    class Different(LocalCluster):
        def file_of(self, name: str) -> Path:
            if name != "S1":
                return self.path
            document = json.loads(self.path.read_text())
            document["secformer"]["audits"] = 0.2
            path = self.path.with_name("other.json")
            path.write_text(json.dumps(document))
            return path

    with Different(tmp_path, "2pc_semi2k_dealer") as local:
        ends = time.monotonic() + 60
        while 'audits\\" is 0.2 in its cluster file' not in local.log("S0").read_text():
            assert time.monotonic() < ends
            time.sleep(0.2)


def test_coins_fall_alike_everywhere_and_as_often_as_promised():
    tosses = at_every_end(2, lambda link: [coins.toss(0.05) for coins in [Coins(link)] for _ in range(20_000)])
    assert tosses[0] == tosses[1]
    assert abs(sum(tosses[0]) / 20_000 - 0.05) < 5 * (0.05 * 0.95 / 20_000) ** 0.5
