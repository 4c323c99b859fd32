"""Protocol configurations: the four that come with the project, and what is said of a bad one."""

import copy
import json

import pytest

from secformer_jax.errors import UserError

pytest.importorskip("spu")

from secformer_jax.mpc.runtime import config, layout

SHIPPED = {"1pc_ref2k": "REF2K", "2pc_semi2k": "SEMI2K", "2pc_cheetah": "CHEETAH", "3pc_aby3": "ABY3"}
SHIPPED["2pc_semi2k_dealer"] = "SEMI2K"
GOOD = json.loads((config.CONFIG_DIR / "2pc_semi2k.json").read_text())


def changed(path: str, value) -> dict:
    """The two-party file with one thing in its SPU device changed; None takes it away."""
    document = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    where = document["devices"]["SPU"]["config"]
    for key in parents:
        where = where[key]
    if value is None:
        del where[last]
    else:
        where[last] = value
    return document


def refusal(tmp_path, text: str) -> str:
    """What the user reads, and that it is one line which names the file."""
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError) as refused:
        config.load(tmp_path / "mine.json")
    message = str(refused.value)
    assert "mine" in message and "\n" not in message
    return message


def test_shipped_configs():
    assert set(config.names()) == set(SHIPPED)
    for name, protocol in SHIPPED.items():
        loaded = config.load(name)
        assert (loaded.name, loaded.protocol) == (name, protocol)
        assert loaded.world_size == layout.PARTIES[protocol] == int(name[0])
        assert loaded.fraction_bits == 18
        runtime = loaded.runtime_config()
        assert runtime.protocol.name == protocol and runtime.field.name == "FM64"
        assert runtime.fxp_exp_mode.name == "EXP_PADE"
        assert runtime.fxp_fraction_bits == 18 and not runtime.enable_pphlo_profile
        assert loaded.runtime_config(profile=True).enable_pphlo_profile
        assert loaded.compiler_options().enable_optimize_denominator_with_broadcast


def test_path_and_name_are_the_same(tmp_path):
    assert config.load(config.CONFIG_DIR / "3pc_aby3.json") == config.load("3pc_aby3")


def test_defaults_and_addresses_from_nodes(tmp_path):
    document = changed("spu_internal_addrs", None)
    runtime = document["devices"]["SPU"]["config"]["runtime_config"]
    del runtime["field"], runtime["fxp_fraction_bits"], document["devices"]["SPU"]["config"]["compiler_options"]
    (tmp_path / "mine.json").write_text(json.dumps(document))
    loaded = config.load(tmp_path / "mine.json")
    assert loaded.addresses == tuple(GOOD["nodes"].values())
    assert (loaded.runtime["field"], loaded.fraction_bits, loaded.compiler) == ("FM64", 18, {})


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("runtime_config/protocol", "SEMI3K", ["unknown protocol 'SEMI3K'", "SEMI2K", "ABY3", "CHEETAH", "REF2K"]),
        ("runtime_config/protocol", ["SEMI2K"], ["unknown protocol"]),
        ("runtime_config/protocol", None, ["unknown protocol None"]),
        ("runtime_config/field", "FM99", ["field 'FM99'", "expected FM64"]),
        # In a ring of 128 bits a masked opening would reveal more than a masked value.
        ("runtime_config/field", "FM128", ["field 'FM128'", "expected FM64"]),
        ("runtime_config/protocol", "ABY3", ["ABY3 runs with 3 parties", "lists 2"]),
        ("spu_internal_addrs", ["a:1", "b:2", "c:3"], ["SEMI2K runs with 2 parties", "lists 3"]),
        ("runtime_config/fxp_fraction_bits", 40, ["fxp_fraction_bits 40", "8 to 26"]),
        ("runtime_config/fxp_fraction_bits", 7, ["fxp_fraction_bits 7", "8 to 26"]),
        ("runtime_config/fxp_fraction_bits", "18", ["fxp_fraction_bits '18'"]),
        ("runtime_config/fxp_fraction_bits", True, ["fxp_fraction_bits True"]),
        ("runtime_config/fxp_exp_mode", "EXP_MAGIC", ["fxp_exp_mode 'EXP_MAGIC'"]),
        ("runtime_config/no_such_key", 1, ["no_such_key 1"]),
        ("compiler_options/enable_magic", True, ["compiler option 'enable_magic'"]),
        ("compiler_options/__doc__", "x", ["compiler option '__doc__'"]),
        ("compiler_options/enable_optimize_denominator_with_broadcast", "yes", ["compiler_options"]),
        ("compiler_options", [1], ["not in SPU's layout"]),
        ("runtime_config", None, ["'runtime_config'", "not in SPU's layout"]),
    ],
)
def test_refused(tmp_path, path, value, words):
    message = refusal(tmp_path, json.dumps(changed(path, value)))
    assert all(word in message for word in words), message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"SEMI2K"', "{}", '{"devices": {"SPU": 1}}'])
def test_not_spus_layout(tmp_path, text):
    assert "not in SPU's layout" in refusal(tmp_path, text)


def test_a_node_that_is_not_listed(tmp_path):
    document = changed("spu_internal_addrs", None)
    document["devices"]["SPU"]["config"]["node_ids"] = ["S0", "S7"]
    assert "S7" in refusal(tmp_path, json.dumps(document))


def test_unknown_name():
    with pytest.raises(UserError, match=r"no config file 4pc_magic: .*2pc_semi2k") as refused:
        config.load("4pc_magic")
    assert "\n" not in str(refused.value)


def test_a_simulation_refuses_a_config_whose_dealer_is_a_process():
    from secformer_jax.mpc.runtime.parties import Parties

    with pytest.raises(UserError, match="needs a dealer that runs"):
        Parties(config.load("2pc_semi2k_dealer"))
