"""`secformer gateway`: what is refused before anything is asked."""

import os

import pytest

from secformer_jax.cli import app as cli
from secformer_jax.mpc.runtime import config as mpc_config

FILE = str(mpc_config.CONFIG_DIR / "hosts" / "2pc_semi2k_dealer.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "127.0.0.1"),
        (("--host", "example.org"), "127.0.0.1"),
        (("--port", "70000"), "0 to 65535"),
        (("--key-file", "none"), "can't be read"),
        (("--log-level", "loud"), "debug, info, warning, error"),
    ],
)
def test_mistakes(capsys, options, said):
    assert cli.run(["gateway", "--cluster", FILE, *options]) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [("k" * 20, 0o644, "chmod 600"), ("short", 0o600, "at least 16"), ("k" * 9 + " " + "k" * 9, 0o600, "one word")],
    ids=("open", "short", "words"),
)
def test_keys(capsys, tmp_path, text, mode, said):
    path = tmp_path / "key"
    path.write_text(text + "\n")
    os.chmod(path, mode)
    assert cli.run(["gateway", "--cluster", FILE, "--key-file", str(path)]) == 2
    printed = capsys.readouterr().err
    assert said in printed and text not in printed.replace(str(path), "")
