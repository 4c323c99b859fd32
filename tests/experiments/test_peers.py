"""The comparison with CrypTen: measured where an interpreter has CrypTen, and what it says where none has."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("spu")
PEERS = Path(__file__).resolve().parents[2] / "experiments" / "peers"
sys.path.insert(0, str(PEERS))
peers = importlib.import_module("crypten_operators")
CRYPTEN_PYTHON = os.environ.get("CRYPTEN_PYTHON", sys.executable)


def run(folder: Path, python: Path | str) -> subprocess.CompletedProcess[str]:
    script, options = PEERS / "crypten_operators.py", ("--quick", "--folder", folder, "--crypten-python", python)
    return subprocess.run([sys.executable, script, *options], capture_output=True, text=True, timeout=500)


def interpreter(folder: Path, script: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_crypten_beside_this_project(tmp_path):
    check = subprocess.run([CRYPTEN_PYTHON, peers.PARTY, "--check"], capture_output=True, text=True, timeout=120)
    if check.returncode:
        pytest.skip(f"no CrypTen in {CRYPTEN_PYTHON} (CRYPTEN_PYTHON names another): {peers.INSTALL}")
    done = run(tmp_path, CRYPTEN_PYTHON)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "peers.json").read_text())
    gelu, softmax, rsqrt = (
        found["cells"][f"{name}, CrypTen"] for name in ("gelu 16 secformer", "softmax 16 puma", "rsqrt 16 secformer")
    )
    # Two stacked comparisons of 7 ands, of which 6 are twice as wide, and one bit; the opening; two products.
    assert gelu["send_actions"] == 7 + 1 + 1 + 2
    assert gelu["send_bytes"] == 8 * 16 * 3072 * (2 * (2 + 6 * 4 + 1) + 1 + 2 * 2)
    assert 0.019 < gelu["max_error"] < 0.02 and gelu["own_form_max_error"] < 0.001
    assert softmax["own_form_max_error"] < 0.001 and rsqrt["own_form_max_error"] < 0.002
    for cell in (gelu, softmax, rsqrt):
        assert cell["offline_bytes"] > 0 < cell["seconds"] and cell["offline_seconds"] > 0
    assert all(check["holds"] for check in found["notes"]["checks"]) and found["notes"]["crypten_versions"]["crypten"]
    page = (tmp_path / "peers.md").read_text()
    assert "| gelu 16 secformer | fourier_segmented |" in page and str(tmp_path) not in page + json.dumps(found)


@pytest.mark.parametrize("there", [False, True], ids=["no interpreter", "an interpreter without torch"])
def test_what_is_missing_is_said_in_one_line(there, tmp_path):
    python = interpreter(tmp_path, f'exec {sys.executable} -S "$@"') if there else tmp_path / "none"
    done = run(tmp_path, python)
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert str(python) in line and peers.INSTALL in line and "--crypten-python" in line
    assert ("No module named" if there else "No such file") in line
    assert not (tmp_path / "peers.json").exists()


def test_no_process_outlives_a_party_that_failed(tmp_path):
    # Rank 1 fails; the others would sleep on.
    python = interpreter(
        tmp_path, 'if [ "$2" = 1 ]; then echo it broke >&2; exit 3; fi; echo $$ > $3/$2.pid; exec sleep 60'
    )
    begun = time.monotonic()
    with pytest.raises(SystemExit, match="party 1 ended with status 3: it broke"):
        peers.take_part(python, tmp_path)
    assert time.monotonic() - begun < 30
    for path in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_constants_are_those_published():
    series = peers.constants("gelu secformer")
    assert series["limit"] / 1.7 == pytest.approx(series["period"] / 20)
    assert 2 * series["coefficients"][0] == 1.25772 and len(series["coefficients"]) == 7
    assert series["rescale"] == pytest.approx(series["limit"] / 1.7 * 0.5**0.5)
    assert peers.constants("softmax secformer") == {"deflation": 5000.0, "steps": 13}
    assert peers.constants("gelu tanh") == {}


def test_ratios_are_crypten_by_this_project():
    ours = {"seconds": 1.0, "offline_seconds": 1.0, "send_bytes": 10, "send_actions": 4}
    theirs = {"seconds": 2.0, "offline_seconds": 4.0, "send_bytes": 50, "send_actions": 8}
    cells = {"rsqrt 8 goldschmidt, SPU": ours, "rsqrt 8 opened, SPU": ours, "rsqrt 8 secformer, CrypTen": theirs}
    found = [[str(cell) for cell in column.cells] for column in peers.ratio_table(cells).columns]
    assert found[0] == ["rsqrt 8 secformer"] * 2 and found[1] == ["goldschmidt", "opened"]
    assert found[2:] == [["3.0"] * 2, ["5.0"] * 2, ["2.0"] * 2]


def test_another_function_is_not_compared():
    far = {"rsqrt 8 secformer, CrypTen": {"far_share": 0.5}, "rsqrt 8 default, CrypTen": {"far_share": 0.5}}
    [check] = peers.same_functions(far)
    assert not check.holds and check.name.startswith("rsqrt 8 secformer")
