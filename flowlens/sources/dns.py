"""Addresses of names, asked of a DNS server: what ``flowlens resolve`` writes for ``--names``.

Run it inside the virtual network: private endpoints and split DNS change the answers. Of each name all A and AAAA records are
asked for, along the whole chain of aliases. A name without an answer is a gap with its reason and never an empty answer.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from flowlens.catalog.names import COLUMNS as NAMES_COLUMNS
from flowlens.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from dns.message import QueryMessage

PORT = 53
COLUMNS = (*NAMES_COLUMNS, "canonical_name", "resolver")
"""The columns that ``resolve`` writes: those of a names file, and where the answer came from."""
KINDS = ("A", "AAAA")

_LONGEST_CHAIN = 16
_THREADS = 16
_HOST = re.compile(r"[A-Za-z0-9_*]([A-Za-z0-9_.-]{0,252})")


class Server(NamedTuple):
    """A DNS server: its address and port."""

    address: str
    port: int = PORT

    def __str__(self) -> str:
        return self.address if self.port == PORT else f"{self.address} port {self.port}"


class Found(NamedTuple):
    """One address of a name, asked for at ``seen``; ``canonical_name`` is the end of its chain of aliases."""

    name: str
    address: str
    seen: dt.datetime
    canonical_name: str
    resolver: str


class Gap(NamedTuple):
    """A name that has no address here, and why; ``answered`` where the server said so itself."""

    name: str
    reason: str
    answered: bool


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of all names: every one has addresses or is a gap."""

    found: tuple[Found, ...]
    gaps: tuple[Gap, ...]

    def table(self) -> pl.DataFrame:
        """What was found, a row per address, with COLUMNS.

        >>> Resolution((), ()).table().columns == list(COLUMNS)
        True
        """
        rows = [(f.name, f.address, f.seen, f.seen, f.canonical_name, f.resolver) for f in self.found]
        time = pl.Datetime("us", "UTC")
        kinds = (pl.String, pl.String, time, time, pl.String, pl.String)
        return pl.DataFrame(rows, schema=dict(zip(COLUMNS, kinds, strict=True)), orient="row")


class _NoAnswerError(Exception):
    """The server gave nothing that can be used; the text says what it did."""


class _NoAddressError(Exception):
    """The server answered that there is nothing."""


def parse_server(text: str) -> Server:
    """The server of ``ADDRESS``, ``ADDRESS:PORT`` or ``[IPV6]:PORT``.

    Raises ConfigError for anything else.

    >>> parse_server("10.0.0.4"), parse_server("[2001:db8::1]:5353")
    (Server(address='10.0.0.4', port=53), Server(address='2001:db8::1', port=5353))
    """
    written = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?|([0-9.]+)(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+)", text)
    try:
        if written is None:
            raise ValueError("neither an address nor one with a port")
        address = ipaddress.ip_address(written[1] or written[3] or written[5])
        port = int(written[2] or written[4] or PORT)
        if not 0 < port < 2**16:
            raise ValueError("no such port")
    except ValueError as error:
        hint = "write 10.0.0.4, 10.0.0.4:5353 or [2001:db8::1]:53"
        raise ConfigError(f"--server {text[:80]!r}", "is no address of a DNS server", hint=hint) from error
    return Server(str(address), port)


def system_servers() -> list[Server]:
    """The DNS servers that this machine is set up with, in its order.

    Raises SourceError where it has none.
    """
    import dns.exception
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver(configure=True)
        servers = [parse_server(str(server)) for server in resolver.nameservers]
    except (dns.exception.DNSException, ConfigError, OSError) as error:
        raise SourceError(
            "resolve", f"this machine names no DNS server: {error}", hint="name one with --server"
        ) from error
    if not servers:
        raise SourceError("resolve", "this machine names no DNS server", hint="name one with --server")
    return [Server(server.address, resolver.port) for server in servers]


def resolve_names(
    names: Iterable[str],
    servers: Sequence[Server],
    *,
    timeout: float = 5.0,
    time_limit: float = 120.0,
    now: dt.datetime | None = None,
) -> Resolution:
    """The addresses of names, asked of the first server that answers; ``timeout`` and ``time_limit`` are seconds.

    Names are asked for sixteen at a time. No query takes longer than ``timeout`` at one server, and none is begun
    after ``time_limit``; the names left then are gaps. Nothing is raised for what a server does.
    """
    import dns.resolver  # noqa: F401 - here once, and not in each thread at the same time

    wanted = list(dict.fromkeys(name.lower().rstrip(".") for name in names))
    deadline = time.monotonic() + time_limit
    seen = now or dt.datetime.now(dt.UTC).replace(microsecond=0)

    def ask(name: str) -> tuple[list[Found], Gap | None]:
        reasons = []
        for server in servers:
            try:
                found = dict(_addresses(name, server, timeout, deadline))
            except _NoAddressError as error:
                return [], Gap(name, str(error), answered=True)
            except _NoAnswerError as error:
                reasons.append(str(error))
                continue
            return [Found(name, address, seen, alias, str(server)) for address, alias in sorted(found.items())], None
        return [], Gap(name, "; ".join(dict.fromkeys(reasons)), answered=False)

    pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="dns")
    try:
        answers = list(pool.map(ask, wanted))
    finally:
        # Not waited for: after an interrupt a server that is silent would hold up the end.
        pool.shutdown(wait=False, cancel_futures=True)
    return Resolution(
        tuple(one for found, _ in answers for one in found), tuple(gap for _, gap in answers if gap is not None)
    )


def _addresses(name: str, server: Server, timeout: float, deadline: float) -> Iterator[tuple[str, str]]:
    """Addresses of a name with the end of its chain of aliases."""
    answered = False
    failure: _NoAnswerError | None = None
    for kind in KINDS:
        try:
            for address, canonical in _records(name, kind, server, timeout, deadline):
                answered = True
                yield address, canonical
        except _NoAnswerError as error:
            # Some servers fail for AAAA alone; the addresses of the other kind are good.
            failure = failure or error
    if not answered:
        raise failure or _NoAddressError("has no A or AAAA record")


def _records(name: str, kind: str, server: Server, timeout: float, deadline: float) -> Iterator[tuple[str, str]]:
    import dns.message
    import dns.name

    try:
        asked = dns.name.from_text(name)
    except (
        dns.name.LabelTooLong,
        dns.name.NameTooLong,
        dns.name.EmptyLabel,
        dns.name.BadEscape,
        UnicodeError,
    ) as error:
        raise _NoAddressError(f"is no name that DNS can hold: {type(error).__name__}") from error
    seen = set()
    for _ in range(_LONGEST_CHAIN):
        seen.add(asked)
        response = _query(asked.to_text(), kind, server, timeout, deadline)
        try:
            chain = response.resolve_chaining()
        except dns.message.ChainTooLong as error:
            raise _NoAnswerError(f"{server} answered with a loop of aliases") from error
        except dns.message.NotQueryResponse as error:
            raise _NoAnswerError(f"{server} answered with what is no answer") from error
        if chain.answer is not None:
            canonical = chain.canonical_name.to_text(omit_final_dot=True).lower()
            for record in chain.answer:
                yield str(ipaddress.ip_address(record.to_text())), canonical if _HOST.fullmatch(canonical) else ""
            return
        if chain.canonical_name == asked:
            return
        # The server left the rest of the chain to whoever asks.
        asked = chain.canonical_name
        if asked in seen:
            raise _NoAnswerError(f"{server} answered with a loop of aliases")
    raise _NoAnswerError(f"{server} answered with more than {_LONGEST_CHAIN} aliases in a row")


def _query(name: str, kind: str, server: Server, timeout: float, deadline: float) -> QueryMessage:
    """The answer to one question, over UDP, and over TCP where it is too long for that."""
    import dns.exception
    import dns.message
    import dns.query
    import dns.rcode

    left = min(timeout, deadline - time.monotonic())
    if left <= 0:
        raise _NoAnswerError("the time limit was over")
    question = dns.message.make_query(name, kind)
    try:
        response, _ = dns.query.udp_with_fallback(question, server.address, left, server.port)
    except dns.exception.Timeout as error:
        raise _NoAnswerError(f"{server} gave no answer in {left:.3g} s") from error
    except dns.query.BadResponse as error:
        raise _NoAnswerError(f"{server} answered another question than was asked") from error
    except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
        raise _NoAnswerError(f"{server} could not be asked: {_reason(error)}") from error
    code = response.rcode()
    if code == dns.rcode.NXDOMAIN:
        raise _NoAddressError("there is no such name")
    if code != dns.rcode.NOERROR:
        raise _NoAnswerError(f"{server} failed: {dns.rcode.to_text(code)}")
    if not isinstance(response, dns.message.QueryMessage):
        raise _NoAnswerError(f"{server} answered with what is no answer")
    return response


def _reason(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return told if told.isprintable() else type(error).__name__
