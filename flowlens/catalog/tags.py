"""Azure service tags: which tag holds an address, and which prefixes a tag has, per cloud.

The package holds one file per cloud, made from what Microsoft publishes each week (Download Center 56519, 57063 and
57062); a newer file that the user downloaded takes its place once it has been checked as a whole. A tag says "this
service", never "this endpoint".
"""

from __future__ import annotations

import datetime as dt
import functools
import io
import os
import re
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec
import polars as pl

from flowlens.errors import CatalogError, ConfigError, near_matches
from flowlens.prefixes import PrefixTable, normal

CLOUDS = ("global", "usgov", "china")
PUBLISHED_CLOUDS = {"Public": "global", "AzureGovernment": "usgov", "China": "china"}
"""What a published file calls a cloud, and what flowlens does."""
UNKNOWN_DATE = "unknown"
STALE_AFTER = dt.timedelta(days=30)
"""The age from which a report warns: a new file is published each week."""
DATA_VARIABLE = "FLOWLENS_DATA"
"""The environment variable that names the folder of the user's own data."""

_LARGEST_FILE = 64 * 2**20
_FRESH = "download it anew from the Microsoft Download Center: 56519 global, 57063 usgov, 57062 china"
_EVERYTHING = "AzureCloud"
_COLUMNS = pl.Schema([("name", pl.String()), ("region", pl.String()), ("prefixes", pl.List(pl.String()))])


class _Properties(msgspec.Struct, rename="camel"):
    address_prefixes: list[str]
    region: str | None = None
    region_id: int | None = None


class _Tag(msgspec.Struct):
    name: str
    properties: _Properties


class _Published(msgspec.Struct):
    cloud: str
    values: list[_Tag]


@dataclass(frozen=True, eq=False)
class ServiceTags:
    """The service tags of one cloud on one date.

    ``cloud`` is global, usgov or china; ``date`` is the date of the published file (``YYYY-MM-DD``, or ``unknown``
    where its name has none); ``table`` has a row per tag, sorted by name: ``name``, ``region`` (the location's name in
    Azure Resource Manager, null for a global tag) and ``prefixes``.

    >>> tags = load_tags("global")
    >>> tags.identify(pl.Series(["20.118.99.224"]))["service_tag"].item()
    'AzureCloud.southcentralus'
    """

    cloud: str
    date: str
    table: pl.DataFrame

    def stale(self, today: dt.date | None = None) -> bool:
        """Whether the snapshot is older than 30 days, or its date is not known.

        >>> load_tags("china").stale(dt.date(2026, 8, 1)), load_tags("china").stale(dt.date(2026, 9, 1))
        (False, True)
        """
        now = today or dt.datetime.now(dt.UTC).date()
        return self.date == UNKNOWN_DATE or now - dt.date.fromisoformat(self.date) > STALE_AFTER

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """All tags, sorted."""
        return tuple(self.table["name"].to_list())

    def find(self, tag: str) -> str | None:
        """The tag's name as published, whatever the case and spelling of its region; None where the cloud has none.

        ``AzureCloud`` spells some regions unlike other tags do (service-tags overview): the location's name works for
        all.

        >>> load_tags("global").find("azurecloud.FranceCentral")
        'AzureCloud.centralfrance'
        """
        tag = tag.replace(" ", "").lower()
        if tag in self._rows:
            return self.names[self._rows[tag]]
        service, _, region = tag.rpartition(".")
        return self._regional.get((service, self._locations.get(region, "")))

    def prefixes(self, tag: str) -> tuple[str, ...]:
        """The tag's prefixes as published, IPv4 and IPv6.

        Raises CatalogError, with the nearest names, where the cloud has no such tag.
        """
        name = self.find(tag)
        if name is None:
            near = near_matches(tag, self.names)
            hint = near if near.startswith("did you mean") else "flowlens tags show lists them"
            problem = f"no service tag {tag[:80]!r} in the {self.cloud} file of {self.date}"
            raise CatalogError("service tags", problem, hint=hint)
        if name not in self._prefixes:
            self._prefixes[name] = tuple(self.table["prefixes"][self._rows[name.lower()]].to_list())
        return self._prefixes[name]

    def identify(self, addresses: pl.Series) -> pl.DataFrame:
        """What each address is: columns ``address``, ``service_tag``, ``region``, ``service_tags``, row by row.

        ``service_tags`` lists all tags that hold the address, the most telling first: services by their longest prefix,
        a service's regional tag before its global one, then ``AzureCloud.region`` and last ``AzureCloud``, which say
        only that the address is Azure's. ``service_tag`` is the first of them and ``region`` that tag's, null where it
        is global; all are null (the list empty) where no tag holds the address. Give distinct addresses.
        """
        table, answers = self._ranges
        found = table.sets(addresses)
        return pl.DataFrame({"address": addresses.cast(pl.String)}).hstack(
            answers.select(
                pl.col("service_tag").gather(found),
                pl.col("region").gather(found),
                pl.col("service_tags").gather(found).fill_null(pl.lit([], dtype=pl.List(pl.String))),
            )
        )

    @functools.cached_property
    def _prefixes(self) -> dict[str, tuple[str, ...]]:
        """Prefixes by tag, of those asked for so far."""
        return {}

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {name.lower(): row for row, name in enumerate(self.names)}

    @functools.cached_property
    def _regions(self) -> dict[str, str]:
        """Location of each regional tag."""
        regional = self.table.drop_nulls("region")
        return dict(zip(regional["name"].to_list(), regional["region"].to_list(), strict=True))

    @functools.cached_property
    def _locations(self) -> dict[str, str]:
        """Location by each spelling that some tag's suffix uses, in lower case."""
        return {_suffix(name): location for name, location in self._regions.items() if "." in name}

    @functools.cached_property
    def _regional(self) -> dict[tuple[str, str], str]:
        """Tag by service and location, in lower case; ``….EastUS2`` stands for eastus2, not ``….EastUS2Stage``."""
        plain_last = sorted(self._regions.items(), key=lambda tag: _suffix(tag[0]) == tag[1])
        return {(name.rpartition(".")[0].lower(), location): name for name, location in plain_last}

    @functools.cached_property
    def _ranges(self) -> tuple[PrefixTable[str], pl.DataFrame]:
        """Disjoint ranges of all tags, and the answer for each set of tags that shares one."""
        # Tags of the very same prefix keep this order: regional, child (Service.Child), plain.
        ranked = self.table.sort(
            pl.col("region").is_null(),
            ~pl.col("name").str.contains(".", literal=True),
            pl.col("name").str.to_lowercase(),
        )
        pairs = ranked.select("prefixes", "name").explode("prefixes", empty_as_null=False)
        table: PrefixTable[str] = PrefixTable.of(pairs["prefixes"], pairs["name"])
        # Longest prefix first, in the order that ``identify`` promises. In flat rows: a list of lists took 28 MB more.
        held = [(row, place, tag) for row, tags in enumerate(table.members) for place, tag in enumerate(tags)]
        name = pl.col("name")
        regional = pl.col("region").is_not_null() & name.str.contains(".", literal=True)
        answers = (
            pl.DataFrame(held, schema={"row": pl.UInt32, "place": pl.UInt32, "name": pl.String}, orient="row")
            .join(self.table.select("name", "region"), on="name", how="left")
            .with_columns(service=pl.when(regional).then(name.str.replace(r"\.[^.]*$", "")).otherwise(name))
            .with_columns(place=pl.col("place").min().over("row", "service"))
            .sort(
                "row", pl.col("service") == _EVERYTHING, name == _EVERYTHING, "place", pl.col("region").is_null(), name
            )
            .group_by("row", maintain_order=True)
            .agg(name.first().alias("service_tag"), pl.col("region").first(), name.alias("service_tags"))
        )
        return table, answers


def load_tags(cloud: str = "global", path: Path | None = None) -> ServiceTags:
    """The service tags of ``cloud``: those of the published JSON file at ``path``, else the newest at hand.

    At hand are those of the package and those that ``flowlens tags update`` put into the user's data folder. A file may
    also be what the Service Tag Discovery API answers (``az network list-service-tags``). Raises CatalogError for an
    unknown cloud, and for a file that cannot be read, is cut off, is of another cloud or has a wrong prefix.

    >>> load_tags("china").date
    '2026-07-20'
    """
    if cloud not in CLOUDS:
        raise CatalogError("service tags", f"unknown cloud {cloud[:80]!r}", hint=near_matches(cloud, CLOUDS))
    if path is None:
        packaged, stored = _packaged(cloud), _stored(cloud)
        return stored if stored is not None and stored.date >= packaged.date else packaged
    data = _bytes_of(path)
    tags = read_published(data, date=_date_in(path.name), where=str(path))
    if tags.cloud != cloud:
        raise CatalogError(str(path), f"expected the service tags of {cloud}, found those of {tags.cloud}")
    return tags


def read_update(path: Path, *, today: dt.date | None = None) -> ServiceTags:
    """The service tags of a published file that may take the place of those at hand; nothing is replaced here.

    Raises CatalogError as ``load_tags`` does, and for a file without a date in its name, one that is older than what is
    at hand or from the future, and one so much smaller that it must be a part.
    """
    data = _bytes_of(path)
    tags = read_published(data, date=_date_in(path.name), where=str(path))
    if tags.date == UNKNOWN_DATE:
        hint = "keep the published name, ServiceTags_Public_20260720.json, or put the day of the download into it"
        raise CatalogError(str(path), "expected a date in the file's name, found none", hint=hint)
    # A file is dated up to a week ahead.
    if tags.date > ((today or dt.datetime.now(dt.UTC).date()) + dt.timedelta(days=7)).isoformat():
        raise CatalogError(str(path), f"is of {tags.date}, which is yet to come", hint=_FRESH)
    return _not_less(tags, str(path))


def read_answer(data: bytes, *, cloud: str, where: str, today: dt.date | None = None) -> ServiceTags:
    """The service tags in an answer of the Service Tag Discovery API of ``cloud``; nothing is replaced here.

    An answer bears no date, so it is of the day on which it was given. It may lag a published file by up to four weeks and
    leaves out tags that no NSG rule can name (Microsoft Learn, "Virtual network service tags"). Raises CatalogError as
    ``load_tags`` does, and for one so much smaller than what is at hand that it must be a part.
    """
    day = today or dt.datetime.now(dt.UTC).date()
    tags = read_published(data, date=day.isoformat(), where=where, asked=cloud)
    if tags.cloud != cloud:
        problem = f"expected the service tags of {cloud}, found those of {tags.cloud}"
        raise CatalogError(where, problem, hint="check --cloud and the endpoint")
    return _not_less(tags, where)


def _not_less(tags: ServiceTags, where: str) -> ServiceTags:
    """The tags, where they may take the place of those at hand; raises CatalogError for older ones and for a part."""
    present = load_tags(tags.cloud)
    if tags.date < present.date:
        raise CatalogError(where, f"is of {tags.date}, older than the one at hand of {present.date}", hint=_FRESH)
    for what, count in (("tags", len), ("prefixes", lambda rows: rows["prefixes"].list.len().sum())):
        found, before = count(tags.table), count(present.table)
        if found * 2 < before:
            problem = f"holds {found} {what} where the file of {present.date} has {before}: a part of a file"
            raise CatalogError(where, problem, hint=_FRESH)
    if tags.find(_EVERYTHING) is None:
        raise CatalogError(where, f"lacks {_EVERYTHING}, which holds what no other tag does", hint=_FRESH)
    return tags


def packed(tags: ServiceTags) -> bytes:
    """Service tags as one small Parquet file, as the package and the user's data folder hold them.

    >>> packed(load_tags("china"))[:4]
    b'PAR1'
    """
    buffer = io.BytesIO()
    metadata = {"cloud": tags.cloud, "date": tags.date}
    tags.table.write_parquet(buffer, compression="zstd", compression_level=22, metadata=metadata)
    return buffer.getvalue()


def stored_file(cloud: str) -> Path:
    """Where the user's own service tags of a cloud are kept: under FLOWLENS_DATA, else the platform's data folder.

    >>> stored_file("china").name
    'service_tags_china.parquet'
    """
    return _data_folder() / f"service_tags_{cloud}.parquet"


def _data_folder() -> Path:
    if named := os.environ.get(DATA_VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "flowlens"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "flowlens"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "flowlens"


def read_published(data: bytes, *, date: str, where: str, asked: str | None = None) -> ServiceTags:
    """The service tags in the bytes of a published JSON file; ``where`` names it in errors.

    ``asked`` is the cloud whose endpoint gave them: it counts where they call their cloud by a name that no file uses, since
    what the API calls the national clouds is not documented.

    Regions take the location name of Azure Resource Manager: tags are joined on ``regionId``, since ``AzureCloud`` and
    the ``region`` field spell some regions their own way. Raises CatalogError for any other shape.
    """
    try:
        file = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=_Published)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CatalogError(where, f"expected a service-tag file: {error}", hint=_FRESH) from error
    cloud = PUBLISHED_CLOUDS.get(file.cloud, asked)
    if cloud is None:
        found = f"found cloud {file.cloud[:80]!r}"
        raise CatalogError(where, f"expected cloud {', '.join(PUBLISHED_CLOUDS)}, {found}", hint=_FRESH)
    names = [tag.name for tag in file.values]
    if not names:
        raise CatalogError(where, "expected service tags, found none", hint=_FRESH)
    seen: set[str] = set()
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name):
            raise CatalogError(where, f"expected the name of a service tag, found {name[:80]!r}", hint=_FRESH)
        if name.lower() in seen:
            raise CatalogError(where, f"service tag {name} is there twice", hint=_FRESH)
        seen.add(name.lower())
    locations = _location_names(file.values)
    table = pl.DataFrame(
        {
            "name": names,
            "region": [locations.get(_region_key(tag)) for tag in file.values],
            "prefixes": [tag.properties.address_prefixes for tag in file.values],
        },
        schema=_COLUMNS,
    )
    tags = ServiceTags(cloud, date, table.sort("name"))
    try:
        # Makes the ranges, which the first look-up needs anyway.
        tags.identify(pl.Series([], dtype=pl.String))
    except ConfigError as error:
        wrong = next(tag.name for tag in file.values for prefix in tag.properties.address_prefixes if _is_wrong(prefix))
        raise CatalogError(where, f"service tag {wrong}: {error.problem}", hint=_FRESH) from error
    return tags


@functools.cache
def _packaged(cloud: str) -> ServiceTags:
    data = (resources.files("flowlens.catalog") / "data" / f"service_tags_{cloud}.parquet").read_bytes()
    return _unpacked(data, cloud)


def _stored(cloud: str) -> ServiceTags | None:
    """The user's own tags of a cloud; None where there are none. Raises CatalogError where they can't be used."""
    path = stored_file(cloud)
    try:
        now = path.stat()
    except (OSError, RuntimeError):
        return None
    return _read_stored(path, cloud, now.st_mtime_ns, now.st_size)


@functools.lru_cache(maxsize=len(CLOUDS))
def _read_stored(path: Path, cloud: str, _written: int, _size: int) -> ServiceTags:
    """The tags in a file; read anew when its time or size changed, which are part of the cache's key."""
    try:
        return _unpacked(_bytes_of(path), cloud)
    except (pl.exceptions.PolarsError, KeyError, ValueError) as error:
        hint = "put it right with flowlens tags update, or remove it"
        raise CatalogError(
            str(path), "expected the service tags that flowlens wrote, found something else", hint=hint
        ) from error


def _unpacked(data: bytes, cloud: str) -> ServiceTags:
    """What ``packed`` made; raises ValueError or an error of polars for anything else."""
    metadata, table = pl.read_parquet_metadata(io.BytesIO(data)), pl.read_parquet(io.BytesIO(data))
    dt.date.fromisoformat(metadata["date"])
    if metadata["cloud"] != cloud or table.schema != _COLUMNS or table.is_empty():
        raise ValueError("not what packed makes")
    return ServiceTags(cloud, metadata["date"], table)


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CatalogError(str(path), f"can't read the service tags: {reason}") from error
    if len(data) > _LARGEST_FILE:
        raise CatalogError(str(path), f"expected a service-tag file, found more than {_LARGEST_FILE} bytes")
    return data


def _date_in(name: str) -> str:
    """The date that the name of a published file holds, ``YYYY-MM-DD``, or ``unknown``."""
    written = re.search(r"(20[0-9]{2})([01][0-9])([0-3][0-9])", name)
    try:
        return dt.date(*map(int, written.groups())).isoformat() if written else UNKNOWN_DATE
    except ValueError:
        return UNKNOWN_DATE


def _is_wrong(prefix: str) -> bool:
    try:
        normal(prefix)
    except ConfigError:
        return True
    return False


def _region_key(tag: _Tag) -> int | str | None:
    """What tags of one region share; None for a global tag. The Discovery API leaves ``regionId`` out."""
    return tag.properties.region_id or (tag.properties.region or "").lower() or None


def _location_names(tags: list[_Tag]) -> dict[int | str | None, str]:
    """The location name of each region: the suffix of most of its tags, AzureCloud's own spelling aside."""
    votes: dict[int | str | None, list[str]] = {}
    spare: dict[int | str | None, str] = {}
    for tag in tags:
        key = _region_key(tag)
        if key is None:
            continue
        service, _, suffix = tag.name.rpartition(".")
        if service == _EVERYTHING or not service:
            spare.setdefault(key, suffix.lower() if service else (tag.properties.region or "").lower())
        else:
            votes.setdefault(key, []).append(suffix.lower())
    chosen = {key: max(sorted(set(suffixes)), key=suffixes.count) for key, suffixes in votes.items()}
    return {**spare, **chosen}


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()
