"""The commands of the lake: `flowlens sync` and `flowlens lake`."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from flowlens.errors import ConfigError, SourceError
from flowlens.options import (
    DONE,
    INCOMPLETE,
    ROWS_SHOWN,
    AccountUrl,
    Auth,
    CaFile,
    Cloud,
    Cluster,
    Engine,
    Master,
    Timeout,
    cluster_of,
    option,
    window_option,
)
from flowlens.outputs.saying import say

if TYPE_CHECKING:
    from flowlens.lake.syncing import Far, Polled
    from flowlens.sources.accounts import Access
    from flowlens.sources.delta import Lake

lake_app = typer.Typer(no_args_is_help=True, help="The lake that flowlens sync keeps.")
_NOTES_SHOWN = 20

_Lake = Annotated[
    str,
    typer.Argument(
        help="The lake: a folder, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH or az://CONTAINER/PATH.",
        metavar="LAKE",
    ),
]
_LakeAuth = Annotated[
    str,
    option(
        "Lake in an account",
        "WAY",
        "Who writes the lake: default, cli, managed-identity or environment, unless FLOWLENS_LAKE_KEY or "
        "FLOWLENS_LAKE_SAS_TOKEN is set.",
        "--lake-auth",
    ),
]


def opener(text: str, access: Access) -> Callable[[bool], Lake]:
    """Opens the lake ``text``, each time with a credential that is fresh; the argument says whether to make it."""
    from flowlens.sources.accounts import IDENTITIES
    from flowlens.sources.delta import open_lake
    from flowlens.sources.lake_places import locate_lake

    if access.auth not in IDENTITIES:
        raise ConfigError(f"--lake-auth {access.auth}", "is not an identity", hint=f"known: {', '.join(IDENTITIES)}")

    def open_it(create: bool) -> Lake:
        return open_lake(locate_lake(text, access), create=create)

    return open_it


@contextmanager
def _far(cluster: Cluster | None, lake: str, access: Access, lake_access: Access) -> Iterator[Far | None]:
    """Who reads in the place of this process, for as long as the block runs."""
    if cluster is None:
        yield None
        return
    from flowlens.spark_lake import far_on
    from flowlens.spark_sessions import session

    with session(cluster.master) as spark:
        yield far_on(spark, lake, access, lake_access)


def sync(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="https://ACCOUNT.blob.core.windows.net/CONTAINER, or folders of blobs in the container's layout.",
            metavar="STORAGE",
        ),
    ],
    lake: _Lake,
    go_on: Annotated[bool, typer.Option("--follow/--once", help="Poll each minute, or once. Default: once.")] = False,
    start: Annotated[
        str | None, window_option("TIME", "Only hours from this time on: ISO 8601 with zone, or 24h, 7d.", "--start")
    ] = None,
    end: Annotated[str | None, window_option("TIME", "Only hours up to this time.", "--end")] = None,
    lake_auth: _LakeAuth = "default",
    auth: Auth = "default",
    cloud: Cloud = None,
    account_url: AccountUrl = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
    engine: Engine = "local",
    master: Master = None,
) -> None:
    """Keep a Delta table of flow tuples up to date: each committed block is read once, whatever happens in between.

    With --engine spark the executors of a cluster read and write; the lake is the same, and either goes on with it.

    Example: flowlens sync sample_logs lake
    """
    from flowlens.evidence import Window
    from flowlens.lake.syncing import Sync, follow
    from flowlens.outputs.lake import poll_line
    from flowlens.outputs.progress import progress_on
    from flowlens.sources.accounts import Access
    from flowlens.sources.stores import stores
    from flowlens.windows import parse_window

    cluster = cluster_of(engine, master, None)
    access = Access(auth, cloud, account_url, ca_file, timeout)
    first, last = parse_window(start, end, None, zone=None, now=dt.datetime.now(dt.UTC))
    lake_access = replace(access, auth=lake_auth, account_url=None)
    open_it = opener(lake, lake_access)
    told: set[str] = set()

    def tell(polled: Polled) -> None:
        # What is said at each poll would bury what is new.
        for note in [note for note in polled.notes if note not in told][:_NOTES_SHOWN]:
            say(note)
        told.update(polled.notes)
        say(poll_line(polled))

    def complain(error: SourceError) -> None:
        say(f"{dt.datetime.now(dt.UTC):%H:%M:%S}Z could not poll, trying again: {error.where}: {error.problem}")

    with _far(cluster, lake, access, lake_access) as far:
        running = Sync(
            stores(sources, access),
            lambda: open_it(True),
            window=Window(first, last),
            progress=progress_on(sys.stderr),
            far=far,
        )
        try:
            if go_on:
                follow(running, tell, complain)
            polled = running.poll()
            tell(polled)
        finally:
            running.close()
    if not polled.listed:
        say("nothing was selected")
    raise typer.Exit(DONE if polled.listed and polled.ledger.complete and not polled.unread else INCOMPLETE)


@lake_app.command("status")
def status(
    lake: _Lake,
    format: Annotated[str | None, typer.Option(metavar="FORMAT", help="table, json, csv or parquet.")] = None,  # noqa: A002
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Write here.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Days on the terminal.", **ROWS_SHOWN)] = 40,
    lake_auth: _LakeAuth = "default",
) -> None:
    """What is in it, day by day: blobs, rows, rejects, and whether every byte is accounted for.

    Example: flowlens lake status lake
    """
    from flowlens.lake import care
    from flowlens.outputs.delivery import deliver, target_of
    from flowlens.outputs.lake import render_status, write_status
    from flowlens.sources.accounts import Access

    target = target_of(format, output)
    found = care.status(opener(lake, Access(lake_auth))(False))
    deliver(
        target,
        render=lambda page, most: render_status(found, page, limit=most),
        write=lambda file: write_status(found, target.face, file),
        tables={"lake": found.days},
        limit=limit,
        zone=None,
    )


@lake_app.command("compact")
def compact(lake: _Lake, lake_auth: _LakeAuth = "default") -> None:
    """Put small files together, each table in one commit; a sync may go on meanwhile.

    Example: flowlens lake compact lake
    """
    from flowlens.lake import care
    from flowlens.sources.accounts import Access

    before, after = care.compact(opener(lake, Access(lake_auth))(False))
    say(f"{before} file(s) became {after}; the old ones stay until flowlens lake vacuum, for those who read them now")


@lake_app.command("vacuum")
def vacuum(
    lake: _Lake,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Remove files unused for so long: 7d; at least 24h.")
    ] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    lake_auth: _LakeAuth = "default",
) -> None:
    """Remove files that no version in use needs: replaced by compaction, or left behind by a sync that was ended.

    Example: flowlens lake vacuum lake --dry-run
    """
    from flowlens.lake import care
    from flowlens.sources.accounts import Access

    removed = care.vacuum(opener(lake, Access(lake_auth))(False), care.parse_age(older_than), dry_run=dry_run)
    say(f"{len(removed)} file(s) {'would be removed' if dry_run else 'removed'}")
