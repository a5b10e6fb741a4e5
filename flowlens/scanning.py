"""From sources to a Scan: one pass with threads, bounded memory, progress and a ledger.

Each blob is decoded and rolled up by one thread; finished rollups are appended, never grouped across blobs, and go to
temporary files where they are many. Inventory, coverage and the preferred view are then derived from the same rollup, so
that every answer is about the same bytes.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl

from flowlens import budget, conversations, inventory, nic_hours, views
from flowlens.errors import FlowlensError, SourceError
from flowlens.evidence import Evidence, Ledger, Scan, Window, checked
from flowlens.flow_streams import in_window, scan_flows, unread_item, write_flows
from flowlens.formats.countries import one_each
from flowlens.formats.traffic_analytics import DecodedRows, decode_traffic_analytics
from flowlens.gathering import BlobResult, Gathered
from flowlens.inventory import Networks
from flowlens.lake.reading import KeptPart
from flowlens.pieces import Pieces
from flowlens.restarts import bytes_in_doubt
from flowlens.scope import Scope
from flowlens.selecting import Item, Place, Plan, Progress, Selected, flow_logs_only, select
from flowlens.sources import workspace
from flowlens.sources.accounts import Access, Location, is_remote, parse_location
from flowlens.sources.lake_places import LakePlace, is_lake_folder, locate_lake
from flowlens.sources.slices import Slice
from flowlens.sources.storage import default_window
from flowlens.sources.workspace import Connection, Workspace
from flowlens.units import NIC, Meter, read_flow_logs, units_of
from flowlens.workspace_rows import read_workspace

Run = Callable[[Plan, Selected, Pieces, Path], tuple[Gathered, views.Rolled]]
"""Reads what was selected: what all blobs gave, and their conversations, in the pieces or elsewhere; files go into the folder."""

# Parts of a workspace tell the same of the same addresses.
_TOLD_AGAIN = 16


def scan(
    *sources: str | os.PathLike[str],
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
    changed_at: dt.datetime | None = None,
    inventory_file: str | os.PathLike[str] | None = None,
    networks: Networks | None = None,
    scope: Scope | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    access: Access | None = None,
    now: dt.datetime | None = None,
    run: Run | None = None,
) -> Scan:
    """A Scan of flow logs: nothing is read before a result is asked for.

    ``sources`` are files, folders or globs, lakes (a folder that `flowlens sync` keeps, or ``abfss://``), containers of storage accounts (``https://ACCOUNT.blob.core.windows.net/
    CONTAINER[/PREFIX]``), or Log Analytics workspaces (``workspace:GUID``); ``access`` says how the latter are read. With a
    storage account among them and neither start nor end, the window is the 24 hours that ended 15 minutes ago, with a workspace
    those up to the hour that is surely written; after reading, ``settings["identities"]`` says who read. ``start`` and
    ``end`` are aware datetimes, half-open; ``changed_at`` cuts the buckets there, so that before and after can be told apart.
    ``memory_limit`` is in bytes: fewer threads decode, less is read ahead and a workspace is asked for less at a time, so that a run
    with up to 100,000 conversations stays below it. ``strict`` decodes with the reference decoder only. ``now`` decides which hour is open; it defaults to the clock.
    ``run`` reads in the place of this process's threads, see `flowlens.distributed`.

    Raises SourceError where nothing is found, ConfigError for an address that is no storage account's or a limit too low to
    work with, ValueError for a time
    without zone.

    >>> scan("sample_logs").window
    Window(start=None, end=None)
    """
    moment = now or dt.datetime.now(dt.UTC)
    access = access or Access()
    given = tuple(os.fspath(source) for source in sources)
    places = tuple(_place(source, access) for source in given)
    by_default = start is None and end is None and any(map(_is_far, places))
    asked = any(isinstance(place, Workspace) for place in places)
    usual = workspace.default_window(moment) if asked else default_window(moment)
    window = Window(*usual) if by_default else Window(start, end)
    if changed_at is not None and changed_at.tzinfo is None:
        raise ValueError(f"changed_at needs a time with a zone, found {changed_at.isoformat()}")
    changed_at = changed_at and changed_at.astimezone(dt.UTC)
    plan = Plan(
        places,
        window,
        changed_at,
        strict,
        budget.shared(memory_limit, threads or os.cpu_count() or 1),
        progress,
        budget.for_queries(memory_limit),
        access=access,
        subscriptions=scope.subscriptions if scope else (),
        now=moment,
    )
    known = inventory.read_inventory(os.fspath(inventory_file)) if inventory_file is not None else None
    unused = inventory.unused_columns(os.fspath(inventory_file)) if inventory_file is not None else ()
    settings: dict[str, object] = {
        # Without the token that an address may have carried.
        "sources": [str(place) for place in places],
        "inventory": os.fspath(inventory_file) if inventory_file is not None else None,
        "scope": scope.describe() if scope else None,
        "changed_at": changed_at,
        "threads": plan.budget.threads,
        "memory_limit": memory_limit,
        "strict": strict,
    }
    if by_default:
        settings["default_window"] = True

    def selected(choose: Callable[[Plan], Selected]) -> Selected:
        chosen = choose(plan)
        if chosen.identities:
            result.settings["identities"] = list(chosen.identities)
        return replace(chosen, notes=(*chosen.notes, *unused))

    result = Scan(
        read=lambda: _read(plan, selected(select), known, networks or Networks(), scope, moment, run),
        flows=lambda: scan_flows(plan, lambda: selected(flow_logs_only)),
        window=window,
        changed_at=changed_at,
        settings=settings,
        write_flows=lambda file: write_flows(plan, selected(flow_logs_only), file),
    )
    return result


def _is_far(place: Place) -> bool:
    """Whether a place is no disk, so that reading all there is may take hours."""
    return isinstance(place, Location | Workspace) or (isinstance(place, LakePlace) and place.folder is None)


def _place(source: str, access: Access) -> Place:
    # `az://` is read differently by every tool; for a source it stays an error that says so.
    if source.startswith("abfss://") or is_lake_folder(source):
        return locate_lake(source, access)
    if workspace.is_workspace(source):
        return workspace.parse_workspace(source, access)
    return parse_location(source, access) if is_remote(source) else source


def _read_export(item: Item, plan: Plan, meter: Meter, store: Pieces) -> BlobResult:
    """Decode one Traffic Analytics export; its rows are conversations already."""
    result = BlobResult(Ledger(blobs=1))
    chunks = meter.chunks(item)
    try:
        for decoded in decode_traffic_analytics(chunks, where=item.blob.name):
            store.add(_take_rows(result, decoded, plan))
    except FlowlensError as error:
        result.ledger += unread_item(item, result.ledger.bytes, error)
    finally:
        chunks.close()
    checked(result.ledger, item.blob.name)
    return result


def _read_workspaces(connections: Sequence[Connection], plan: Plan, store: Pieces, now: dt.datetime) -> Gathered:
    """One after another; of several those that refuse are counted with the reason, unless all do."""
    gathered = Gathered()
    failures: list[SourceError] = []
    for connection in connections:
        try:
            gathered.take([_read_workspace(connection, plan, store, now)])
        except SourceError as error:
            failures.append(error)
            note = f"not read: {error.where}: {error.problem} ({error.hint})"
            gathered.take([BlobResult(Ledger(unread=1, notes=(note,)))])
    if len(failures) == len(connections):
        raise failures[0]
    return gathered


def _read_workspace(connection: Connection, plan: Plan, store: Pieces, now: dt.datetime) -> BlobResult:
    """The rows of one workspace, and for each of its NICs the hours in which some could not be read."""
    result = BlobResult(Ledger())
    unread: list[Slice] = []
    parts = read_workspace(
        connection, plan.window, edges=plan.edges, now=now, queries=plan.queries, progress=plan.progress
    )
    for part in parts:
        store.add(_take_rows(result, part.decoded, plan))
        unread += [part.unread] if part.unread else []
        if len(result.inventory) > _TOLD_AGAIN:
            result.inventory = [pl.concat(result.inventory).unique()]
            result.countries = [one_each(result.countries)]
    checked(result.ledger, str(connection.workspace))
    read = {key[:4] for key in result.hours}
    lost = {hour for part in unread for hour in part.hours()}
    for nic in sorted({key[:3] for key in read}, key=str):
        result.hours += [
            (*nic, hour, "partly read" if (*nic, hour) in read else "failed", 0, 0, None) for hour in sorted(lost)
        ]
    return result


def _take_rows(result: BlobResult, decoded: DecodedRows, plan: Plan) -> pl.DataFrame:
    """The rows inside the window as CONVERSATIONS; what else they tell goes into ``result``."""
    rows = decoded.conversations
    start = pl.col("interval_start")
    kept = rows.filter(in_window(start, plan.window))
    inside = int(kept["lines"].sum())
    result.ledger += replace(decoded.ledger, rows=inside, outside_window=int(rows["lines"].sum()) - inside)
    bucket = start.dt.truncate("1h")
    for edge in sorted(plan.edges):
        bucket = pl.when((start >= edge) & (start.dt.truncate("1h") <= edge)).then(pl.lit(edge)).otherwise(bucket)
    result.hops |= set(kept.filter("is_hop")["mac_address"].drop_nulls().to_list())
    result.inventory.append(decoded.inventory)
    result.countries.append(decoded.countries)
    counts = kept.group_by(*NIC, hour=start.dt.truncate("1h")).agg(n=pl.col("lines").sum())
    result.hours += [(*key, "read", n, 0, None) for *key, n in counts.iter_rows()]
    return kept.with_columns(hour=bucket.cast(conversations.SCHEMA["hour"])).select(conversations.COLUMNS)


def _read(
    plan: Plan,
    selected: Selected,
    known: pl.DataFrame | None,
    networks: Networks,
    scope: Scope | None,
    now: dt.datetime,
    run: Run | None,
) -> Evidence:
    folder = Path(tempfile.mkdtemp(prefix="flowlens-"))
    store = Pieces(conversations.SCHEMA, folder)
    try:
        rolled: views.Rolled = views.LocalRolled(store)
        if run is not None:
            gathered, rolled = run(plan, selected, store, folder)
        elif selected.workspaces:
            gathered = _read_workspaces(selected.workspaces, plan, store, now)
        else:
            gathered = _run(plan, selected, store, folder)
        budget.give_back()
        evidence = _evidence(plan, selected, gathered, rolled, known, networks, scope, now)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(evidence.inventory.table, shutil.rmtree, folder, ignore_errors=True)
    return evidence


def _run(
    plan: Plan,
    selected: Selected,
    store: Pieces,
    folder: Path,
) -> Gathered:
    """All blobs read, a piece of work to a thread, summed in the order of their names."""
    items = selected.items
    pieces = units_of(items) if selected.flow_logs else [range(at, at + 1) for at in range(len(items))]
    units: list[range | KeptPart] = [*selected.kept, *pieces]
    meter = Meter(selected, plan.progress)
    gathered = Gathered()

    def work(unit: range | KeptPart) -> list[BlobResult]:
        taken = unit if isinstance(unit, KeptPart) else [items[at] for at in unit]
        if isinstance(taken, KeptPart) or selected.flow_logs:
            return read_flow_logs(taken, plan, meter, store, folder)
        return [_read_export(item, plan, meter, store) for item in taken]

    if plan.budget.threads == 1 or len(units) == 1:
        try:
            for unit in units:
                gathered.take(work(unit))
            return gathered
        finally:
            selected.close()
    pool = ThreadPoolExecutor(plan.budget.threads, thread_name_prefix="flowlens")
    try:
        for results in pool.map(work, units):
            gathered.take(results)
        return gathered
    except BaseException:
        # What still runs stops at its next chunk, so that an interrupt ends the program at once.
        meter.stop.set()
        raise
    finally:
        # First, since a thread that waits for a server would hold up the rest.
        selected.close()
        pool.shutdown(wait=True, cancel_futures=True)


def _evidence(
    plan: Plan,
    selected: Selected,
    gathered: Gathered,
    rolled: views.Rolled,
    known: pl.DataFrame | None,
    networks: Networks,
    scope: Scope | None,
    now: dt.datetime,
) -> Evidence:
    ledger = gathered.ledger
    ledger = replace(
        ledger,
        sources=len(plan.sources),
        unread=ledger.unread + selected.unread,
        notes=(*selected.notes, *selected.met(), *ledger.notes),
    )
    told = [*gathered.inventory, *([known] if known is not None else [])]
    read = _with_ids_of_empty_blobs(gathered.hours())
    known_rows = pl.concat(told) if told else None
    if known_rows is not None:
        keys = pl.concat(
            [read.select(v=inventory.vnet_key(pl.col("target_resource_id"))).unique()["v"], known_rows["vnet"]]
        )
        known_rows = inventory.qualify(
            known_rows, keys.drop_nulls().filter(keys.drop_nulls().str.contains("/")).to_list()
        )
    learned = inventory.learn(
        rolled.parts(), known=known_rows, networks=networks, forwarders=gathered.hops, logged=read
    )
    if known_rows is not None:
        ledger = replace(ledger, notes=(*ledger.notes, *inventory.unplaced(known_rows, learned)))
    covered = nic_hours.coverage(read, rolled.mentions(learned), learned, plan.window, now)
    parts = rolled.viewed(learned, covered)
    if scope is not None:
        parts, covered = scope.apply(parts, covered, learned)
    if restarted := gathered.restarted_ends:
        ledger = replace(ledger, restarted_bytes_in_doubt=bytes_in_doubt(pl.concat(restarted)))
    return Evidence(rolled.lazy(), parts, learned, covered, ledger, countries=one_each(gathered.countries))


def _with_ids_of_empty_blobs(read: pl.DataFrame) -> pl.DataFrame:
    """A blob without tuples names its flow log by its path alone; other blobs of that path tell the ids."""
    ids = (
        read.filter(pl.col("root").is_not_null(), pl.col("target_resource_id").is_not_null())
        .group_by("root")
        .agg(log=pl.col("flow_log_id").min(), target=pl.col("target_resource_id").min())
    )
    unnamed = pl.col("target_resource_id").is_null()
    return (
        read.join(ids, on="root", how="left", maintain_order="left")
        .with_columns(
            flow_log_id=pl.when(unnamed).then(pl.coalesce("log", "flow_log_id")).otherwise("flow_log_id"),
            target_resource_id=pl.coalesce("target_resource_id", "target"),
        )
        .drop("log", "target", "root")
    )
