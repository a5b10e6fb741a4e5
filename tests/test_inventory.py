"""Who an address is: learned from logs, corrected by a user's file, never by the address alone."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowlens as fl
from flowlens import schema
from flowlens.errors import ConfigError, FlowlensError
from flowlens.inventory import SCHEMA, Networks, qualify, read_inventory, vnet_key
from tests.make_logs import LATER, MACS, flow, nic_log, subnet_log, vnet_log, write_blob

A, B, C, D = MACS[1:5]
VNET_A, VNET_B, VNET_C = (f"s/rg/vnet-{letter}" for letter in "abc")
HUB = "s/rg/hub"
OUTSIDE = "203.0.113.7"


@pytest.fixture
def logs(tmp_path):
    """A folder for logs alone."""
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def scanned(folder, **options):
    return fl.scan(folder, threads=1, now=LATER, **options)


def owners(scan):
    """{(vnet, address): NICs}"""
    found = {}
    for row in scan.inventory.iter_rows(named=True):
        found.setdefault((row["vnet"], row["address"]), set()).add(row["mac_address"])
    return found


def entry(scan, vnet, address):
    rows = scan.inventory.filter(pl.col("vnet") == vnet, pl.col("address") == address)
    assert rows.height == 1
    return rows.row(0, named=True)


def test_a_nic_owns_what_it_sends_from_and_receives_at(logs):
    write_blob(logs, A, [flow("10.0.0.4", OUTSIDE, 443), flow("10.0.0.9", "10.0.0.4", 22, "I")])
    write_blob(logs, B, [flow("2001:db8:1::5", "fd00::7", 443), flow(OUTSIDE, "fd00::5", 22, "I", "D")])
    scan = scanned(logs)
    # The peer 10.0.0.9 has no NIC of its own; external sources are nobody's.
    assert owners(scan) == {(VNET_A, "10.0.0.4"): {A}, (VNET_A, "fd00::5"): {B}}
    assert scan.inventory.schema == SCHEMA
    assert entry(scan, VNET_A, "10.0.0.4") == {
        "vnet": VNET_A,
        "address": "10.0.0.4",
        "mac_address": A,
        "workload": f"10.0.0.4 ({A})",
        "subnet": "10.0.0.0/24",
        "kind": "nic",
        "learned_from": "logs",
    }
    assert entry(scan, VNET_A, "fd00::5")["subnet"] == "fd00::/64"


def test_the_same_range_in_two_vnets_is_two_networks(logs):
    for log, mac in ((vnet_log("vnet-a"), A), (vnet_log("vnet-b"), B)):
        write_blob(logs, mac, [flow("10.0.0.4", "10.0.0.5", 443), flow("10.0.0.4", OUTSIDE, 443)], log=log)
    write_blob(logs, C, [flow("10.0.0.4", "10.0.0.5", 443, "I")], log=vnet_log("vnet-a"))
    scan = scanned(logs)
    assert owners(scan) == {(VNET_A, "10.0.0.4"): {A}, (VNET_A, "10.0.0.5"): {C}, (VNET_B, "10.0.0.4"): {B}}
    rows = scan.evidence.views.filter(pl.col("mac_address") == B).collect()
    # In vnet-b nobody is known to own 10.0.0.5; that vnet-a has one says nothing.
    assert set(rows["src_nic"]) == {B}
    assert rows["dst_nic"].null_count() == 2 and not rows["dst_ambiguous"].any()
    assert scan.evidence.inventory.peers.is_empty()


def test_a_nic_has_as_many_addresses_as_it_uses(logs):
    write_blob(logs, A, [flow(f"10.0.0.{n}", OUTSIDE, 443) for n in (10, 4, 11)])
    scan = scanned(logs)
    assert owners(scan) == {(VNET_A, f"10.0.0.{n}"): {A} for n in (4, 10, 11)}
    # One workload under its lowest address: .4 comes before .10.
    assert set(scan.inventory["workload"]) == {f"10.0.0.4 ({A})"}


def test_an_address_that_changed_hands_is_both_nics(logs):
    write_blob(logs, A, [flow("10.0.0.4", OUTSIDE, 443)])
    write_blob(logs, B, [flow("10.0.0.4", OUTSIDE, 443, minute=65)], hour=10)
    scan = scanned(logs)
    assert owners(scan) == {(VNET_A, "10.0.0.4"): {A, B}}
    rows = scan.evidence.views.collect()
    assert set(rows["src_nic"]) == {f"{A}+{B}"}
    assert rows["counted"].all()


def test_a_nic_with_only_a_flow_log_of_its_own_is_a_scope_of_its_own(logs):
    write_blob(logs, A, [flow("10.0.0.4", "10.0.0.5", 443)], log=nic_log("nic-Web"))
    write_blob(logs, B, [flow("10.0.0.4", "10.0.0.5", 443, "I")], log=nic_log("nic-app"))
    scan = scanned(logs)
    assert owners(scan) == {(f"nic:{A}", "10.0.0.4"): {A}, (f"nic:{B}", "10.0.0.5"): {B}}
    assert entry(scan, f"nic:{A}", "10.0.0.4")["workload"] == "nic-web"


def test_a_vnet_flow_log_beside_it_tells_the_vnet_of_the_nic(logs):
    write_blob(logs, A, [flow("10.0.0.4", OUTSIDE, 443)], log=nic_log("nic-web"))
    write_blob(logs, A, [flow("10.0.0.4", OUTSIDE, 443)], log=vnet_log("vnet-a"))
    row = entry(scanned(logs), VNET_A, "10.0.0.4")
    assert (row["workload"], row["mac_address"]) == ("nic-web", A)


def test_a_subnet_flow_log_tells_vnet_and_subnet(logs):
    write_blob(logs, A, [flow("10.0.0.4", OUTSIDE, 443)], log=subnet_log("vnet-a", "Web"))
    assert entry(scanned(logs), VNET_A, "10.0.0.4")["subnet"] == "web"


def test_a_nic_that_logs_a_conversation_both_ways_is_a_forwarder(logs):
    through = [flow("10.0.1.4", "10.0.2.4", 443, direction) for direction in "IO"]
    # A stranger's reply and a denied leg are logged one way only, and still are not the forwarder's.
    strangers = [
        flow("10.0.2.4", "10.0.1.4", 50_000, "O", src_port=443),
        flow("10.0.3.4", "10.0.2.4", 22, "I", "D"),
        flow("10.0.3.4", OUTSIDE, 22, "O", "D"),
    ]
    write_blob(logs, D, [*through, *strangers, flow("10.0.9.4", OUTSIDE, 443)])
    scan = scanned(logs)
    assert owners(scan) == {(VNET_A, "10.0.9.4"): {D}}
    assert entry(scan, VNET_A, "10.0.9.4")["kind"] == "forwarder"
    assert scan.evidence.inventory.forwarders == {D}


def test_a_letter_that_is_no_direction_makes_no_forwarder(logs):
    write_blob(logs, D, [flow("10.0.1.4", "10.0.2.4", 443, direction) for direction in "OZ"])
    assert scanned(logs).evidence.inventory.forwarders == frozenset()


def test_what_a_plain_nic_shows_to_be_its_own_is_not_the_forwarders(logs):
    write_blob(logs, A, [flow("10.0.1.4", "10.0.2.4", 443), flow("10.0.1.4", OUTSIDE, 443)])
    # The way in of this flow was not logged: alone it looks as if the forwarder had sent it.
    write_blob(logs, D, [flow("10.0.1.4", "10.0.2.4", 443, way) for way in "IO"] + [flow("10.0.1.4", OUTSIDE, 443)])
    assert owners(scanned(logs)) == {(VNET_A, "10.0.1.4"): {A}}


def peered(logs, vnet, mac, *, other="10.1.0.4"):
    """Logs of a flow from 10.0.0.4 of ``vnet`` that arrives in the hub."""
    write_blob(logs, mac, [flow("10.0.0.4", other, 443)], log=vnet_log(vnet))
    write_blob(logs, C, [flow("10.0.0.4", other, 443, "I")], log=vnet_log("hub"))


def test_a_flow_that_arrives_in_another_vnet_shows_the_two_to_be_peered(logs):
    peered(logs, "vnet-a", A)
    scan = scanned(logs)
    assert owners(scan) == {(VNET_A, "10.0.0.4"): {A}, (HUB, "10.1.0.4"): {C}}
    assert scan.evidence.inventory.peers.sort("vnet").rows() == [
        (HUB, "10.0.0.4", VNET_A, False),
        (VNET_A, "10.1.0.4", HUB, False),
    ]
    for row in scan.evidence.views.collect().iter_rows(named=True):
        assert (row["src_vnet"], row["src_nic"], row["dst_vnet"], row["dst_nic"]) == (VNET_A, A, HUB, C)


def test_an_address_that_two_peers_own_is_ambiguous(logs):
    peered(logs, "vnet-a", A)
    write_blob(logs, B, [flow("10.0.0.4", "10.1.0.4", 443)], log=vnet_log("vnet-b"))
    scan = scanned(logs)
    assert scan.evidence.inventory.peers.filter(pl.col("vnet") == HUB).rows() == [(HUB, "10.0.0.4", VNET_A, True)]
    (row,) = scan.evidence.views.filter(pl.col("mac_address") == C).collect().iter_rows(named=True)
    assert row["src_ambiguous"] and row["src_nic"] is None and row["src_vnet"] is None
    assert row["dst_nic"] == C and not row["dst_ambiguous"]


def test_vnets_that_merely_hold_the_same_addresses_are_not_peered(logs):
    write_blob(logs, A, [flow("10.0.0.4", "10.1.0.4", 443)], log=vnet_log("vnet-a"))
    write_blob(logs, B, [flow("10.1.0.4", OUTSIDE, 443)], log=vnet_log("vnet-b"))
    scan = scanned(logs)
    assert scan.evidence.inventory.peers.is_empty()
    assert scan.evidence.views.filter(pl.col("mac_address") == A).collect()["dst_nic"].to_list() == [None]


def test_more_space_can_be_internal_and_have_names(logs):
    write_blob(logs, A, [flow("203.0.113.7", "198.51.100.1", 443), flow("10.1.2.3", "198.51.100.1", 443)])
    networks = Networks(internal=("203.0.113.0/24",), names=(("10.1.0.0/16", "hub"), ("203.0.113.0/25", "dmz")))
    scan = scanned(logs, networks=networks)
    assert set(owners(scan)) == {(VNET_A, "203.0.113.7"), (VNET_A, "10.1.2.3")}
    assert entry(scan, VNET_A, "10.1.2.3")["subnet"] == "hub"
    places = dict(scan.evidence.inventory.places.iter_rows())
    assert places == {"203.0.113.7": "internal", "10.1.2.3": "internal"}


def file_of(tmp_path, text, name="inventory.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_csv_gives_inventory_rows_in_canonical_text(tmp_path):
    path = file_of(
        tmp_path,
        "\ufeffVNet, ADDRESS ,mac_address,workload,subnet,kind,ignored\r\n"
        "S/RG/Vnet-A,10.0.0.4,00-00-5e-00-53-01, vm-web ,web,,x\r\n"
        ",2001:DB8::00A,,,,Private Endpoint,\r\n"
        "/subscriptions/S/resourceGroups/Rg/providers/Microsoft.Network/virtualNetworks/Vnet-A/subnets/x,,"
        '"00:00:5E:00:53:02","vm ""two"", 日本",,\r\n',
    )
    found = read_inventory(path)
    assert found.schema == SCHEMA
    assert found.rows() == [
        (VNET_A, "10.0.0.4", A, "vm-web", "web", "nic", "inventory"),
        ("", "2001:db8::a", None, None, None, "private endpoint", "inventory"),
        (VNET_A, "", B, 'vm "two", 日本', None, "nic", "inventory"),
    ]
    assert read_inventory(str(path)).equals(found)


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"count": 2, "data": rows}])
def test_json_is_taken_as_resource_graph_exports_it(tmp_path, wrap):
    rows = [{"address": "10.0.0.4", "workload": "vm-web", "zone": None}, {"mac_address": A.lower(), "subnet": None}]
    found = read_inventory(file_of(tmp_path, json.dumps(wrap(rows)), "anything.txt"))
    assert found.select("address", "mac_address", "workload").rows() == [("10.0.0.4", None, "vm-web"), ("", A, None)]


@pytest.mark.parametrize(("text", "meant"), [("::ffff:10.0.0.4", "10.0.0.4"), ("FE80::1%eth0", "fe80::1")])
def test_an_address_in_another_spelling_is_the_one_that_logs_are_decoded_to(tmp_path, text, meant):
    assert read_inventory(file_of(tmp_path, f"address\n{text}\n"))["address"].to_list() == [meant]


def test_empty_cells_say_nothing(tmp_path):
    found = read_inventory(file_of(tmp_path, "address,workload,subnet,kind\n10.0.0.4, ,  , \n"))
    assert found.select("workload", "subnet", "kind").rows() == [(None, None, "nic")]


@pytest.mark.parametrize("text", ["", "address,kind\n", "[]", '{"data": []}'])
def test_a_file_without_rows_is_an_empty_inventory(tmp_path, text):
    assert read_inventory(file_of(tmp_path, text)).equals(pl.DataFrame(schema=SCHEMA))


@pytest.mark.parametrize("kind", schema.ADDRESS_KINDS)
def test_every_kind_can_be_told(tmp_path, kind):
    assert read_inventory(file_of(tmp_path, f"address,kind\n10.0.0.4,{kind.upper()}\n"))["kind"].to_list() == [kind]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("address,workload\n10.0.0.4,a\n,b\n", "row 2: expected an address or a mac_address"),
        ("ip,workload\n10.0.0.4,a\n", "row 1: expected an address or a mac_address"),
        ("address;kind\n10.0.0.4;nic\n", "row 1: expected an address or a mac_address"),
        ("address,kind\n10.0.0.4,router\n", "row 1: unknown kind 'router'"),
        ("address\nvm-web\n", "row 1: expected one address, found 'vm-web'"),
        ("address\n10.0.0.0/24\n", "row 1: expected one address, found '10.0.0.0/24'"),
        ("mac_address\n0000\n", "row 1: expected 12 hex digits as mac_address"),
        ("mac_address\n00005E00530G\n", "row 1: expected 12 hex digits as mac_address"),
        (f"vnet,address\n{nic_log('x').target},10.0.0.4\n", "row 1: expected the id of a VNet"),
        ("address,workload\n10.0.0.4," + "x" * 200_000, "is not CSV"),
        ("[" * 100_000, "is not JSON"),
        ('[{"address": "10.0.0.4"}', "is not JSON"),
        ('{"rows": []}', "expected a list of objects"),
        ("[5]", "expected a list of objects"),
        (b"address\n\xff\n", "cannot be read as an inventory"),
        ("address\n10.0.0.4\n".encode("utf-16"), "cannot be read as an inventory"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_row(tmp_path, text, problem):
    path = file_of(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_inventory(path)
    assert caught.value.where == str(path)
    assert caught.value.problem.startswith(problem)


def test_a_file_that_is_not_there_is_a_config_error(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read as an inventory"):
            read_inventory(path)


@given(
    st.text(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(
                st.sampled_from(["data", "address", "mac_address", "kind", "vnet", "workload"]), v, max_size=3
            )
        ),
    ).map(json.dumps)
)
def test_any_file_is_an_inventory_or_an_error_of_ours(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = read_inventory(path)
    except FlowlensError:
        return
    assert found.schema == SCHEMA


def test_half_a_surrogate_pair_is_no_crash(tmp_path):
    found = read_inventory(file_of(tmp_path, r'[{"address": "10.0.0.4", "workload": "a\ud800"}]'))
    assert found["workload"].to_list() == ["a?"]


def named_by_file(tmp_path, logs, text, **options):
    return scanned(logs, inventory_file=file_of(tmp_path, text), **options)


def one_flow(logs):
    write_blob(logs, A, [flow("10.0.0.4", "10.0.0.5", 443)])


@pytest.mark.parametrize("row", ["vnet-a,10.0.0.4,", f"{VNET_A},10.0.0.4,", f",,{A}", f",10.0.0.4,{A}"])
def test_a_row_names_an_address_of_a_vnet_or_a_nic(tmp_path, logs, row):
    one_flow(logs)
    scan = named_by_file(tmp_path, logs, f"vnet,address,mac_address,workload,subnet\n{row},vm-web,web\n")
    found = entry(scan, VNET_A, "10.0.0.4")
    assert (found["mac_address"], found["workload"], found["subnet"]) == (A, "vm-web", "web")
    assert scan.coverage["workload"].to_list() == ["vm-web"]


def test_a_row_of_another_vnet_names_nobody_here(tmp_path, logs):
    one_flow(logs)
    scan = named_by_file(tmp_path, logs, "vnet,address,workload\nvnet-b,10.0.0.4,vm-other\n")
    assert entry(scan, VNET_A, "10.0.0.4")["workload"] == f"10.0.0.4 ({A})"


def test_the_file_knows_addresses_that_no_nic_logs(tmp_path, logs):
    one_flow(logs)
    scan = named_by_file(tmp_path, logs, "vnet,address,workload,kind\nvnet-a,10.0.0.5,pe-sql,private endpoint\n")
    assert entry(scan, VNET_A, "10.0.0.5") == {
        "vnet": VNET_A,
        "address": "10.0.0.5",
        "mac_address": None,
        "workload": "pe-sql",
        "subnet": "10.0.0.0/24",
        "kind": "private endpoint",
        "learned_from": "inventory",
    }
    (row,) = scan.evidence.views.collect().iter_rows(named=True)
    assert (row["dst_workload"], row["dst_kind"], row["dst_nic"]) == ("pe-sql", "private endpoint", None)


def test_the_file_corrects_a_kind_and_leaves_the_owner(tmp_path, logs):
    one_flow(logs)
    scan = named_by_file(tmp_path, logs, "vnet,address,kind\nvnet-a,10.0.0.4,gateway\n")
    found = entry(scan, VNET_A, "10.0.0.4")
    assert (found["kind"], found["mac_address"], found["learned_from"]) == ("gateway", A, "logs")


def test_two_nics_that_the_file_puts_in_one_vnet_see_each_other(tmp_path, logs):
    write_blob(logs, A, [flow("10.0.0.4", "10.0.0.5", 443)], log=nic_log("nic-a"))
    write_blob(logs, B, [flow("10.0.0.4", "10.0.0.5", 443, "I")], log=nic_log("nic-b"))
    text = f"vnet,mac_address\n{VNET_A},{A}\n{VNET_A},{B}\n"
    scan = named_by_file(tmp_path, logs, text)
    assert owners(scan) == {(VNET_A, "10.0.0.4"): {A}, (VNET_A, "10.0.0.5"): {B}}
    assert scan.evidence.views.filter("counted").collect()["mac_address"].to_list() == [A]


def test_a_bare_vnet_name_must_fit_one_vnet(tmp_path, logs):
    one_flow(logs)
    write_blob(logs, B, [flow("10.0.0.4", OUTSIDE, 443)], log=vnet_log("vnet-b"))
    path = file_of(tmp_path, "vnet,address,workload\nVNET-B,10.0.0.4,vm-b\n")
    scan = scanned(logs, inventory_file=path)
    assert entry(scan, VNET_B, "10.0.0.4")["workload"] == "vm-b"
    known = read_inventory(path)
    assert qualify(known, ["x/y/vnet-b", "x/z/vnet"])["vnet"].to_list() == ["x/y/vnet-b"]
    assert qualify(known, [])["vnet"].to_list() == ["vnet-b"]
    with pytest.raises(ConfigError, match="fits several") as caught:
        qualify(known, ["x/z/vnet-b", "x/y/vnet-b"])
    assert caught.value.hint == "write one of x/y/vnet-b, x/z/vnet-b"


@pytest.mark.parametrize(
    ("target", "key"),
    [
        (vnet_log("Vnet-A").target, VNET_A),
        (subnet_log("Vnet-A", "x").target.upper(), VNET_A),
        (vnet_log("Vnet-A").target.removeprefix("/"), VNET_A),
        (nic_log("n").target, None),
        (f"/x{vnet_log().target}", None),
        ("", None),
        (None, None),
    ],
)
def test_the_key_of_a_vnet_is_read_from_ids_in_any_case(target, key):
    assert pl.select(vnet_key(pl.lit(target, pl.String))).item() == key


def test_an_address_without_a_vnet_is_that_of_the_one_vnet_that_owns_it(tmp_path, logs):
    one_flow(logs)
    write_blob(logs, B, [flow("10.0.0.9", OUTSIDE, 443)], log=vnet_log("vnet-b"))
    scan = named_by_file(tmp_path, logs, "address,workload\n10.0.0.4,web1\n10.0.0.9,db1\n")
    assert entry(scan, VNET_A, "10.0.0.4")["workload"] == "web1"
    assert entry(scan, VNET_B, "10.0.0.9")["workload"] == "db1"
    assert scan.ledger.notes == ()
    assert set(scan.evidence.inventory.nics["workload"]) == {"web1", "db1"}


@pytest.mark.parametrize("address", ["10.0.0.4", "10.0.0.77"])
def test_an_address_that_several_or_no_vnets_own_is_told_and_not_used(tmp_path, logs, address):
    one_flow(logs)
    write_blob(logs, B, [flow("10.0.0.4", OUTSIDE, 443)], log=vnet_log("vnet-b"))
    scan = named_by_file(tmp_path, logs, f"address,workload\n{address},web1\n")
    assert "web1" not in scan.inventory["workload"].to_list()
    (note,) = scan.ledger.notes
    assert "1 row(s) without a VNet" in note and address in note


def test_a_nic_that_no_log_has_is_told(tmp_path, logs):
    one_flow(logs)
    scan = named_by_file(tmp_path, logs, f"mac_address,address,workload\n{B},10.0.0.4,web1\n")
    assert "web1" not in scan.inventory["workload"].to_list()
    assert any("1 row(s) without a VNet" in note for note in scan.ledger.notes)


def test_a_vnet_that_the_logs_do_not_hold_is_told_with_near_matches(tmp_path, logs):
    one_flow(logs)
    scan = named_by_file(tmp_path, logs, "vnet,address,workload\nvnet-aa,10.0.0.4,web1\nvnet-a,10.0.0.5,db1\n")
    (note,) = scan.ledger.notes
    assert "1 row(s) are of VNets that these logs do not hold, such as 'vnet-aa' (did you mean vnet-a?)" in note


def test_a_mistyped_column_is_refused_and_others_are_told(tmp_path, logs):
    one_flow(logs)
    with pytest.raises(ConfigError, match="unknown column 'worklaod'") as caught:
        named_by_file(tmp_path, logs, "address,worklaod\n10.0.0.4,web1\n")
    assert caught.value.hint == "did you mean workload?"
    scan = named_by_file(tmp_path, logs, "address,workload,workloads,location,outbound\n10.0.0.4,web1,x,y,nat\n")
    (note,) = scan.ledger.notes
    assert "column(s) 'location', 'workloads' are not used" in note
