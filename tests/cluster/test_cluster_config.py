"""The cluster file: the shipped ones, what is derived from them, and one line for each mistake."""

import copy
import json

import pytest

from secformer_jax.cluster import config
from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime import layout

SHIPPED = ("2pc_semi2k_dealer", "3pc_aby3", "2pc_cheetah")
GOOD = json.loads((layout.CONFIG_DIR / "2pc_semi2k_dealer.json").read_text())


def load(tmp_path, document, **options):
    (tmp_path / "mine.json").write_text(json.dumps(document))
    return config.load(tmp_path / "mine.json", **options)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files(name):
    cluster = config.load(name)
    parties = tuple(f"S{i}" for i in range(int(name[0])))
    assert cluster.name == name and cluster.parties == parties
    assert (cluster.dealer is None) == (name == "2pc_cheetah")
    assert cluster.uses_beaver == (name == "2pc_semi2k_dealer")
    assert {address.host for address in cluster.control.values()} == {"127.0.0.1"}
    remote = config.load(layout.CONFIG_DIR / "hosts" / f"{name}.json")
    assert remote.runtime == cluster.runtime and remote.roles == cluster.roles
    assert len({address.host for address in remote.control.values()}) == len(parties)


def test_roles_hosts_and_ranks():
    cluster = config.load(layout.CONFIG_DIR / "hosts" / "2pc_semi2k_dealer.json")
    assert cluster.roles == ("S0", "S1", "dealer", "owner", "client")
    assert cluster.hosts("S1") == ("s1.example.org",) and cluster.hosts("dealer") == ("dealer.example.org",)
    assert cluster.hosts("owner") == cluster.hosts("client") == ()
    assert [cluster.rank(party) for party in cluster.parties] == [0, 1]
    with pytest.raises(UserError, match=r"no party 'S7'.*S0, S1"):
        cluster.rank("S7")
    with pytest.raises(UserError, match="no role 'guest'"):
        cluster.tls("guest")


def test_tls_paths_are_relative_to_the_file_and_an_option_goes_first(tmp_path):
    cluster = load(tmp_path, GOOD)
    assert cluster.tls("S0").certificate == tmp_path / "tls" / "S0.pem"
    assert cluster.tls("client").ca == tmp_path / "tls" / "ca.pem"
    document = copy.deepcopy(GOOD)
    document["secformer"]["tls"] = {"ca": "/pki/ca.pem", "certificate": "{name}/cert.pem", "key": "{name}/key.pem"}
    cluster = load(tmp_path, document)
    assert str(cluster.tls("S0").ca) == "/pki/ca.pem" and cluster.tls("S1").key == tmp_path / "S1" / "key.pem"
    assert load(tmp_path, document, tls=tmp_path / "other").tls("S1").key == tmp_path / "other" / "S1.key"


def test_a_party_knows_the_dealer_by_its_key_and_never_without_a_check(tmp_path):
    runtime = load(tmp_path, GOOD).party_runtime("S1", "PEM")
    beaver = runtime["ttp_beaver_config"]
    assert (beaver["server_host"], beaver["server_public_key"], beaver["adjust_rank"]) == ("127.0.0.1:61940", "PEM", 0)
    assert beaver["ssl_config"]["verify_depth"] >= 1
    assert beaver["ssl_config"]["certificate"] == str(tmp_path / "tls" / "S1.pem")
    assert "ttp_beaver_config" not in config.load("3pc_aby3").party_runtime("S1", "PEM")


def test_spu_takes_what_a_party_gives_it(tmp_path):
    libspu = pytest.importorskip("spu.libspu")
    runtime = libspu.RuntimeConfig()
    assert runtime.ParseFromJsonString(json.dumps(load(tmp_path, GOOD).party_runtime("S0", "PEM")))
    assert runtime.beaver_type.name == "TrustedThirdParty"


def test_the_first_party_as_dealer_needs_an_ugly_flag(tmp_path):
    for beaver_type in (None, "TrustedFirstParty", "MultiParty"):
        document = copy.deepcopy(GOOD)
        runtime = document["devices"]["SPU"]["config"]["runtime_config"]
        del runtime["beaver_type"]
        if beaver_type:
            runtime["beaver_type"] = beaver_type
        with pytest.raises(UserError, match=f"S0 know every mask.*{config.INSECURE_FLAG}"):
            load(tmp_path, document)
        assert not load(tmp_path, document, insecure_trusted_first_party=True).uses_beaver


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["nodes"].update(S0="127.0.0.1"), "node S0 is at '127.0.0.1', and host:port"),
        (lambda d: d["nodes"].update(S0="127.0.0.1:70000"), "65535"),
        (lambda d: d["nodes"].update(S0="::1:80"), "host:port"),
        (lambda d: d["nodes"].update(S0=7), "host:port"),
        (lambda d: d["nodes"].update(S0="127.0.0.1:61930"), "two listeners"),
        (lambda d: d["nodes"].pop("S0"), "SPU's layout"),
        (lambda d: d["secformer"].update(dealer="T"), "dealer is at 'T'"),
        (lambda d: d["secformer"].pop("dealer"), "has no dealer"),
        (lambda d: d.pop("secformer"), "has no dealer"),
        (lambda d: d["secformer"].update(delaer="x:1"), "dealer, clients, tls"),
        (lambda d: d["secformer"].update(tls={"ca": "ca.pem"}), '"tls" is a folder'),
        (lambda d: d["secformer"].update(batch_wait_ms=-1), '"batch_wait_ms" is -1'),
        (lambda d: d["secformer"].update(batch_tokens="512"), "16 to 65536 tokens"),
        (lambda d: d["secformer"].update(runs_in_flight=0), "1 to 8 was expected"),
        (lambda d: d["secformer"].update(runs_in_flight=True), "1 to 8 was expected"),
        (lambda d: d["secformer"].update(answers={"client": -1}), "a number of texts"),
        (lambda d: d["secformer"].update(answers={"eve": 3}), "who is no client"),
        (lambda d: d["nodes"].update(S0="s1:4000"), "another role's name"),
        (lambda d: d["secformer"].update(operators="ann"), '"operators" is a list of names'),
        (lambda d: d["secformer"].update(operators=["client"]), "given twice"),
        (lambda d: d["secformer"].update(link_sources=["10.0.0.1/8"]), "host bits set"),
        (lambda d: d["secformer"].update(link_sources="10.0.0.0/8"), "is no list"),
        (lambda d: d["secformer"].update(clients="client"), "list of names"),
        (lambda d: d["secformer"].update(clients=["a.b"]), "'a.b' can't stand in a certificate"),
        (lambda d: d["secformer"].update(clients=["s0"]), "given twice"),
        (lambda d: d["secformer"].update(clients=["dealer"]), "given twice"),
        (lambda d: d["devices"]["SPU"]["config"].update(spu_internal_addrs=["a:1"]), "2 node_ids and 1"),
    ],
)
def test_mistakes(tmp_path, change, said):
    document = copy.deepcopy(GOOD)
    change(document)
    with pytest.raises(UserError) as refused:
        load(tmp_path, document)
    assert said in str(refused.value) and "mine" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("REF2K", "one party, which sees everything"),
        ("SEMI2K", "2 parties and the file lists 1"),
        ("MOD1", "unknown protocol"),
    ],
)
@pytest.mark.parametrize("insecure", [False, True])
def test_one_party_alone_is_refused(tmp_path, protocol, said, insecure):
    """Whoever shares a text among "all" parties would send it to S0 as it is."""
    document = copy.deepcopy(GOOD)
    device = document["devices"]["SPU"]["config"]
    device["node_ids"], device["spu_internal_addrs"] = device["node_ids"][:1], device["spu_internal_addrs"][:1]
    device["runtime_config"]["protocol"] = protocol
    with pytest.raises(UserError, match=said):
        load(tmp_path, document, insecure_trusted_first_party=insecure)


def test_addresses(tmp_path):
    document = copy.deepcopy(GOOD)
    document["nodes"]["S0"] = "[::1]:80"
    address = load(tmp_path, document).control["S0"]
    assert (address.host, address.port, str(address)) == ("::1", 80, "[::1]:80")
