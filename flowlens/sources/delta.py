"""The lake's two Delta tables: opened, created, appended to under a fence, read at one version.

The folder LAKE is a Delta table of flows as any engine reads it; LAKE/_ledger, which such engines pass over, is a second one that
says what became of each record. deltalake writes the logs; data files are written here, so that on a local disk they are on it
before the commit that names them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowlens import schema
from flowlens.errors import ConfigError, SourceError
from flowlens.sources.lake_places import KEY_VARIABLE, SAS_VARIABLE, LakePlace
from flowlens.sources.refusals import redact

if TYPE_CHECKING:
    import datetime as dt

    from deltalake import DeltaTable

FORMAT = 1
"""Version of the lake's layout; a lake with a higher one is refused."""
LEDGER_FOLDER = "_ledger"

_FORMAT_ID = "flowlens.format"
_FENCE_ID = "flowlens.sync"
_FULL = re.compile(r"No space left on device|Disk quota exceeded|os error 28|os error 122", re.IGNORECASE)
_CONFLICT = re.compile(r"[Cc]oncurrent|[Cc]onflict|already exists")
_ROW_GROUP = 1 << 17
_TARGET_SIZE = 128 << 20
_EDGE_LENGTH = 32
_LAST_CHARACTER = "\U0010ffff"
_REMOTE_HINT = f"check the address, and {KEY_VARIABLE}, {SAS_VARIABLE} or the identity that --lake-auth names"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file of one of a lake's tables that was written and that no commit names yet; ``written`` is in ms since 1970."""

    path: str
    size: int
    date: str
    written: int
    statistics: str


class OvertakenError(Exception):
    """Another writer has committed since the cursors were read; nothing of this commit is there."""


class Lake:
    """Both tables of a lake, each at the version at which it was opened or last committed to."""

    def __init__(self, place: LakePlace, flows: DeltaTable, ledger: DeltaTable) -> None:
        self.place = place
        self.flows = flows
        self.ledger = ledger

    @property
    def version(self) -> int:
        """The version of the table of flows."""
        return int(self.flows.version())

    def reload(self) -> None:
        """Go on to the newest versions; whatever was known of cursors is void."""
        with _told(self.place, "opened"):
            self.flows.update_incremental()
            self.ledger.update_incremental()

    def append_ledger(self, rows: pa.Table, files: Sequence[DataFile] = ()) -> None:
        """Commit rows of the ledger, and others that are in ``files``.

        Each is a fact about a blob's bytes, so that having it twice changes nothing.
        """
        files = [*files, *write_facts(self.place, rows)]
        if not files:
            return
        with _told(self.place, "written"):
            self._commit(self.ledger, LEDGER_FOLDER, files, schema.LAKE_LEDGER, ())

    def append_flows(self, rows: pa.Table) -> None:
        """Commit rows of flows under the fence of the version that this handle has.

        Raises OvertakenError where another sync has committed since: then nothing was added, and cursors must be read anew.
        """
        self.add_flows(write_flows(self.place, rows))

    def add_flows(self, files: Sequence[DataFile]) -> None:
        """Commit files with rows of flows as `append_flows` does."""
        if not files:
            return
        with _told(self.place, "written"):
            self._commit(self.flows, "", files, schema.LAKE_FLOWS, self._next_fence())
        self._settle()

    def remove_marked(self, mark: str, but: Set[str]) -> int:
        """Remove the files that were written with ``mark`` and whose paths are not in ``but``; how many there were.

        In ``but`` stands whatever a commit may have named: even where compaction has replaced it, somebody may read it.
        """
        kept = {path.rpartition("/")[2] for path in but}
        with _told(self.place, "written"):
            return sum(
                _remove(self.place, part, lambda name: f"part-{mark}-" in name and name not in kept)
                for part in ("", LEDGER_FOLDER)
            )

    def replace_flows(self, rows: pa.Table, *, date: dt.date, gone: Sequence[str]) -> None:
        """Put ``rows``, all of one blob, in the place of those of the blobs ``gone``, in one commit under the fence."""
        from deltalake import write_deltalake

        ids = sorted({*gone, *pc.unique(rows["blob_id"]).to_pylist()})
        listed = ", ".join(f"'{each}'" for each in ids)
        with _told(self.place, "written"):
            write_deltalake(
                self.flows,
                rows.select(schema.LAKE_FLOWS.names),
                mode="overwrite",
                predicate=f"date = '{date.isoformat()}' AND blob_id IN ({listed})",
                commit_properties=_properties(self._next_fence()),
            )
        if self.place.folder is not None:
            _sync_tree(self.place.folder / f"date={date.isoformat()}")
            _sync_log(self.place.folder)
        self._settle()

    def _next_fence(self) -> tuple[tuple[str, int], ...]:
        self._fence = int(self.flows.transaction_version(_FENCE_ID) or 0) + 1
        return ((_FENCE_ID, self._fence),)

    def _settle(self) -> None:
        """Go on to what this handle has just committed; a sync that came right behind makes it void at once."""
        with _told(self.place, "opened"):
            self.flows.update_incremental()
        if self.flows.transaction_version(_FENCE_ID) != self._fence:
            raise OvertakenError

    def _commit(
        self,
        table: DeltaTable,
        part: str,
        files: Sequence[DataFile],
        kind: pa.Schema,
        marks: tuple[tuple[str, int], ...],
    ) -> None:
        from deltalake import Schema
        from deltalake.transaction import AddAction, RemoveAction

        added: list[AddAction | RemoveAction] = [
            AddAction(file.path, file.size, {"date": file.date}, file.written, True, file.statistics) for file in files
        ]
        table.create_write_transaction(
            added, "append", Schema.from_arrow(kind), ["date"], commit_properties=_properties(marks)
        )
        if self.place.folder is not None:
            _sync_log(self.place.folder / part)
        if not marks:
            table.update_incremental()

    def scan_ledger(self, dates: Iterable[dt.date] | None = None) -> pl.LazyFrame:
        """The rows of the ledger, some of them possibly twice, of some dates or all."""
        return self._scan(self.ledger, LEDGER_FOLDER, schema.LAKE_LEDGER, dates)

    def scan_flows(self, dates: Iterable[dt.date] | None = None) -> pl.LazyFrame:
        """The rows of the flows, of some dates or all."""
        return self._scan(self.flows, "", schema.LAKE_FLOWS, dates)

    def _scan(self, table: DeltaTable, part: str, kind: pa.Schema, dates: Iterable[dt.date] | None) -> pl.LazyFrame:
        with _told(self.place, "read"):
            return pl.scan_pyarrow_dataset(
                _dataset(self.place, part, table, kind, None if dates is None else set(dates))
            )

    def batches(
        self, dates: Iterable[dt.date], columns: Sequence[str], condition: pc.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of the flows of some dates for which ``condition`` holds, as they come, some of them at a time."""
        with _told(self.place, "read"):
            found = _dataset(self.place, "", self.flows, schema.LAKE_FLOWS, set(dates))
        return self._batches(found, columns, condition)

    def ledger_batches(
        self, date: dt.date, columns: Sequence[str], hours: tuple[dt.datetime, dt.datetime]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of the ledger of some hours of a date, half-open, as `batches` gives those of the flows; some are there twice.

        Files and row groups without such hours are not read.
        """
        hour = pc.field("hour")
        with _told(self.place, "read"):
            found = _dataset(self.place, LEDGER_FOLDER, self.ledger, schema.LAKE_LEDGER, {date}, hours)
        return self._batches(found, columns, (hour >= hours[0]) & (hour < hours[1]))

    def _batches(self, found: Any, columns: Sequence[str], condition: pc.Expression | None) -> Iterator[pa.RecordBatch]:
        with _told(self.place, "read"):
            yield from found.to_batches(
                columns=list(columns),
                filter=condition,
                batch_size=_ROW_GROUP,
                batch_readahead=2,
                fragment_readahead=1,
            )

    def ledger_rows(self, date: dt.date) -> int:
        """How many rows the ledger has of a date, those that are there twice included."""
        with _told(self.place, "read"):
            actions = pa.table(self.ledger.get_add_actions(flatten=True))
        return int(pc.sum(actions.filter(pc.field("partition.date") == date)["num_records"]).as_py() or 0)

    def cursors(self, dates: Iterable[dt.date]) -> dict[str, int]:
        """The highest block of each blob that has rows in the partitions of ``dates``."""
        highest: list[pl.DataFrame] = []
        for batch in self.batches(dates, ["blob_id", "block"]):
            rows = pl.DataFrame(pl.from_arrow(batch))
            highest.append(rows.group_by("blob_id").agg(pl.col("block").max()))
            if len(highest) > 64:
                highest = [pl.concat(highest).group_by("blob_id").agg(pl.col("block").max())]
        if not highest:
            return {}
        return dict(pl.concat(highest).group_by("blob_id").agg(pl.col("block").max()).iter_rows())

    def files(self) -> tuple[int, int]:
        """How many data files of flows there are, and their bytes."""
        with _told(self.place, "read"):
            sizes = pa.table(self.flows.get_add_actions(flatten=True))["size_bytes"]
            return len(sizes), int(pc.sum(sizes).as_py() or 0)

    def compact(self) -> None:
        """Put small files together, each table in one commit; appends in between are no conflict."""
        from deltalake import WriterProperties

        for table, part in ((self.flows, ""), (self.ledger, LEDGER_FOLDER)):
            with _told(self.place, "written"):
                properties = WriterProperties(compression="ZSTD", max_row_group_size=_ROW_GROUP)
                table.optimize.compact(target_size=_TARGET_SIZE, writer_properties=properties)
                table.update_incremental()
            if self.place.folder is not None:
                for folder in (self.place.folder / part).glob("date=*"):
                    _sync_tree(folder)
                _sync_log(self.place.folder / part)

    def vacuum(self, hours: int, *, dry_run: bool) -> list[str]:
        """The files that nothing has named for so many hours, now removed."""
        removed: list[str] = []
        for table in (self.flows, self.ledger):
            with _told(self.place, "written"):
                # The age is checked by who asks; half-written files are in no log, so all are looked at.
                removed += table.vacuum(hours, dry_run=dry_run, enforce_retention_duration=False, full=True)
        return removed

    def ledger_dates(self) -> list[dt.date]:
        """The partitions of the ledger, in order: a date whose blobs are all empty has rows here alone."""
        with _told(self.place, "read"):
            return sorted({_date(each["date"]) for each in self.ledger.partitions()})


def _date(value: Any) -> dt.date:
    import datetime as dt

    try:
        return value if isinstance(value, dt.date) else dt.date.fromisoformat(str(value))
    except ValueError as error:
        raise pa.ArrowInvalid(f"a partition of the date {value!r:.40}") from error


def open_lake(place: LakePlace, *, create: bool = False) -> Lake:
    """The lake at ``place`` at its newest version; with ``create`` one that is not there yet is made, empty.

    Raises SourceError where there is none, where the folder holds something else, or where a later flowlens wrote it.
    """
    deltalake = _deltalake()
    with _told(place, "opened"):
        there = deltalake.DeltaTable.is_deltatable(place.uri(), dict(place.options) or None)
        if not there:
            if not create:
                raise SourceError(str(place), "no lake is here", hint="flowlens sync STORAGE LAKE makes one")
            _refuse_foreign(place)
            _create(place, LEDGER_FOLDER, schema.LAKE_LEDGER)
            _create(place, "", schema.LAKE_FLOWS)
        flows = _table(place, "")
        found = flows.transaction_version(_FORMAT_ID)
        if found is None:
            raise SourceError(
                str(place), "is a Delta table that flowlens sync did not write", hint="name another folder for the lake"
            )
        if found > FORMAT:
            raise SourceError(
                str(place),
                f"was written by a later flowlens (format {found}, this one knows {FORMAT})",
                hint="update flowlens; nothing was changed",
            )
        return Lake(place, flows, _table(place, LEDGER_FOLDER))


def _table(place: LakePlace, part: str) -> DeltaTable:
    table: DeltaTable = _deltalake().DeltaTable(place.uri(part), storage_options=dict(place.options) or None)
    return table


def _create(place: LakePlace, part: str, kind: pa.Schema) -> None:
    deltalake = _deltalake()
    if place.folder is not None:
        (place.folder / part).mkdir(parents=True, exist_ok=True)
    try:
        deltalake.DeltaTable.create(
            place.uri(part),
            deltalake.Schema.from_arrow(kind),
            mode="ignore",
            partition_by=["date"],
            name=f"flowlens {'ledger' if part else 'flows'}",
            storage_options=dict(place.options) or None,
            commit_properties=_properties(((_FORMAT_ID, FORMAT),)),
        )
    except deltalake.exceptions.DeltaError:
        # Another sync may have made it at this very moment.
        if not deltalake.DeltaTable.is_deltatable(place.uri(part), dict(place.options) or None):
            raise
    if place.folder is not None:
        _sync_log(place.folder / part)


def _refuse_foreign(place: LakePlace) -> None:
    """A folder that holds other things is not made a lake; what a run left that was ended while it made one is no such thing."""
    if place.folder is None or not place.folder.exists():
        return
    if not place.folder.is_dir():
        raise SourceError(str(place), "expected a folder for the lake, found a file", hint="name another place")
    others = sorted(each.name for each in place.folder.iterdir() if each.name not in (LEDGER_FOLDER, "_delta_log"))
    if others:
        raise SourceError(
            str(place), f"expected a lake or an empty folder, found {others[0]!r:.60}", hint="name another folder"
        )


def _deltalake() -> Any:
    try:
        import deltalake
    except ModuleNotFoundError:
        raise ConfigError("the lake", "needs the extra of that name", hint="pip install 'flowlens[lake]'") from None
    return deltalake


def _properties(marks: tuple[tuple[str, int], ...]) -> Any:
    from deltalake import CommitProperties, Transaction

    return CommitProperties(app_transactions=[Transaction(name, number) for name, number in marks])


def _dataset(
    place: LakePlace,
    part: str,
    table: DeltaTable,
    kind: pa.Schema,
    dates: set[dt.date] | None,
    hours: tuple[dt.datetime, dt.datetime] | None = None,
) -> Any:
    """The table's data files of some dates as an Arrow dataset, without files that by the log hold none of ``hours``, half-open.

    Not deltalake's own, which takes a column without statistics for one without values (seen in 1.6).
    """
    import pyarrow.fs
    from pyarrow import dataset

    if place.folder is not None:
        files = pyarrow.fs.SubTreeFileSystem(str(place.folder / part), pyarrow.fs.LocalFileSystem())
    else:
        files = _stored(place, part)
    # A disk or a copy that changed bytes gives an error and not other rows.
    checked = dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = dataset.ParquetFileFormat(default_fragment_scan_options=checked)
    actions = pa.table(table.get_add_actions(flatten=True))
    if hours is not None and "min.hour" in actions.column_names:
        low, high = pc.field("min.hour"), pc.field("max.hour")
        actions = actions.filter(low.is_null() | high.is_null() | ((low < hours[1]) & (high >= hours[0])))
    actions = actions.select(["path", "partition.date"])
    found = sorted((_date(date), unquote(path)) for path, date in zip(*actions.to_pydict().values(), strict=True))
    fragments = [
        form.make_fragment(path, files, partition_expression=pc.field("date") == pa.scalar(date, schema.DATE))
        for date, path in found
        if dates is None or date in dates
    ]
    return dataset.FileSystemDataset(fragments, kind, form, files)


def _stored(place: LakePlace, part: str) -> Any:
    """The folder ``part`` of a lake in an account as Arrow's file system."""
    import pyarrow.fs
    from deltalake.fs import DeltaStorageHandler

    return pyarrow.fs.PyFileSystem(DeltaStorageHandler(place.uri(part), dict(place.options)))


# What goes to disk


def write_flows(place: LakePlace, rows: pa.Table, mark: str = "") -> list[DataFile]:
    """Rows of LAKE_FLOWS as one data file for each date, on the disk for good; they count once `Lake.add_flows` commits them.

    ``mark`` stands in their names, see `Lake.remove_marked`. Raises SourceError where the lake can't be written.
    """
    return _write_files(place, "", rows, mark)


def write_facts(place: LakePlace, rows: pa.Table, mark: str = "") -> list[DataFile]:
    """Rows of LAKE_LEDGER as data files, see `write_flows`; they count once `Lake.append_ledger` commits them."""
    return _write_files(place, LEDGER_FOLDER, rows, mark)


def _write_files(place: LakePlace, part: str, rows: pa.Table, mark: str) -> list[DataFile]:
    files = []
    with _told(place, "written"):
        for date in sorted(pc.unique(rows["date"]).to_pylist()):
            own = rows.filter(pc.equal(rows["date"], date)).drop_columns(["date"])
            name = f"part-{mark}-{uuid.uuid4()}" if mark else f"part-{uuid.uuid4()}"
            path = f"date={date.isoformat()}/{name}.zstd.parquet"
            size = _write_file(place, part, path, own)
            files.append(DataFile(path, size, date.isoformat(), int(time.time() * 1000), json.dumps(_statistics(own))))
    return files


def _remove(place: LakePlace, part: str, chosen: Callable[[str], bool]) -> int:
    """Remove the data files of a table whose name is ``chosen``; how many there were."""
    if place.folder is not None:
        found = [path for path in (place.folder / part).glob("date=*/*.parquet") if chosen(path.name)]
        for path in found:
            path.unlink()
        return len(found)
    from pyarrow.fs import FileSelector

    files = _stored(place, part)
    there = files.get_file_info(FileSelector("", recursive=True))
    paths = [each.path for each in there if each.is_file and each.path.startswith("date=") and chosen(each.base_name)]
    for path in paths:
        files.delete_file(path)
    return len(paths)


def _write_file(place: LakePlace, part: str, path: str, rows: pa.Table) -> int:
    options = {
        "compression": "zstd",
        "compression_level": 1,
        "row_group_size": _ROW_GROUP,
        "write_page_checksum": True,
    }
    if place.folder is None:
        files = _stored(place, part)
        with files.open_output_stream(path) as sink:
            pq.write_table(rows, sink, **options)
        return int(files.get_file_info(path).size)
    target = place.folder / part / path
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync_folder(target.parent.parent)
    try:
        with target.open("xb") as file:
            pq.write_table(rows, file, **options)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
    except BaseException:
        # Nothing names it yet; without space even this may fail, and vacuum then removes it.
        with contextlib.suppress(OSError):
            target.unlink()
        raise
    _sync_folder(target.parent)
    return size


def _statistics(rows: pa.Table) -> dict[str, object]:
    """What Delta's log says of a data file: the edges of each plain column, by which readers pass files over."""
    low, high, nulls = {}, {}, {}
    for column in rows.schema:
        if pa.types.is_list(column.type):
            continue
        nulls[column.name] = rows[column.name].null_count
        edges = pc.min_max(rows[column.name])
        if edges["min"].is_valid:
            low[column.name] = _edge(edges["min"].as_py(), upper=False)
            high[column.name] = _edge(edges["max"].as_py(), upper=True)
    return {"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}


def _edge(value: Any, *, upper: bool) -> object:
    """A value as Delta's log has it; of a long text a shorter one that still lies beyond."""
    if isinstance(value, str):
        return value if len(value) <= _EDGE_LENGTH else value[:_EDGE_LENGTH] + (_LAST_CHARACTER if upper else "")
    return value if isinstance(value, int) else value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_log(folder: Path) -> None:
    """The newest entries of a table's log on the disk for good."""
    _sync_tree(folder / "_delta_log", newest=2)


def _sync_tree(folder: Path, newest: int = 64) -> None:
    if not folder.is_dir():
        return
    found: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        # What another sync is about to rename has a # in its name, and is gone the next moment; that sync sees to it.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and "#" not in path.name:
                found.append((path.stat().st_mtime, path))
    for _, path in sorted(found)[-newest:]:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


@contextlib.contextmanager
def _told(place: LakePlace, doing: str) -> Iterator[None]:
    """Errors of deltalake, Arrow and the system as one SourceError; a commit that came second as OvertakenError."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError as error:
        if _CONFLICT.search(str(error)):
            raise OvertakenError from None
        raise _refusal(place, doing, error) from None
    except (DeltaError, OSError, UnicodeDecodeError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise _refusal(place, doing, error) from None


def _refusal(place: LakePlace, doing: str, error: BaseException) -> SourceError:
    text = " ".join(redact(str(error)).split())
    if _FULL.search(text):
        hint = "make room and run it again: everything that was committed is whole, and nothing else is counted"
        return SourceError(str(place), "there is no space left for the lake", hint=hint)
    if isinstance(error, PermissionError) or "ermission denied" in text or "ead-only" in text:
        hint = "check who owns the folder, and that the disk is not read-only"
        return SourceError(str(place), f"the lake could not be {doing}: {text:.160}", hint=hint)
    hint = _REMOTE_HINT if place.folder is None else "nothing was changed; what was committed before is whole"
    return SourceError(str(place), f"the lake could not be {doing}: {text:.240}", hint=hint)
