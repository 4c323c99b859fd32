"""The experiments' scripts run, keep what they measured, and say what they have to: on a tiny model, as commands."""

import json
import subprocess
import sys
from pathlib import Path

import decoders as cases
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import guesses

pytest.importorskip("spu")

EXPERIMENTS = Path(guesses.__file__).parent


def run(script: str, folder: Path, *options: str) -> tuple[str, dict]:
    command = [sys.executable, str(EXPERIMENTS / f"{script}.py"), "--quick", "--folder", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((folder / f"{script}.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def efficiency(folder) -> tuple[str, dict]:
    return run("efficiency", folder)


def test_efficiency(efficiency, folder):
    out, found = efficiency
    fast, puma, linear = (
        next(cell for key, cell in found["cells"].items() if key.endswith(f", {side}"))
        for side in ("fast", "puma", "linear")
    )
    assert 0 < fast["send_bytes"] < puma["send_bytes"] and 0 < fast["send_actions"] < puma["send_actions"]
    assert set(linear["by_part"]) & {"gelu", "softmax", "layer_norm"} == set()
    assert fast["same_functions_max_abs_error"] < 0.02 > puma["same_functions_max_abs_error"]
    assert fast["offline_bytes"] > 0 == puma["offline_bytes"]
    command = f"python experiments/efficiency.py --quick --folder {folder.name}"
    assert found["command"] == command and found["versions"]["spu"]
    assert (folder / "efficiency_tiny-16.png").stat().st_size > 10_000
    page = (folder / "efficiency.md").read_text()
    assert "MB sent: tiny" in out and "## MB sent: tiny" in page and "| fast | " in page
    assert command in page and str(folder) not in page + json.dumps(found)


def test_finished_cells_are_not_measured_again(efficiency, folder):
    _, found = run("efficiency", folder)
    assert found["cells"] == efficiency[1]["cells"]


def test_processes_share_a_results_file(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(EXPERIMENTS)!r}); from results import Results, Path; "
    code += f"results = Results('shared', Path({str(tmp_path)!r})); "
    other = code + "results.cell('theirs', lambda: {'figure': 2})"
    code += f"import subprocess; measure = lambda: subprocess.run([sys.executable, '-c', {other!r}], check=True) and "
    code += "{'figure': 1}; results.cell('ours', measure)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    found = json.loads((tmp_path / "shared.json").read_text())["cells"]
    assert {name: cell["figure"] for name, cell in found.items()} == {"ours": 1, "theirs": 2}


def test_what_is_measured_anew_leaves_the_rest(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(EXPERIMENTS)!r}); from results import Results, Path; "
    code += f"results = Results('kept', Path({str(tmp_path)!r}), fresh=len(sys.argv) > 1); figures = iter((1, 2, 3)); "
    code += "[results.cell(name, lambda: {'figure': next(figures)}) for name in sys.argv[2:] or ('old', 'again')]"
    for arguments in ([], ["fresh", "again", "again"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)
    found = json.loads((tmp_path / "kept.json").read_text())["cells"]
    assert {name: cell["figure"] for name, cell in found.items()} == {"old": 1, "again": 1}


def test_network_model_from_measured_costs(efficiency, folder):
    out, found = run("network", folder, "--side", "fast")
    predicted = found["notes"]["predicted"]["tiny-16"]
    assert predicted["fast"]["WAN 200 Mbit/s"] < predicted["puma"]["WAN 200 Mbit/s"]
    cell = next(cell for key, cell in efficiency[1]["cells"].items() if key.endswith(", fast"))
    parts = [cost for part, cost in cell["by_part"].items() if part not in ("input", "embedding", "head")]
    sends, sent = (sum(cost[name] for cost in parts) for name in ("send_actions", "send_bytes"))
    assert predicted["fast"]["WAN 200 Mbit/s"] == pytest.approx(sends * 0.020 + 8 * sent / 2e8)
    published = found["notes"]["published"]["FuseFSS (published)"]
    assert "FuseFSS (published)" in out and published["source"] and published["messages"] == 1_116
    assert predicted["fast"]["1 GB/s, 0.5 ms"] == pytest.approx(sends * 0.0005 + sent / 1e9)
    if found["notes"]["link"] == "measured":
        (cell,) = found["cells"].values()
        assert cell["max_difference_from_simulation"] < 0.02
        # Openings too: a process counts what the simulation does.
        assert cell["process_send_bytes"] == cell["send_bytes"] > 0
        assert cell["process_send_actions"] == cell["send_actions"]
        # 20 ms for each of its messages: it can't be faster than the link allows.
        assert cell["measured_seconds"] > 0.5 * cell["send_actions"] * 0.020
    else:
        assert "left out" in out


def test_operators(folder):
    _, found = run("operators", folder)
    opened, puma = found["cells"]["2pc_semi2k gelu 16 opened"], found["cells"]["2pc_semi2k gelu 16 puma"]
    assert opened["send_actions"] <= 3 < puma["send_actions"]
    assert opened["max_error"] < 0.002 < puma["max_error"]
    assert {key.split()[1] for key in found["cells"]} == {"gelu", "softmax", "layer_norm", "reciprocal", "rsqrt"}


def test_scaling(folder):
    out, found = run("scaling", folder)
    assert "The encoder by layers" in out
    one, two = (found["cells"][f"tiny, {n} layers, 1 x 16 tokens, 2pc_semi2k, fast"] for n in (1, 2))
    assert 1.5 < two["send_bytes"] / one["send_bytes"] < 2.5 or two["send_actions"] > one["send_actions"]


def test_ablation(folder):
    _, found = run("ablation", folder)
    cells = {key.split(", ", 4)[-1]: cell for key, cell in found["cells"].items()}
    resident, opened = cells["puma: weights resident"], cells["everything by openings, narrow rings: fast"]
    assert opened["send_bytes"] < cells["+ LayerNorm by Goldschmidt: secformer"]["send_bytes"]
    assert resident["send_bytes"] < cells["puma, weights not resident"]["send_bytes"]
    assert cells["puma with GeLU by an opening"]["send_bytes"] < resident["send_bytes"]
    assert (folder / "ablation.png").stat().st_size > 10_000


def test_baseline(folder):
    out, found = run("baseline", folder)
    theirs, ours = found["cells"].values()
    assert theirs["send_bytes"] > 0 and theirs["max_abs_error"] < 0.05 and ours["send_bytes"] > 0
    assert "bytes of FlaxBert on stock SPU" in out


def test_compare(folder):
    out, found = run("compare", folder)
    (cell,) = found["cells"].values()
    assert cell["fast"]["send_bytes"] < cell["puma"]["send_bytes"] < cell["spu"]["send_bytes"]
    assert "tiny, one text of 16 tokens" in out and "| drop-in | " in (folder / "compare.md").read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small model to talk to."""
    found = tmp_path_factory.mktemp("model")
    cases.reference("llama", found, vocab_size=cases.TOKENS, num_hidden_layers=1, max_position_embeddings=256)
    return cases.write_tokenizer(found)


def test_generate(model, folder):
    out, found = run("generate", folder, "--model", str(model), "--prompts", "1")
    cells = found["cells"]
    answered = cells[f"{model.name}, opened, prompt 1"]
    # Of random weights the likeliest tokens are near others.
    assert answered["tokens"] >= answered["equal"] >= 1 and answered["error_99"] < 0.05
    for name in (model.name, "GPT-2's shape, random weights"):
        cached, whole = (cells[f"{name}, puma{end}"]["token_pass"] for end in ("", " without a cache"))
        assert 0 < cached["send_bytes"] < whole["send_bytes"] and cached["dealt_bytes"] == 0
    assert "next tokens that are plaintext's" in out and "guesses in a pass" in out
    together = cells[f"{model.name}{guesses.TOGETHER}"]["token_pass"]
    assert together["client_bytes"] > 2 * answered["token_pass"]["client_bytes"]


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ([5, 6, 7, 8, 1], 2),  # two guesses are right, and the pass says the last
        ([5, 6, 7, 1, 2], 3),  # one is right
        ([5, 6, 1, 2, 3], 4),  # none is: a pass that says as much as any
        ([5], 0),
    ],
)
def test_passes_with_guesses(answer, passes):
    assert guesses.passes_with_guesses([5, 6, 7, 8, 9], answer) == passes


def test_perplexity(model, folder):
    _, found = run("perplexity", folder, "--model", str(model), "--windows", "2")
    assert {cell["tokens"] for cell in found["cells"].values()} == {14, 7}
    assert all(cell["error_99"] < 0.05 for cell in found["cells"].values()) and len(found["notes"]["checks"]) == 7


def test_cluster_chat(model, folder):
    out, found = run("cluster_chat", folder, "--model", str(model), "--tokens", "3")
    (cell,) = found["cells"].values()
    assert [cell["cases"][name]["tokens"] for name in ("first", "alone", "two at once")] == [3, 3, 6]
    assert all(case["equal"] and case["send_bytes"] > 0 < case["token_seconds"] for case in cell["cases"].values())
    assert len(cell["ends"]) == 2 and "dealer" in cell["peak_megabytes"] and "Conversations: " in out
