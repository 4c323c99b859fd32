"""The base install is a client: it asks a cluster, and has no JAX, spu or flax."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_processes import TOLERANCE, Tiny, until_ready
from light_environments import environment, newest_python, wheel

from secformer_jax.cluster.loopback import LocalCluster
from secformer_jax.models import checkpoint, folders
from secformer_jax.models.request import encode_request
from secformer_jax.models.text import Tokenizer

MEGABYTE = 10**6
MOST_MEGABYTES, MOST_IMPORT_SECONDS = 120, 0.7
TEXT = "the cat sat"
OTHERS = ("jax", "jaxlib", "flax", "spu", "optax", "transformers", "safetensors", "scipy", "uvloop")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=["this", "newest"])
def python(request, built, tmp_path_factory):
    chosen = sys.executable if request.param == "this" else newest_python()
    if chosen is None:
        pytest.skip("no newer Python with its venv module is installed")
    return environment(chosen, built, tmp_path_factory.mktemp("light") / request.param)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A cluster with a tiny model, the folder that a client has of it, and what it answers in plaintext."""
    folder = tmp_path_factory.mktemp("served")
    tiny = Tiny("fast")
    model = tiny.client_folder(folder)
    with LocalCluster(folder / "cluster") as local:
        tiny.publish(local)
        until_ready(local)
        yield local, model, tiny


def call(python, *arguments):
    """Run it away from the checkout, whose package would else be the one that is imported."""
    command = [python, *map(str, arguments)]
    return subprocess.run(command, cwd=Path(python).parent, capture_output=True, text=True, timeout=300)


def test_a_request(served, python):
    local, folder, tiny = served
    asked = "infer", "--cluster", local.path, "--model", folder, "--text", TEXT, "--json"
    done = call(python.with_name("secformer"), *asked)
    assert done.returncode == 0, done.stderr
    [answer] = json.loads(done.stdout)["results"]
    tokenizer = Tokenizer(folder, tiny.model.config)
    expected = tiny.plain(encode_request(tiny.model, tokenizer, TEXT))[0]
    assert max(abs(a - b) for a, b in zip(answer["logits"], expected.tolist(), strict=True)) < TOLERANCE
    assert len(answer["transcript"]) == 4


def test_nothing_that_computes_is_installed(python):
    code = f"import importlib.util; print([name for name in {OTHERS} if importlib.util.find_spec(name)])"
    assert call(python, "-c", code).stdout.strip() == "[]"


def test_commands_say_what_they_need(python):
    secformer = python.with_name("secformer")
    assert "publish" in call(secformer, "--help").stdout
    needs = {("infer", "--text", "a"): "mpc", ("distill", "--help"): "train", ("dealer", "--cluster", "x"): "cluster"}
    for command, extra in needs.items():
        done = call(secformer, *command)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"is not installed: pip install 'secformer_jax[{extra}]'" in done.stderr


def test_of_the_model_that_comes_along_a_client_has_all_but_the_weights(python):
    begin = "import json; from secformer_jax.models.folders import SHIPPED, resolve; "
    tokens = (
        "from secformer_jax.models.text import Tokenizer; from secformer_jax.models.architecture import Architecture; "
        "config = Architecture(10_000, 384, max_position_embeddings=128); "
        f"print(json.dumps(Tokenizer(resolve(SHIPPED, weights=False), config).encode([{TEXT!r}]).input_ids.tolist()))"
    )
    student = checkpoint.load(folders.SHIPPED)
    expected = Tokenizer(student.tokenizer_dir, student.config).encode([TEXT]).input_ids
    assert json.loads(call(python, "-c", begin + tokens).stdout) == expected.tolist()
    missing = call(python, "-c", begin + "resolve(SHIPPED)").stderr
    assert "the weights of sst2-student are not installed: run pip install 'secformer_jax[weights]'" in missing


def test_it_is_small_and_quick(python):
    site = next((python.parents[1] / "lib").glob("python3.*")) / "site-packages"
    own = [path for path in site.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    taken = sum(path.stat().st_size for path in own if path.relative_to(site).parts[0][:3] not in ("pip", "set"))
    assert taken <= MOST_MEGABYTES * MEGABYTE
    code = "import time; s = time.process_time(); import secformer_jax.cluster.clients.client as c"
    # Seconds of the processor, the least of some: the other tests run beside this one.
    seconds = [float(call(python, "-c", f"{code}; print(time.process_time() - s)").stdout) for _ in range(8)]
    assert min(seconds) < MOST_IMPORT_SECONDS
