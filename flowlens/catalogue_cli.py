"""The commands of the catalogue: profiles, service tags, names."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowlens.errors import ConfigError, near_matches
from flowlens.options import DONE, INCOMPLETE, CatalogueCloud, Placeholders
from flowlens.outputs.saying import say

if TYPE_CHECKING:
    from flowlens.catalog import ServiceTags
    from flowlens.outputs.page import Page

_UNFOLDED = 100_000

profiles_app = typer.Typer(no_args_is_help=True, help="The endpoints that Azure services need.")
tags_app = typer.Typer(no_args_is_help=True, help="Azure service tags; works offline.")


def known_cloud(cloud: str) -> str:
    """The cloud; raises ConfigError, with near matches, for any other word."""
    from flowlens.catalog.tags import CLOUDS

    if cloud not in CLOUDS:
        raise ConfigError(f"--cloud {cloud}", "is not a cloud", hint=near_matches(cloud, CLOUDS))
    return cloud


def told_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Lines with their styles on stdout."""
    from flowlens.outputs.delivery import standard_output

    with standard_output():
        page = page_of_output()
        for line, style in lines:
            page.line(line, style)


def page_of_output() -> Page:
    """A page on stdout: folded for a reader, whole for a program."""
    from flowlens.outputs.page import Page

    return Page(sys.stdout, width=None if sys.stdout.isatty() else _UNFOLDED)


@profiles_app.command("list")
def profiles_list() -> None:
    """All profiles with their clouds, requirements and dates.

    Example: flowlens profiles list
    """
    from flowlens.catalog import load_profile, profile_names
    from flowlens.outputs import catalogue
    from flowlens.outputs.delivery import standard_output

    with standard_output():
        catalogue.profiles([load_profile(name) for name in profile_names()], page_of_output())


@profiles_app.command("show")
def profiles_show(
    name: Annotated[str, typer.Argument(help="Profile name or file.", metavar="PROFILE")],
    cloud: CatalogueCloud = "global",
) -> None:
    """One profile's requirements with their endpoints.

    Example: flowlens profiles show windows-kms
    """
    from flowlens.catalog import load_profile
    from flowlens.outputs import catalogue

    told_lines(catalogue.profile(load_profile(name), known_cloud(cloud)))


@tags_app.command("show")
def tags_show(
    name: Annotated[str | None, typer.Argument(help="Tag; without one, the names of all tags.", metavar="TAG")] = None,
    cloud: CatalogueCloud = "global",
) -> None:
    """The prefixes of a service tag, or the names of all tags.

    Example: flowlens tags show AzureMonitor
    """
    from flowlens.catalog import load_tags

    tags = load_tags(known_cloud(cloud))
    told_lines((line, "") for line in (tags.prefixes(name) if name else tags.names))
    _dated(tags)


@tags_app.command("lookup")
def tags_lookup(
    addresses: Annotated[list[str], typer.Argument(help="Addresses.", metavar="IP")],
    cloud: CatalogueCloud = "global",
) -> None:
    """The service tags that hold an address, the most specific first.

    Example: flowlens tags lookup 20.118.99.224
    """
    import polars as pl

    from flowlens.catalog import load_tags

    tags = load_tags(known_cloud(cloud))
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise ConfigError(f"tags lookup {address}", "is no address", hint="write 20.118.99.224") from error
    rows = tags.identify(pl.Series(addresses, dtype=pl.String)).iter_rows(named=True)
    told_lines((f"{row['address']}: {', '.join(row['service_tags'] or ()) or 'no service tag'}", "") for row in rows)
    _dated(tags)


@tags_app.command("update")
def tags_update(
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="The published JSON, e.g. ServiceTags_Public_20260720.json."),
    ] = None,
    subscription: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Ask Azure Resource Manager, as one who may read this subscription."),
    ] = None,
    location: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where to ask; each answers for its whole cloud.")
    ] = None,
    cloud: Annotated[str | None, typer.Option(metavar="CLOUD", help="Which to ask: global, usgov or china.")] = None,
    auth: Annotated[
        str, typer.Option(metavar="WAY", help="Who asks: default, cli, managed-identity or environment.")
    ] = "default",
    management_url: Annotated[
        str | None, typer.Option(metavar="URL", help="An endpoint of your own to ask instead.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file with the certificates to trust instead.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long the endpoint may stay silent.")] = 30.0,
) -> None:
    """Put newer service tags in the place of those at hand, once all of them have been checked.

    They come from a published file, or from Azure Resource Manager with the credential of who is signed in.

    Example: flowlens tags update --file ServiceTags_Public_20260720.json
    """
    from flowlens.catalog import load_tags
    from flowlens.catalog.tags import packed, read_answer, read_update, stored_file
    from flowlens.outputs.tables import atomic
    from flowlens.sources.accounts import Access
    from flowlens.sources.management import ask_for_tags

    if file is not None and subscription is None:
        for name, value in (("--location", location), ("--cloud", cloud), ("--management-url", management_url)):
            if value is not None:
                raise ConfigError(name, "belongs to --subscription; a file tells its cloud itself")
        tags = read_update(file)
    elif subscription is not None and file is None:
        chosen = known_cloud(cloud or "global")
        access = Access(auth, chosen, ca_file=ca_file, timeout=timeout)
        answer = ask_for_tags(subscription, access, cloud=chosen, location=location, endpoint=management_url)
        tags = read_answer(answer.data, cloud=chosen, where=answer.where)
        say(f"asked {answer.where} as {answer.identity}; it may lag the published file by up to four weeks")
    else:
        raise ConfigError("tags update", "expected one of --file and --subscription")
    before = load_tags(tags.cloud)
    target = stored_file(tags.cloud)
    with atomic(target) as stored:
        stored.write(packed(tags))
    told = f"{tags.cloud}: {len(tags.names)} service tags of {tags.date}"
    say(f"{told} in the place of {len(before.names)} of {before.date}, in {target}")


def resolve(
    profiles: Annotated[list[str], typer.Argument(help="Profile names or files.", metavar="PROFILE")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write: names.csv.")],
    cloud: Annotated[
        str | None, typer.Option(metavar="CLOUD", help="global, usgov or china. Default: that of flowlens.toml.")
    ] = None,
    placeholders: Placeholders = None,
    names: Annotated[
        Path | None, typer.Option("--names", metavar="FILE", help="DNS or firewall log with names for the patterns.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="DNS server to ask. Default: this machine's own.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="How long one server may take.")
    ] = 5.0,
    time_limit: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=86_400, help="How long all of it may take.")
    ] = 120.0,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="flowlens.toml with placeholders and cloud.")
    ] = None,
) -> None:
    """The addresses of the names that profiles list, asked of a DNS server; run it inside the virtual network.

    Example: flowlens resolve windows-kms -o names.csv
    """
    from flowlens.catalog import load_profile, read_names
    from flowlens.catalog.expansion import names_of
    from flowlens.catalog.placeholders import chosen_settings
    from flowlens.config import read_config
    from flowlens.outputs.tables import atomic, write_csv
    from flowlens.sources.dns import parse_server, resolve_names, system_servers

    settings = read_config(config)
    loaded = [load_profile(name) for name in profiles]
    filling = chosen_settings(placeholders or (), settings.placeholders, loaded)
    known = read_names(names) if names else None
    wanted, patterns = names_of(loaded, known_cloud(cloud or settings.cloud), filling, known)
    servers = [parse_server(server)] if server else system_servers()
    resolution = resolve_names(wanted, servers, timeout=timeout, time_limit=time_limit)
    if resolution.found:
        with atomic(output) as file:
            write_csv(resolution.table(), file)
    for gap in resolution.gaps:
        say(f"{gap.name}: {gap.reason}")
    for pattern in patterns:
        say(f"{pattern}: is a pattern; --names with a DNS or firewall log tells which names fit")
    count = f"{len(resolution.found)} address(es) of {len({one.name for one in resolution.found})} name(s)"
    # A list from before is worth more than an empty one.
    told = f"wrote {output}: {count}" if resolution.found else f"no address was found, so {output} was not written"
    say(f"{told}; {len(resolution.gaps)} name(s) without an address, {len(patterns)} pattern(s)")
    raise typer.Exit(INCOMPLETE if any(not gap.answered for gap in resolution.gaps) or not wanted else DONE)


def _dated(tags: ServiceTags) -> None:
    """The snapshot's date, on stderr, and what to do where it is old."""
    say(f"{tags.cloud}, service tags of {tags.date}")
    if tags.stale():
        say("warning: older than 30 days; see flowlens tags update --help")
