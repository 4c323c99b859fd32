"""The guide: the site builds without a warning, and every command of every page runs as it stands there."""

import json
import shlex
import socket
import subprocess
import sys
import time

import decoders as cases
import nbclient
import nbformat
import pytest
from guide_blocks import GUIDE, ROOT, Block, Reader, blocks, commands

from secformer_jax.cli import app
from secformer_jax.cluster.loopback import free_ports
from secformer_jax.mpc.runtime.layout import CONFIG_DIR

ALONE = [page for page in GUIDE if page.stem in ("index", "files", "comparing")]
"""Pages that need nothing but the package."""
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def reader(tmp_path):
    (tmp_path / "machines").mkdir()
    found = Reader(tmp_path / "machines")
    yield found
    found.close()


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_commands_parse(page):
    for line in commands(page):
        name, *options = shlex.split(line)
        app.command(name).make_context(name, options)
    assert all(block.language in ("bash", "python") for block in blocks(page)) and blocks(page)


@pytest.mark.guide
@pytest.mark.parametrize("page", ALONE, ids=lambda page: page.stem)
def test_a_page_runs(page, reader):
    for block in blocks(page):
        reader.run(block)


@pytest.mark.guide
def test_vectors(reader, minilm):
    *_, last = [reader.run(block) for block in blocks(ROOT / "docs" / "guide" / "vectors.md")]
    assert last.strip().endswith("The invoice is due in thirty days.")


@pytest.mark.guide
def test_personal_data(reader):
    """On a small tagger in Rampart's place, whose package is not installed for the tests."""
    (reader.machine("") / "rampart").symlink_to(ROOT / "tests" / "data" / "pipelines" / "token-classification")
    for block in blocks(ROOT / "docs" / "guide" / "personal_data.md"):
        reader.run(block)
    assert json.loads((reader.machine("") / "found.json").read_text())["results"]


@pytest.mark.guide
def test_generation(reader):
    """On a small model with random weights in SmolLM2's place, whose package is not installed for the tests."""
    folder = reader.machine("") / "smollm2"
    folder.mkdir()
    cases.reference("llama", folder, vocab_size=cases.TOKENS, num_hidden_layers=1, max_position_embeddings=512)
    cases.write_tokenizer(folder)
    printed = [reader.run(block) for block in blocks(ROOT / "docs" / "guide" / "generation.md")]
    assert "plaintext:" in printed[0] and printed[2].count("Cost of") == 2


@pytest.mark.guide
@pytest.mark.parametrize("name", ["student", "questions"])
def test_pages_with_data(name, reader, glue_dir, minilm):
    (reader.machine("") / "glue").symlink_to(glue_dir)
    for block in blocks(ROOT / "docs" / "guide" / f"{name}.md"):
        reader.run(block)


def filled_in(ports: list[int]) -> str:
    """The file of three hosts, which are all this one."""
    document = json.loads((CONFIG_DIR / "hosts" / "2pc_semi2k_dealer.json").read_text())
    here = [f"127.0.0.1:{port}" for port in ports]
    document["nodes"] = dict(zip(("S0", "S1"), here, strict=False))
    document["devices"]["SPU"]["config"]["spu_internal_addrs"] = here[2:4]
    document["secformer"]["dealer"] = here[4]
    return json.dumps(document)


@pytest.mark.guide
def test_three_hosts_and_a_gateway(reader, minilm):
    """Every role in a folder of its own, with the keys that it made itself."""
    ports = free_ports(6)
    machines = ("at S0", "at S1", "at the dealer", "at the owner", "at the client", "at the CA")
    for title in machines:
        (reader.machine(title) / "cluster.json").write_text(filled_in(ports))
    printed = {}
    page = blocks(ROOT / "docs" / "guide" / "three_hosts.md")
    assert {block.title for block in page} == set(machines)
    for block in page:
        printed[block.title] = reader.run(block)
    assert "positive" in printed["at the client"] and "ready" in printed["at the client"]
    for title in machines[:5]:
        own = {path.name for path in (reader.machine(title) / "tls").glob("*.key")}
        name = title.split()[-1]
        assert {f"{name}.key"} <= own <= {name + end for end in (".key", ".seal.key", ".sm2.key")}

    reader.run(
        Block("bash", "at the owner", "secformer publish --cluster cluster.json --model minilm --head embedding")
    )
    for block in blocks(ROOT / "docs" / "guide" / "gateway.md"):
        text = block.text.replace("8000", str(ports[5]))
        reader.run(Block(block.language, "at the client", text))
        if text.rstrip().endswith("&"):
            until_listening(ports[5])
    assert len(json.loads((reader.machine("at the client") / "vector.json").read_text())["data"]) == 1


def until_listening(port: int, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < ends
            time.sleep(0.2)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "outputs are of one machine: clear them"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("index.html"))
    assert len(pages) > 20
    elsewhere = [page for page in pages if 'src="http' in page.read_text(encoding="utf-8")]
    assert not elsewhere
