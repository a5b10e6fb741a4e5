import datetime as dt
import ipaddress
import json
import random
import subprocess
import sys
from dataclasses import replace
from importlib import resources

import polars as pl
import pytest

from flowlens.catalog import load_tags
from flowlens.catalog.tags import packed, read_answer, read_update, stored_file
from flowlens.errors import CatalogError


def tag(name, prefixes, region="", region_id=0):
    properties = {"changeNumber": 1, "region": region, "regionId": region_id, "platform": "Azure", "systemService": ""}
    return {
        "name": name,
        "id": name,
        "properties": {**properties, "addressPrefixes": prefixes, "networkFeatures": None},
    }


# Region 19 is spelled three ways, as in the published files; 20.1.0.0/16 is where everything overlaps.
SMALL = [
    tag("AzureCloud", ["20.0.0.0/8", "20.1.2.128/25"]),
    tag("AzureCloud.centralfrance", ["20.1.0.0/16"], "centralfrance", 19),
    tag("Storage", ["20.1.2.0/24", "2001:db8::/32"]),
    tag("Storage.FranceCentral", ["20.1.0.0/20"], "centralfrance", 19),
    tag("Sql.FranceCentral", ["20.1.2.0/24"], "centralfrance", 19),
    tag("Sql.FranceCentralStage", ["20.9.9.0/24"], "centralfrance", 19),
    tag("AzureFrontDoor.Frontend", ["20.1.2.0/26"]),
    tag("Empty", []),
]


@pytest.fixture
def published(tmp_path):
    """Writes a published file and gives its path."""

    def write(values, cloud="Public", name="ServiceTags_Public_20260713.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"changeNumber": 1, "cloud": cloud, "values": values}))
        return path

    return write


def found(tags, *addresses):
    return tags.identify(pl.Series(addresses)).drop("address").rows()


def test_known_addresses_of_the_global_cloud():
    assert found(load_tags(), "20.118.99.224", "40.83.235.53", "20.38.98.7", "168.63.129.16", "2001:db8::1") == [
        ("AzureCloud.southcentralus", "southcentralus", ["AzureCloud.southcentralus", "AzureCloud"]),
        ("AzureCloud.westus", "westus", ["AzureCloud.westus", "AzureCloud"]),
        ("Storage.EastUS", "eastus", ["Storage.EastUS", "Storage", "AzureCloud.eastus", "AzureCloud"]),
        (None, None, []),
        (None, None, []),
    ]


def test_rhui_servers_are_in_no_tag_but_their_region():
    rhui = ["52.136.197.163", "20.225.226.182", "52.142.4.99", "20.248.180.252", "20.24.186.80"]
    regions = ["westeurope", "southcentralus", "eastus", "australiaeast", "southeastasia"]
    assert found(load_tags(), *rhui) == [
        (f"AzureCloud.{region}", region, [f"AzureCloud.{region}", "AzureCloud"]) for region in regions
    ]


@pytest.mark.parametrize(
    ("cloud", "date", "tags", "prefixes"),
    [("global", "2026-06-26", 3237, 106_982), ("usgov", "2026-07-20", 299, 6591), ("china", "2026-07-20", 327, 4390)],
)
def test_each_cloud_has_the_tags_that_were_published(cloud, date, tags, prefixes):
    held = load_tags(cloud)
    assert (held.cloud, held.date, len(held.names)) == (cloud, date, tags)
    assert sum(len(held.prefixes(name)) for name in held.names) == prefixes


def test_tags_that_a_cloud_lacks():
    for cloud, absent in [("usgov", "AzureFrontDoor.FirstParty"), ("china", "MicrosoftDefenderForEndpoint")]:
        assert load_tags("global").find(absent) == absent
        assert load_tags(cloud).find(absent) is None
    assert len(load_tags("global").prefixes("AzureUpdateDelivery")) == 184
    assert load_tags("usgov").find("AzureUpdateDelivery") is None


@pytest.mark.parametrize(
    ("azure_cloud", "location"),
    [
        ("centralfrance", "FranceCentral"), ("southfrance", "FranceSouth"), ("germanywc", "GermanyWestCentral"),
        ("germanyn", "GermanyNorth"), ("norwaye", "NorwayEast"), ("norwayw", "NorwayWest"),
        ("switzerlandn", "SwitzerlandNorth"), ("switzerlandw", "SwitzerlandWest"), ("brazilse", "BrazilSoutheast"),
        ("chilec", "ChileCentral"), ("usstagee", "EastUSSTG"), ("usstagec", "SouthCentralUSSTG"),
    ],
)  # fmt: skip
def test_regions_are_found_by_every_spelling(azure_cloud, location):
    tags = load_tags()
    for spelling in (azure_cloud, location, location.lower(), location.upper()):
        assert tags.find(f"AzureCloud.{spelling}") == f"AzureCloud.{azure_cloud}"
        assert tags.find(f"azurekeyvault.{spelling}") == f"AzureKeyVault.{location}"
    regions = dict(tags.table.select("name", "region").iter_rows())
    assert regions[f"AzureCloud.{azure_cloud}"] == regions[f"AzureKeyVault.{location}"] == location.lower()


def test_regions_without_other_tags_keep_azureclouds_spelling():
    assert load_tags().find("AzureCloud.BrazilNE") == "AzureCloud.brazilne"


def test_every_tag_of_an_address_is_there(published):
    """Against ipaddress, on a real cloud: all tags that hold an address, and no other."""
    tags = load_tags("usgov")
    networks = [(ipaddress.ip_network(prefix), name) for name in tags.names for prefix in tags.prefixes(name)]
    chance = random.Random(7)
    addresses = {chance.choice(networks)[0] for _ in range(60)}
    addresses = [network[chance.randrange(min(network.num_addresses, 2**32))] for network in sorted(addresses, key=str)]
    for address, row in zip(addresses, found(tags, *map(str, addresses)), strict=True):
        holding = {name for network, name in networks if address.version == network.version and address in network}
        assert set(row[2]) == holding and len(row[2]) == len(holding)
        assert row[0] == row[2][0]
        last = [name for name in row[2] if name == "AzureCloud" or name.startswith("AzureCloud.")]
        assert row[2][len(row[2]) - len(last) :] == sorted(last, key=lambda name: name == "AzureCloud")


def test_the_most_telling_tag_comes_first(published):
    tags = load_tags("global", published(SMALL))
    assert tags.date == "2026-07-13"
    # Longest prefix of any tag of the service, then its regional tag; AzureCloud's /25 does not win.
    everything = ["Sql.FranceCentral", "Storage.FranceCentral", "Storage", "AzureCloud.centralfrance", "AzureCloud"]
    assert found(tags, "20.1.2.200", "20.1.2.7", "20.1.3.1", "20.2.0.1", "2001:db8::1", "21.0.0.1", "no address") == [
        ("Sql.FranceCentral", "francecentral", everything),
        ("AzureFrontDoor.Frontend", None, ["AzureFrontDoor.Frontend", *everything]),
        ("Storage.FranceCentral", "francecentral", ["Storage.FranceCentral", *everything[3:]]),
        ("AzureCloud", None, ["AzureCloud"]),
        ("Storage", None, ["Storage"]),
        (None, None, []),
        (None, None, []),
    ]


def test_the_order_of_a_file_does_not_matter(published):
    answers = set()
    for seed in range(5):
        values = SMALL[:]
        random.Random(seed).shuffle(values)
        answers.add(str(found(load_tags("global", published(values)), "20.1.2.200", "20.1.2.7")))
    assert len(answers) == 1


def test_a_stage_is_not_taken_for_its_region(published):
    tags = load_tags("global", published(SMALL))
    assert tags.find("Sql.centralfrance") == "Sql.FranceCentral"
    assert tags.find("Sql.FranceCentralStage") == "Sql.FranceCentralStage"


def test_an_unknown_tag_is_refused_with_the_nearest_names(published):
    tags = load_tags("global", published(SMALL))
    assert tags.prefixes("STORAGE") == ("20.1.2.0/24", "2001:db8::/32")
    assert tags.prefixes("Empty") == ()
    with pytest.raises(CatalogError, match="no service tag 'Storag' in the global file of 2026-07-13") as error:
        tags.prefixes("Storag")
    assert "Storage" in error.value.hint
    with pytest.raises(CatalogError) as error:
        tags.prefixes("\x1b[31m" + "z" * 5000)
    assert error.value.problem.isprintable() and len(str(error.value)) < 300


def test_the_discovery_api_gives_no_region_ids(published):
    values = json.loads(json.dumps(SMALL))
    for value in values:
        del value["properties"]["regionId"]
    tags = load_tags("global", published(values, name="tags.json"))
    assert tags.date == "unknown"
    assert tags.find("AzureCloud.FranceCentral") == "AzureCloud.centralfrance"


def test_a_byte_order_mark_is_not_an_error(published):
    path = published(SMALL)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "Storage" in load_tags("global", path).names


def test_a_file_of_another_cloud_is_refused(published):
    with pytest.raises(CatalogError, match="expected the service tags of usgov, found those of global"):
        load_tags("usgov", published(SMALL))
    with pytest.raises(CatalogError, match="unknown cloud 'usgvo'") as error:
        load_tags("usgvo")
    assert error.value.hint == "did you mean usgov?"


DEEP = b'{"cloud": "Public", "values": ' + b"[" * 100_000
WHOLE = json.dumps({"cloud": "Public", "values": SMALL}).encode()
BROKEN = {
    "empty": b"",
    "other json": b"{}",
    "a list": b"[]",
    "null": b"null",
    "html": b"<!DOCTYPE html><html></html>",
    "nul": b"\0" * 100,
    "deep": DEEP,
    "not utf-8": b'{"cloud": "\xff", "values": []}',
    "no tags": b'{"cloud": "Public", "values": []}',
    "unknown cloud": b'{"cloud": "Mars\\u001b", "values": [{"name": "A", "properties": {"addressPrefixes": []}}]}',
    "a tag without prefixes": b'{"cloud": "Public", "values": [{"name": "A", "properties": {}}]}',
    "prefixes as text": b'{"cloud": "Public", "values": [{"name": "A", "properties": {"addressPrefixes": "::/0"}}]}',
    "a tag twice": json.dumps({"cloud": "Public", "values": [tag("Storage", []), tag("STORAGE", [])]}).encode(),
    "escape in a name": json.dumps({"cloud": "Public", "values": [tag("A\x1b[31m", [])]}).encode(),
    "surrogate in a prefix": json.dumps({"cloud": "Public", "values": [tag("A", ["\ud800/8"])]}).encode(),
    "wrong prefix": json.dumps({"cloud": "Public", "values": [tag("A", ["20.0.0.0/8"]), tag("Bad", ["x\n"])]}).encode(),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_irregular_files_are_refused_in_one_line(tmp_path, data):
    path = tmp_path / "ServiceTags_Public_20260713.json"
    path.write_bytes(data)
    with pytest.raises(CatalogError) as error:
        load_tags("global", path)
    assert error.value.where == str(path)
    assert error.value.problem.isprintable() and len(error.value.problem) < 300


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "tags.json"
    for length in range(0, len(WHOLE), 7):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(CatalogError):
            load_tags("global", path)


def test_a_wrong_prefix_is_refused_with_its_tag(published):
    with pytest.raises(CatalogError, match=r"service tag Bad: expected a prefix such as .* found '10\.0\.0\.0/33'"):
        load_tags("global", published([*SMALL, tag("Bad", ["10.0.0.0/33"])]))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CatalogError, match="can't read the service tags"):
        load_tags("global", tmp_path / "none.json")
    with pytest.raises(CatalogError, match="can't read the service tags"):
        load_tags("global", tmp_path)


def test_the_packages_tags_are_small_and_read_once():
    folder = resources.files("flowlens.catalog") / "data"
    sizes = [len(entry.read_bytes()) for entry in folder.iterdir() if entry.name.endswith(".parquet")]
    assert len(sizes) == 3 and sum(sizes) < 500_000
    assert load_tags("china") is load_tags("china")


def test_importing_the_catalogue_reads_nothing():
    program = """if True:
        import sys
        opened = []
        sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
        import flowlens.catalog
        print([name for name in opened if name.endswith((".parquet", ".toml"))])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


REAL_SIZE = [
    tag("AzureCloud", [f"20.{n // 256}.{n % 256}.0/24" for n in range(3000)]),
    *(tag(f"Service{n}", [f"20.{n // 256}.{n % 256}.0/24"]) for n in range(200)),
]
TODAY = dt.date(2026, 9, 10)


@pytest.fixture
def update(tmp_path, monkeypatch):
    """Writes a file for the smallest cloud and gives what ``tags update`` would make of it; the user's folder is empty."""
    monkeypatch.setenv("FLOWLENS_DATA", str(tmp_path / "data"))

    def read(values=REAL_SIZE, name="ServiceTags_China_20260907.json", cloud="China", cut=None):
        path = tmp_path / name
        path.write_bytes(json.dumps({"changeNumber": 1, "cloud": cloud, "values": values}).encode()[:cut])
        return read_update(path, today=TODAY)

    return read


def store(tags):
    stored_file(tags.cloud).parent.mkdir(exist_ok=True)
    stored_file(tags.cloud).write_bytes(packed(tags))


def test_an_update_takes_the_place_of_the_packages_tags(update):
    before = load_tags("china")
    new = update()
    assert load_tags("china") is before
    store(new)
    assert load_tags("china").date == "2026-09-07" and "Service7" in load_tags("china").names
    assert load_tags("china") is load_tags("china")
    assert load_tags("usgov").date == "2026-07-20"
    assert found(load_tags("china"), "20.0.7.1")[0][2] == ["Service7", "AzureCloud"]


def test_a_newer_package_wins_over_an_older_update(update, monkeypatch):
    new = update(name="ServiceTags_China_20260720.json")
    store(replace(new, date="2026-07-19"))
    assert load_tags("china").date == "2026-07-20" and "Service7" not in load_tags("china").names


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": "tags.json"}, "expected a date in the file's name"),
        ({"name": "ServiceTags_China_20261399.json"}, "expected a date in the file's name"),
        ({"name": "ServiceTags_China_20260701.json"}, "is of 2026-07-01, older than the one at hand of 2026-07-20"),
        ({"name": "ServiceTags_China_20260918.json"}, "is of 2026-09-18, which is yet to come"),
        ({"values": REAL_SIZE[:100]}, "holds 100 tags where the file of 2026-07-20 has 327"),
        ({"values": REAL_SIZE[1:]}, "holds 200 prefixes where the file of 2026-07-20 has 4390"),
        ({"cut": -1}, "expected a service-tag file"),
        ({"cut": 5000}, "expected a service-tag file"),
        ({"values": [*REAL_SIZE, tag("Bad", ["10.0.0.0/33"])]}, "service tag Bad: expected a prefix"),
        ({"cloud": "Mars"}, "expected cloud Public, AzureGovernment, China, found cloud 'Mars'"),
    ],
)  # fmt: skip
def test_an_update_that_is_not_whole_changes_nothing(update, given, problem):
    with pytest.raises(CatalogError) as error:
        update(**given)
    assert problem in error.value.problem and error.value.hint and error.value.problem.isprintable()
    assert load_tags("china").date == "2026-07-20"
    assert not stored_file("china").parent.exists()


def answer(values=REAL_SIZE, cloud="China", asked="china"):
    data = json.dumps({"changeNumber": "1", "cloud": cloud, "values": values}).encode()
    return read_answer(data, cloud=asked, where="https://management", today=TODAY)


def test_an_answer_of_the_discovery_api_is_of_its_day(update):
    assert answer().date == TODAY.isoformat()
    # What it calls the national clouds is not documented, so the endpoint tells the cloud.
    assert answer(cloud="AzureChinaCloud").cloud == "china"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"asked": "usgov"}, "expected the service tags of usgov, found those of china"),
        ({"values": REAL_SIZE[:100]}, "holds 100 tags where the file of 2026-07-20 has 327"),
        ({"values": [tag("Azure", REAL_SIZE[0]["properties"]["addressPrefixes"]), *REAL_SIZE[1:]]}, "lacks AzureCloud"),
        ({"values": [{"name": "A"}]}, "expected a service-tag file"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(update, given, problem):
    with pytest.raises(CatalogError) as error:
        answer(**given)
    assert problem in error.value.problem and error.value.where == "https://management"


def test_a_file_of_next_week_is_taken(update):
    assert update(name="ServiceTags_China_20260917.json").date == "2026-09-17"


@pytest.mark.parametrize("broken", [b"", b"PAR1", b"not parquet at all", None])
def test_a_stored_file_that_is_broken_is_an_error_and_not_passed_over(update, broken):
    store(update())
    data = stored_file("china").read_bytes()
    stored_file("china").write_bytes(data[: len(data) // 2] if broken is None else broken)
    with pytest.raises(CatalogError, match="expected the service tags that flowlens wrote") as error:
        load_tags("china")
    assert "tags update" in error.value.hint


def test_stored_tags_of_another_cloud_are_an_error(update):
    stored_file("usgov").parent.mkdir()
    stored_file("usgov").write_bytes(packed(update()))
    with pytest.raises(CatalogError, match="something else"):
        load_tags("usgov")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "X"}, "X/flowlens"),
        ("linux", {"HOME": "H"}, "H/.local/share/flowlens"),
        ("darwin", {"HOME": "H"}, "H/Library/Application Support/flowlens"),
        ("win32", {"LOCALAPPDATA": "L"}, "L/flowlens"),
        ("linux", {"FLOWLENS_DATA": "F", "XDG_DATA_HOME": "X"}, "F"),
    ],
)
def test_where_the_users_tags_are_kept(monkeypatch, platform, variables, expected):
    for name in ("FLOWLENS_DATA", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert stored_file("china").as_posix() == f"{expected}/service_tags_china.parquet"


def test_age(published):
    assert not load_tags("china").stale(dt.date(2026, 8, 19))
    assert load_tags("china").stale(dt.date(2026, 8, 20))
    assert load_tags("global", published(SMALL, name="tags.json")).stale(dt.date(2026, 7, 1))


def test_a_region_id_may_be_null(published):
    values = json.loads(json.dumps(SMALL))
    for value in values:
        value["properties"]["regionId"] = None
    assert load_tags("global", published(values)).find("AzureCloud.FranceCentral") == "AzureCloud.centralfrance"
