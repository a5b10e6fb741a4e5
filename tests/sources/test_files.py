"""Local files against the file system itself, `glob`, `gzip` and hand-built paths as oracles."""

from __future__ import annotations

import datetime as dt
import glob
import gzip
import itertools
import os
import random
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import FormatError, SourceError
from flowlens.sources import files
from flowlens.sources.files import Blob, BlobPath, find_blobs, parse_blob_path, read_chunks

CONTAINER = "insights-logs-flowlogflowevent"
ROOT = "0000_NETWORKWATCHERRG/NETWORKWATCHER_EASTUS_HUB"
HOUR = "y=2026/m=01/d=15/h=09/m=00"
BLOB = f"{CONTAINER}/flowLogResourceID=/{ROOT}/{HOUR}/macAddress=0022480A1B2C/PT1H.json"
NINE = dt.datetime(2026, 1, 15, 9, tzinfo=dt.UTC)


def write(folder: Path, *names: str, data: bytes = b"{}") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def names(*paths: object) -> list[str]:
    return [blob.name for blob in find_blobs([str(path) for path in paths]).blobs]


def blob_of(path: Path) -> Blob:
    return find_blobs([str(path)]).blobs[0]


# ---- the path grammar


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (BLOB, BlobPath(ROOT, NINE, "0022480A1B2C")),
        ("/" + BLOB, BlobPath(ROOT, NINE, "0022480A1B2C")),
        (BLOB.lower(), BlobPath(ROOT, NINE, "0022480A1B2C")),
        (BLOB.replace("=/", "="), BlobPath(ROOT, NINE, "0022480A1B2C")),
        (BLOB.replace("0022480A1B2C", "00-22-48-0a-1b-2c"), BlobPath(ROOT, NINE, "0022480A1B2C")),
        (
            f"resourceId=/SUBSCRIPTIONS/1/PROVIDERS/NSG/{HOUR}/macAddress=0022480A1B2C/PT1H.json",
            BlobPath("SUBSCRIPTIONS/1/PROVIDERS/NSG", NINE, "0022480A1B2C"),
        ),
        (f"resoureId=/A/{HOUR}/PT1H.json", BlobPath("A", NINE, None)),
        (f"flowLogResourceID=/A/B/C/D/E/F/{HOUR}/PT1H.json", BlobPath("A/B/C/D/E/F", NINE, None)),
        (f"flowLogResourceID=old/resourceId=/A/{HOUR}/PT1H.json", BlobPath("A", NINE, None)),
        (f"flowLogResourceID=/A/{HOUR}/resourceId=/B/PT1H.json", BlobPath("A", NINE, None)),
        (f"{HOUR}/macAddress=0022480A1B2C/PT1H.json", BlobPath(None, NINE, "0022480A1B2C")),
        ("flowLogResourceID=/A/PT1H.json", BlobPath(None, None, None)),
        (f"notflowLogResourceID=/A/{HOUR}/PT1H.json", BlobPath(None, NINE, None)),
        ("flowLogResourceID=/A/y=2026/m=13/d=15/h=09/m=00/x", BlobPath("A", None, None)),
        ("flowLogResourceID=/A/y=9999/m=12/d=31/h=23/m=00/x", BlobPath("A", None, None)),
        ("flowLogResourceID=/A/y=0001/m=01/d=01/h=00/m=00/x", BlobPath("A", None, None)),
        ("flowLogResourceID=/A/y=2026/m=02/d=30/h=09/m=00/x", BlobPath("A", None, None)),
        ("flowLogResourceID=/A/y=2026/m=02/d=03/h=24/m=00/x", BlobPath("A", None, None)),
        ("flowLogResourceID=/A/y=2026/m=02/d=03/h=٠٩/m=00/x", BlobPath("A", None, None)),
        ("flowLogResourceID=/A/y=/m=/d=/h=/m=/x", BlobPath("A", None, None)),
        ("flowLogResourceID=/A/y=2026/m=02/d=03/h=09/x", BlobPath(None, None, None)),
        (BLOB.replace("0022480A1B2C", "0022480A1B2"), BlobPath(ROOT, NINE, None)),
        (BLOB.replace("0022480A1B2C", "0022480A1B2G"), BlobPath(ROOT, NINE, None)),
        ("", BlobPath(None, None, None)),
    ],
)
def test_path_grammar(path: str, expected: BlobPath) -> None:
    assert parse_blob_path(path) == expected


@given(st.integers(0, 100 * 366 * 24), st.integers(0, 2**48 - 1), st.randoms())
def test_every_hour_and_nic_comes_back_in_any_case(hours: int, mac: int, random: random.Random) -> None:
    hour = NINE + dt.timedelta(hours=hours)
    path = f"{CONTAINER}/flowLogResourceID=/{ROOT}/{hour:y=%Y/m=%m/d=%d/h=%H/m=00}/macAddress={mac:012X}/PT1H.json"
    mixed = "".join(random.choice((c.lower(), c.upper())) for c in path)
    assert parse_blob_path(mixed) == BlobPath(ROOT, hour, f"{mac:012X}")


@given(st.text(st.sampled_from("/=ymdhMAC0129fresoucIdlwLgD\0é"), max_size=80))
def test_any_text_is_a_path_without_an_error(text: str) -> None:
    parsed = parse_blob_path(text)
    assert parsed.hour is None or parsed.hour.utcoffset() == dt.timedelta(0)


# ---- what is selected


def test_blob_says_what_its_path_says(tmp_path: Path) -> None:
    write(tmp_path, BLOB, data=b"12345")
    assert find_blobs([str(tmp_path)]).blobs == (Blob(BLOB, tmp_path / BLOB, 5, ROOT, NINE, "0022480A1B2C"),)


@pytest.mark.parametrize("depth", range(len(BLOB.split("/")) + 1))
def test_name_and_facts_do_not_depend_on_the_folder_that_is_given(tmp_path: Path, depth: int) -> None:
    write(tmp_path / "copy", BLOB)
    (blob,) = find_blobs([str((tmp_path / "copy").joinpath(*BLOB.split("/")[:depth]))]).blobs
    assert (blob.name, blob.flow_log, blob.hour, blob.mac_address) == (BLOB, ROOT, NINE, "0022480A1B2C")


def test_name_starts_at_the_root_key_where_the_container_has_another_name(tmp_path: Path) -> None:
    name = BLOB.removeprefix(f"{CONTAINER}/")
    write(tmp_path / "download", name)
    assert names(tmp_path) == [name]


def test_name_without_a_root_key_is_relative_to_what_was_given(tmp_path: Path) -> None:
    write(tmp_path, "a/b/c.json")
    assert names(tmp_path) == ["a/b/c.json"]
    assert names(tmp_path / "a") == ["b/c.json"]
    assert names(tmp_path / "a" / "*" / "*.json") == ["b/c.json"]
    assert names(tmp_path / "a" / "b" / "c.json") == ["c.json"]


def test_relative_paths_dots_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/b.json", "c/d.json")
    monkeypatch.chdir(tmp_path / "c")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert names(".") == ["d.json"]
    assert names("../a") == names("~/a") == ["b.json"]
    (blob,) = find_blobs(["d.json"]).blobs
    monkeypatch.chdir(tmp_path)
    assert b"".join(read_chunks(blob)) == b"{}"


def test_folder_takes_the_known_endings_and_says_what_it_leaves(tmp_path: Path) -> None:
    taken = ["a.JSON", "b.csv", "c.csv.gz", "d.json.gz", "e.jsonl", "f.jsonl.gz", "g.ndjson", "h.NDJSON.GZ"]
    left = [f"x{i}.txt" for i in range(files.NAMES_SHOWN + 2)]
    write(tmp_path, *taken, *left, ".hidden.json", ".git/config.json")
    found = find_blobs([str(tmp_path)])
    assert [blob.name for blob in found.blobs] == taken
    ending, hidden = found.skipped
    assert f"{len(left)} (x0.txt, " in ending
    assert ending.endswith("and 2 more)")
    assert hidden == "not read because hidden: 2 (.git, .hidden.json)"
    assert (found.unread, found.duplicates) == (0, 0)


def test_named_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    write(tmp_path, "flows.log", ".hidden", "x.txt")
    assert names(tmp_path / "flows.log", tmp_path / ".hidden") == [".hidden", "flows.log"]
    assert names(tmp_path / "*.log") == ["flows.log"]


def test_empty_folder_gives_no_blobs_and_says_so(tmp_path: Path) -> None:
    found = find_blobs([str(tmp_path)])
    assert found.blobs == ()
    assert str(tmp_path) in found.skipped[0]


def test_a_literal_file_wins_over_a_glob(tmp_path: Path) -> None:
    write(tmp_path, "a[1].json", "a1.json", "[x]/b.json", "x/b.json")
    assert names(tmp_path / "a[1].json") == ["a[1].json"]
    assert names(tmp_path / "a[12].json") == ["a1.json"]
    assert find_blobs([str(tmp_path / "[x]" / "*.json")]).blobs[0].path == tmp_path / "[x]" / "b.json"


def test_the_same_file_by_several_ways_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "logs/a.json", "logs/b.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "logs" / "a.json")
    ways = [tmp_path / "logs", tmp_path / "logs" / "a.json", tmp_path / "link.json", tmp_path / "logs" / "*.json"]
    found = find_blobs([str(way) for way in ways])
    assert [blob.path.resolve().name for blob in found.blobs] == ["a.json", "b.json"]
    assert found.duplicates == 4
    for order in itertools.permutations(ways):
        assert find_blobs([str(way) for way in order]) == found


def test_copies_of_one_hour_are_noted(tmp_path: Path) -> None:
    write(tmp_path, f"one/{BLOB}", f"two/{BLOB}", f"one/{BLOB.replace('h=09', 'h=10')}")
    found = find_blobs([str(tmp_path / "two"), str(tmp_path / "one")])
    assert [blob.path.relative_to(tmp_path).parts[0] for blob in found.blobs] == ["one", "two", "one"]
    (note,) = found.notes
    assert str(tmp_path / "one" / BLOB) in note
    assert str(tmp_path / "two" / BLOB) in note
    assert "h=10" not in note
    assert find_blobs([str(tmp_path / "one")]).notes == ()


def test_loops_of_links_end(tmp_path: Path) -> None:
    write(tmp_path, "a/x.json", "b/y.json")
    for folder, name in itertools.product("ab", "12345"):
        (tmp_path / folder / name).symlink_to(tmp_path, target_is_directory=True)
    found = find_blobs([str(tmp_path)])
    assert [blob.name for blob in found.blobs] == ["a/x.json", "b/y.json"]
    assert "10 (a/1, a/2, a/3, a/4, a/5 and 5 more)" in found.skipped[0]
    assert {path.name for path in map(Path, names(tmp_path / "**" / "y.json"))} == {"y.json"}


def test_a_linked_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path, f"far/{BLOB}", "near/n.json")
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / CONTAINER, target_is_directory=True)
    found = find_blobs([str(tmp_path / "near")])
    assert [(blob.name, blob.flow_log) for blob in found.blobs] == [(BLOB, ROOT), ("n.json", None)]


def test_what_can_not_be_looked_at_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.json", "secret/b.json")
    (tmp_path / "self.json").symlink_to("self.json")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    scandir = os.scandir

    def guarded(folder: Path) -> object:
        if Path(folder).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    found = find_blobs([str(tmp_path)])
    assert [blob.name for blob in found.blobs] == ["a.json"]
    assert found.unread == 3
    assert found.skipped[0].endswith("1 (dangling.txt)")
    assert found.skipped[1].endswith("3 (dangling.csv, secret, self.json)")
    with pytest.raises(SourceError, match="permissions"):
        find_blobs([str(tmp_path / "secret")])


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    assert find_blobs([str(tmp_path)]).skipped == ("not read because a pipe or device: 1 (pipe.json)",)
    with pytest.raises(SourceError, match="pipe or device"):
        find_blobs([str(tmp_path / "pipe.json")])


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("lgos", "did you mean logs?"),
        ("lgos/deep/er.json", "did you mean logs?"),
        ("logs/flow.jsn", "did you mean flow.json?"),
        ("logs/flow.json/x", "did you mean flow.json?"),
        ("logs/zzz*", "known: flow.json"),
        ("empty/x.json", "is empty"),
    ],
)
def test_nothing_found_names_what_is_near(tmp_path: Path, given: str, hint: str) -> None:
    write(tmp_path, "logs/flow.json")
    (tmp_path / "empty").mkdir()
    sought = str(tmp_path / given)
    with pytest.raises(SourceError) as caught:
        find_blobs([str(tmp_path / "logs"), sought])
    assert caught.value.where == sought
    assert hint in caught.value.hint


def test_hint_does_not_list_a_large_folder(tmp_path: Path) -> None:
    write(tmp_path, *(f"file-{i}.json" for i in range(50)))
    with pytest.raises(SourceError, match="holds 50 files and folders"):
        find_blobs([str(tmp_path / "zzz")])


@pytest.mark.parametrize("given", ["", "a\0b", "\ud800", "a\0*", "x" * 5000, "C:\\logs\\*.json", "https://x/y"])
def test_what_is_no_path_is_an_error_of_ours(given: str) -> None:
    with pytest.raises(SourceError):
        find_blobs([given])


def test_no_paths_at_all_is_an_error() -> None:
    with pytest.raises(SourceError, match="no file"):
        find_blobs([])


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_flow_log_whose_name_is_not_unicode_keeps_its_bytes_escaped(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/flowLogResourceID=/S_NW/NW_\xff/" + HOUR.encode() + b"/macAddress=00224800AABB"
    os.makedirs(folder)
    Path(os.fsdecode(folder), "PT1H.json").write_bytes(b"{}")
    (blob,) = find_blobs([str(tmp_path)]).blobs
    assert blob.flow_log == r"S_NW/NW_\UDCFF" and r"NW_\udcff" in blob.name
    assert blob.hour is not None and blob.path.read_bytes() == b"{}"


def test_odd_names_stay_text_without_control_characters_in_sentences(tmp_path: Path) -> None:
    write(tmp_path, "esc\x1b[31m.txt", "bidi\u202e.txt", "日本.json")
    (tmp_path / os.fsdecode(b"latin\xe9.json")).write_bytes(b"{}")
    found = find_blobs([str(tmp_path)])
    assert [blob.name for blob in found.blobs] == ["latin\\udce9.json", "日本.json"]
    assert b"".join(read_chunks(found.blobs[0])) == b"{}"
    assert found.skipped[0].isprintable()
    assert "esc\\x1b[31m.txt" in found.skipped[0]


FOLDERS = ("a", "b", "ab")
FILES = ("a.json", "b.json", "ab.txt", "c.csv.gz", "d")
TREES = st.sets(
    st.builds(
        lambda folders, name: (*folders, name), st.lists(st.sampled_from(FOLDERS), max_size=3), st.sampled_from(FILES)
    ),
    min_size=1,
    max_size=12,
)
PATTERNS = st.lists(st.sampled_from(("*", "**", "a", "?", "a*", "[ab]", "*.json", "[!a]*")), min_size=1, max_size=4)


@given(TREES, PATTERNS)
def test_globs_agree_with_the_standard_library(tree: set[tuple[str, ...]], pattern: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        write(top, *("/".join(parts) for parts in tree))
        matched = {Path(match) for match in glob.glob("/".join((folder, *pattern)), recursive=True)}
        known = {path for path in top.rglob("*") if path.is_file() and path.name.endswith((".json", ".gz"))}
        expected = {path for path in known if matched & {path, *path.parents}}
        if pattern[-1].strip("*"):
            expected |= {path for path in matched if path.is_file()}
        if expected:
            found = find_blobs([str(top.joinpath(*pattern))])
            assert {blob.path for blob in found.blobs} == expected
            assert found.duplicates == 0
        else:
            # The standard library also matches `a/**` where `a` is a file; here that is no such folder.
            try:
                assert find_blobs([str(top.joinpath(*pattern))]).blobs == ()
            except SourceError:
                assert not expected


@pytest.mark.slow
@given(TREES, st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_file_system_or_the_arguments(
    tree: set[tuple[str, ...]], random: random.Random
) -> None:
    ordered = sorted("/".join(parts) for parts in tree)
    shuffled = random.sample(ordered, len(ordered))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), *shuffled)
        paths = [str(Path(folder) / name) for name in (*shuffled, ".")]
        found = find_blobs(paths)
        random.shuffle(paths)
        assert find_blobs(paths) == found
        assert [blob.name for blob in found.blobs] == ordered_names(ordered)
        assert found.duplicates == sum(name.endswith((".json", ".gz")) for name in ordered)


def ordered_names(given: list[str]) -> list[str]:
    """A file that only its own path selects is named by it alone; every other by its place below the folder."""
    return sorted(name if name.endswith((".json", ".gz")) else name.rsplit("/", 1)[-1] for name in given)


# ---- the bytes


DATA = st.binary(max_size=3000) | st.builds(bytes.__mul__, st.binary(min_size=1, max_size=50), st.integers(1, 500))
CHUNK_SIZES = st.integers(1, 5000)


def collect(data: bytes, chunk_size: int, **options: int) -> tuple[bytes, str]:
    """What is yielded for a file holding ``data``, and the text of the FormatError, if any."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "PT1H.json"
        path.write_bytes(data)
        taken: list[bytes] = []
        problem = ""
        try:
            taken.extend(read_chunks(blob_of(path), chunk_size, **options))
        except FormatError as error:
            where, problem = error.where, error.problem
        assert not problem or where == "PT1H.json"
        assert all(0 < len(chunk) <= chunk_size for chunk in taken)
        return b"".join(taken), problem


@given(DATA, CHUNK_SIZES)
def test_plain_bytes_come_back_in_any_chunking(data: bytes, chunk_size: int) -> None:
    if not data.startswith(b"\x1f\x8b"):
        assert collect(data, chunk_size) == (data, "")


@given(st.lists(DATA, min_size=1, max_size=4), CHUNK_SIZES, st.integers(0, 20))
def test_gzip_members_come_back_as_one_stream(members: list[bytes], chunk_size: int, padding: int) -> None:
    packed = bytes(padding).join(map(gzip.compress, members)) + bytes(padding)
    assert collect(packed, chunk_size) == (b"".join(members), "")


@given(DATA, CHUNK_SIZES, st.data())
def test_cut_gzip_gives_all_that_is_there_and_says_cut_off(data: bytes, chunk_size: int, draw: st.DataObject) -> None:
    packed = gzip.compress(data)
    cut = packed[: draw.draw(st.integers(2, len(packed) - 1))]
    taken, problem = collect(cut, chunk_size)
    assert taken == zlib.decompressobj(31).decompress(cut)
    assert "cut off" in problem


@given(DATA, CHUNK_SIZES, st.data())
def test_damaged_gzip_gives_the_same_for_every_chunk_size(data: bytes, chunk_size: int, draw: st.DataObject) -> None:
    packed = bytearray(gzip.compress(data))
    packed[draw.draw(st.integers(2, len(packed) - 1))] ^= draw.draw(st.integers(1, 255))
    taken, problem = collect(bytes(packed), chunk_size)
    whole, same_problem = collect(bytes(packed), 1 << 20)
    assert taken == whole
    assert bool(problem) == bool(same_problem)
    assert problem or taken == data


def test_any_damaged_byte_gives_the_same_for_small_and_large_chunks() -> None:
    packed = gzip.compress(b"abcdefgh" * 411)
    for place in range(2, len(packed)):
        damaged = packed[:place] + bytes([packed[place] ^ 16]) + packed[place + 1 :]
        assert collect(damaged, 1) == collect(damaged, 1 << 20)


def test_a_wrong_checksum_loses_nothing_and_is_said() -> None:
    data = b'{"records":[]}' * 100
    packed = bytearray(gzip.compress(data))
    packed[-8] ^= 1
    taken, problem = collect(bytes(packed), 1 << 20)
    assert taken == data
    assert "damage" in problem


def test_what_follows_gzip_data_is_said() -> None:
    taken, problem = collect(gzip.compress(b"abc") + b"not gzip", 10)
    assert taken == b"abc"
    assert "damage" in problem


def test_gzip_is_known_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(gzip.compress(b"abc"))
    (tmp_path / "b.json.gz").write_bytes(b"abc")
    assert [b"".join(read_chunks(blob)) for blob in find_blobs([str(tmp_path)]).blobs] == [b"abc", b"abc"]


def test_a_bomb_stops_soon_after_the_free_bytes(tmp_path: Path) -> None:
    size = 3 * files.RATIO_FREE_BYTES
    (tmp_path / "bomb.json").write_bytes(gzip.compress(bytes(size)))
    taken: list[bytes] = []
    with pytest.raises(SourceError, match="200 times"):
        taken.extend(read_chunks(blob_of(tmp_path / "bomb.json")))
    assert files.RATIO_FREE_BYTES - (1 << 20) < sum(map(len, taken)) <= files.RATIO_FREE_BYTES


def test_a_short_file_may_compress_as_far_as_it_likes(tmp_path: Path) -> None:
    data = bytes(files.RATIO_FREE_BYTES)
    packed = gzip.compress(data)
    assert len(packed) * files.RATIO_LIMIT < len(data)
    assert collect(packed, 1 << 20) == (data, "")


def test_the_limit_on_decompressed_bytes() -> None:
    packed = gzip.compress(b"x" * 1000)
    assert collect(packed, 100, decompressed_limit=1000) == (b"x" * 1000, "")
    with pytest.raises(SourceError, match="limit of 999 bytes"):
        collect(packed, 100, decompressed_limit=999)


def test_a_file_that_is_gone_or_a_folder_now_is_a_source_error(tmp_path: Path) -> None:
    write(tmp_path, "a.json")
    blob = blob_of(tmp_path / "a.json")
    blob.path.unlink()
    with pytest.raises(SourceError, match="is gone") as caught:
        list(read_chunks(blob))
    assert caught.value.where == str(blob.path)
    blob.path.mkdir()
    with pytest.raises(SourceError, match="could not be opened"):
        list(read_chunks(blob))


def test_a_file_that_may_not_be_read_is_a_source_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.json")
    blob = blob_of(tmp_path / "a.json")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SourceError, match="may not be read"):
        list(read_chunks(blob))


def test_a_chunk_has_at_least_one_byte(tmp_path: Path) -> None:
    write(tmp_path, "a.json")
    with pytest.raises(ValueError, match="at least 1"):
        list(read_chunks(blob_of(tmp_path / "a.json"), 0))
