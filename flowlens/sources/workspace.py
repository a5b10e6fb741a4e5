"""Log Analytics workspaces: what ``workspace:GUID`` names, which identity asks it, and one query at a time.

An answer is taken only where it is whole: one that holds a part of the rows is `Cut`. Limits are judged by the response and
never by a number known here, since the documented ones differ from those that were met (Azure/azure-sdk-for-python#32282).
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import polars as pl

from flowlens.errors import ConfigError, FlowlensError, SourceError, near_matches
from flowlens.evidence import sample
from flowlens.sources.accounts import (
    CLOUDS,
    IDENTITIES,
    Access,
    checked_ca_file,
    quiet_loggers,
    session_for,
    sign_in,
)
from flowlens.sources.refusals import Context, declared, is_passing, redact, refusal, status_of

if TYPE_CHECKING:
    from azure.monitor.query import LogsQueryClient

SCHEME = "workspace:"
TABLES = ("NTANetAnalytics", "AzureNetworkAnalytics_CL")
"""What Traffic Analytics writes: rows of virtual network flow logs, and rows of the older NSG flow logs."""

ENDPOINTS = {
    "global": "https://api.loganalytics.io",
    "usgov": "https://api.loganalytics.us",
    "china": "https://api.loganalytics.azure.cn",
}
"""Where each cloud's query API is, which is also what its tokens are for (azure-monitor-query 2.0 and Azure China's documentation of
the request format)."""

QUERY_SECONDS = 180
"""How long the service may work on one query; its own default. What takes longer is asked in smaller parts."""
LONGEST_QUERY = 600
"""How long it may at most, for what can't be asked in smaller parts (Azure Monitor service limits, Query API)."""

_GUID = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = r"[\w.()-]*[\w()-]"
_RESOURCE = re.compile(
    rf"(?i)/subscriptions/[0-9a-f-]{{36}}/resourcegroups/{_NAME}/providers/{_NAME}(?:/{_NAME}/{_NAME})+", re.ASCII
)
# Words by which the service says that an answer would be too large, or that a query takes too long or too much memory, wherever
# in the error they stand (Azure/azure-sdk-for-java#29243, the Kusto documentation on query limits).
_TOO_LARGE = re.compile(
    r"E_QUERY_RESULT_SET_TOO_LARGE|result set (?:has exceeded|is too large)|ResponsePayloadTooLarge|ResponseSizeError",
    re.IGNORECASE,
)
_TOO_HEAVY = re.compile(
    r"E_RUNAWAY_QUERY|E_LOW_MEMORY_CONDITION|E_QUERY_TIMEOUT|QueryTimeout|query execution (?:time|has exceeded)|memory budget|"
    r"timed? ?out",
    re.IGNORECASE,
)
_CLOCK = "%Y-%m-%dT%H:%M:%S%.fZ"
_WHOLE = {"long": pl.Int64(), "int": pl.Int64(), "bool": pl.Boolean()}
_NOT_A_NUMBER = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}

Span = tuple[dt.datetime, dt.datetime]


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace by its id, or any resource by its ARM id, and which table is read; its text is the source as written.

    ``endpoint`` is where requests go.
    """

    key: str
    table: str
    cloud: str
    endpoint: str

    @property
    def is_resource(self) -> bool:
        """Whether it is asked by ARM id, in the context of a resource, rather than by workspace id."""
        return self.key.startswith("/")

    def __str__(self) -> str:
        return f"{SCHEME}{self.key}" + ("" if self.table == TABLES[0] else f"/{self.table}")


class Cut(Exception):  # noqa: N818
    """The answer is not all of it, or took too long; the same asked in parts may be.

    ``is_silence``: nothing came in time. ``is_heavy``: time or memory of the service did not suffice, so that rows have to be
    read in parts; where it is not set, those of the answer may be. ``is_changing``: there were more rows than a later count found.
    """

    def __init__(
        self, reason: str, *, is_silence: bool = False, is_heavy: bool = False, is_changing: bool = False
    ) -> None:
        super().__init__(reason)
        self.is_silence = is_silence
        self.is_heavy = is_heavy or is_silence
        self.is_changing = is_changing


def is_workspace(source: str) -> bool:
    """Whether a SOURCE names a workspace rather than files or a storage account.

    >>> is_workspace("workspace:11111111-2222-3333-4444-555555555555"), is_workspace("workspace")
    (True, False)
    """
    return source[: len(SCHEME)].lower() == SCHEME


def parse_workspace(source: str, access: Access) -> Workspace:
    """The workspace that ``workspace:GUID[/TABLE]`` or ``workspace:/subscriptions/...[/TABLE]`` names.

    Raises ConfigError for anything else.

    >>> str(parse_workspace("workspace:11111111-2222-3333-4444-55555555555A/azurenetworkanalytics_cl", Access()))
    'workspace:11111111-2222-3333-4444-55555555555a/AzureNetworkAnalytics_CL'
    """
    shown = redact(source)
    key = source[len(SCHEME) :].strip().rstrip("/")
    tables = {name.lower(): name for name in TABLES}
    head, _, last = key.rpartition("/")
    table = tables.get(last.lower()) if head else None
    if table is not None:
        key = head
    elif head and _GUID.fullmatch(head):
        raise declared("FL-W01", shown, f"{last} is no table of Traffic Analytics ({near_matches(last, TABLES)})")
    if not _GUID.fullmatch(key) and not _RESOURCE.fullmatch(key):
        raise declared("FL-W01", shown, "names no workspace")
    if access.auth not in IDENTITIES:
        raise declared("FL-W02", shown, access.auth)
    cloud = access.cloud or "global"
    # The one option names an endpoint of either kind; storage's are known by their names.
    own = access.account_url if access.account_url and ".blob." not in access.account_url else None
    endpoint = own or ENDPOINTS[cloud]
    if not endpoint.startswith("https://"):
        raise declared("FL-S02", shown)
    return Workspace(key if key.startswith("/") else key.lower(), table or TABLES[0], cloud, endpoint.rstrip("/"))


def default_window(now: dt.datetime) -> Span:
    """The 24 hours up to the last full hour that Traffic Analytics has surely written: its interval and an hour ago.

    >>> default_window(dt.datetime(2026, 1, 2, 9, 30, tzinfo=dt.UTC))[1].isoformat()
    '2026-01-02T07:00:00+00:00'
    """
    end = now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=2)
    return end - dt.timedelta(hours=24), end


@dataclass(frozen=True, slots=True)
class Answer:
    """All rows of one query as they came, with the service's names and types of columns, and their bytes on the way.

    ``where`` is what was asked. The rows are text still, since as objects they would take five times the memory.
    """

    where: str
    columns: Sequence[Mapping[str, str]]
    rows: Sequence[msgspec.Raw]
    bytes: int

    def cells(self) -> list[list[Any]]:
        """The rows as objects, for an answer of a few; raises SourceError where one is no list."""
        try:
            return [_ROW.decode(row) for row in self.rows]
        except (ValueError, RecursionError) as error:
            raise self._unreadable(error) from None

    def frame(self, wanted: Mapping[str, pl.DataType] | None = None) -> pl.DataFrame:
        """The rows as columns; only those ``wanted``, in these types and without null, where any are named.

        Raises SourceError where they are not of the types that the service names, or not what is wanted. Not for a thread that may
        outlive the program: what is written in other languages does not survive its end.
        """
        try:
            parts = [
                frame_of(self.columns, [_ROW.decode(row) for row in self.rows[at : at + _BATCH]])
                for at in range(0, max(1, len(self.rows)), _BATCH)
            ]
            frame = pl.concat(parts)
            if wanted:
                frame = frame.select(pl.col(name).cast(dtype) for name, dtype in wanted.items())
                if any(frame.null_count().row(0)):
                    raise ValueError("a cell is empty")
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, pl.exceptions.PolarsError) as error:
            raise self._unreadable(error) from None
        return frame

    def _unreadable(self, error: Exception) -> FlowlensError:
        return declared("FL-W14", self.where, f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Connection:
    """A workspace that can be asked, and who asks; threads may share it. ``identity`` says who in words."""

    workspace: Workspace
    client: LogsQueryClient = field(repr=False)
    identity: str
    timeout: float

    def ask(self, query: str, span: Span, *, seconds: int = QUERY_SECONDS, at_most: int | None = None) -> Answer:
        """The whole answer to ``query`` over rows whose TimeGenerated lies in ``span``, asked once.

        The service may work on it for ``seconds``; an answer of more than ``at_most`` bytes is not read to its end, and Cut.
        Raises Cut where it is not all of it, the library's own error where asking again can help, and SourceError as the table
        of `flowlens.sources.refusals` says.
        """
        from azure.core.exceptions import AzureError, HttpResponseError
        from azure.monitor.query import LogsQueryStatus

        if span[0] >= span[1] or None in (span[0].tzinfo, span[1].tzinfo):
            # An empty time span would be left out of the request, which then asks for everything there is.
            raise ValueError(f"a query needs two times with a zone, the first before the second, found {span}")
        taken = _Taken(at_most)
        ask = self.client.query_resource if self.workspace.is_resource else self.client.query_workspace
        try:
            result = ask(
                self.workspace.key,
                query,
                timespan=span,
                server_timeout=seconds,
                # The service says nothing while it works on a query.
                read_timeout=seconds + self.timeout,
                stream=True,
                cls=taken.take,
                raw_response_hook=taken.see,
            )
        except AzureError as error:
            raise self._judged(error) from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            if taken.response is not None and taken.response.status_code != 200:
                # The library expects JSON from a gateway that writes HTML.
                raise self._judged(HttpResponseError(response=taken.response)) from None
            raise declared("FL-W14", str(self.workspace), f"{type(error).__name__}: {error}") from None
        if result.status != LogsQueryStatus.SUCCESS:
            raise Cut(taken.reason or "only a part of the rows", is_heavy=bool(_TOO_HEAVY.search(taken.reason)))
        return taken.answer(str(self.workspace))

    def _judged(self, error: Exception) -> Exception:
        """Cut, the error itself where asking again can help, else the declared error behind it."""
        status = status_of(error)
        body = body_of(error)
        text = " ".join(_words(body))
        if not status:
            if _is_silence(error):
                return Cut("no answer in time", is_silence=True)
            return error if is_passing(error) else self.told(error)
        heavy = bool(status != 413 and _TOO_HEAVY.search(text) and not _TOO_LARGE.search(text))
        if status in (413, 504) or (status != 429 and (heavy or _TOO_LARGE.search(text))):
            return Cut(f"{status} {_last_code(body)}".strip(), is_silence=status == 504, is_heavy=heavy)
        return error if is_passing(error) else self.told(error)

    def told(self, error: Exception) -> FlowlensError:
        """The declared error behind what the library raised."""
        where, status, body = str(self.workspace), status_of(error), body_of(error)
        codes, text = set(_codes(body)), " ".join(_words(body))
        identity = self.identity or "this identity"
        if isinstance(error, SourceError | ConfigError):
            return error
        if status == 429:
            return declared("FL-W11", where)
        if codes & {"InvalidTokenError", "AuthorizationRequiredError", "InvalidTenantError"} or status == 401:
            return declared("FL-W07", where)
        if status == 403:
            return declared("FL-W04", where, identity=identity)
        if status == 404 or codes & {"WorkspaceNotFoundError", "PathNotFoundError", "ResourceNotFoundError"}:
            return declared("FL-W03", where)
        if "UnsupportedApiQueryValidationError" in codes or re.search(r"(?i)basic logs|auxiliary logs", text):
            return declared("FL-W06", where, self.workspace.table)
        if re.search(rf"(?i)failed to resolve[^.]*'{self.workspace.table}'", text):
            return declared("FL-W05", where, self.workspace.table)
        if status and status < 500 and status not in (407, 408) and not 300 <= status < 400:
            words = list(_words(body))
            return declared("FL-W08", where, f"{status} {_last_code(body)} {words[-1][:200] if words else ''}".strip())
        if status >= 500:
            return declared("FL-W10", where, f"{status} {_last_code(body)}".strip())
        host = urlsplit(self.workspace.endpoint).netloc
        general = refusal(error, Context(where, host, "token", identity, "the workspace", self.timeout))
        if general.problem.startswith(("FL-S16", "FL-S17")):
            return declared("FL-W13", where, host)
        if general.problem.startswith(("FL-S22", "FL-S31")):
            return declared("FL-W10", where, type(error).__name__)
        return general


def connect(workspace: Workspace, access: Access, *, connections: int = 8) -> Connection:
    """The workspace, ready to be asked, with the identity that ``access`` asks for; a token is fetched at once.

    Raises SourceError where no identity is found in time.
    """
    from azure.core.pipeline.transport import RequestsTransport
    from azure.monitor.query import LogsQueryClient

    quiet_loggers()
    ca_file = checked_ca_file(access.ca_file)
    audience = ENDPOINTS[workspace.cloud]
    signed_in = sign_in(access, CLOUDS[workspace.cloud], audience, str(workspace), ca_file)
    session = session_for(workspace.endpoint, ca_file, connections=connections)
    transport = RequestsTransport(
        session=session,
        use_env_settings=False,
        connection_timeout=min(10.0, access.timeout),
        connection_verify=session.verify,
        connection_data_block_size=1 << 20,
    )
    client = LogsQueryClient(
        signed_in.credential,
        endpoint=workspace.endpoint,
        audience=audience,
        transport=transport,
        # Retries are this package's own, bounded in time; a redirect could carry the credential elsewhere.
        retry_total=0,
        permit_redirects=False,
        proxies=dict(session.proxies),
        user_agent="flowlens",
    )
    return Connection(workspace, client, signed_in.identity, access.timeout)


class _Table(msgspec.Struct):
    """A table of an answer; what its rows hold is looked at later, a batch at a time."""

    name: str | None = None
    columns: list[dict[str, str]] | None = None
    rows: list[msgspec.Raw] | None = None


class _Document(msgspec.Struct):
    """An answer: tables, and an error where they hold a part of the rows only."""

    tables: list[_Table] | None = None
    error: object = None


class _Taken:
    """The rows of an answer as they came: the library would make three objects of each cell on its way."""

    def __init__(self, at_most: int | None) -> None:
        self.response: Any = None
        self.reason = ""
        self._at_most = at_most
        self._tables: list[_Table] = []
        self._bytes = 0

    def see(self, response: Any) -> None:
        """Keep the response, of which the library's errors do not always tell."""
        self.response = response.http_response

    def take(self, response: Any, _pieces: Any, _headers: Any) -> dict[str, Any]:
        """What the library is given in the place of the document: the same without tables."""
        content = bytearray()
        for chunk in response.http_response.iter_bytes():
            content += chunk
            if self._at_most is not None and len(content) > self._at_most:
                response.http_response.close()
                raise Cut(f"more than {self._at_most / 1e6:.0f} MB, the share of one answer in the memory limit")
        document = _DOCUMENT.decode(content)
        self._bytes = len(content)
        self._tables = document.tables or []
        error = document.error
        if error:
            body = {"error": error}
            self.reason = " ".join(filter(None, (_last_code(body), *list(_words(body))[-1:])))[:200]
        return {"error": error} if error else {}

    def answer(self, where: str) -> Answer:
        primary = [table for table in self._tables if table.name == "PrimaryResult"] or self._tables[:1]
        if not primary or primary[0].rows is None:
            raise declared("FL-W14", where, "no table in it")
        return Answer(where, primary[0].columns or (), primary[0].rows, self._bytes)


_DOCUMENT = msgspec.json.Decoder(_Document)
_ROW = msgspec.json.Decoder(list[Any])
_BATCH = 4096


def frame_of(columns: Sequence[Mapping[str, str]], rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Rows of JSON as columns of the types that the service names: long, int, real, bool, datetime; all else is text.

    Raises ValueError for a row of another width and for a time that is none.

    >>> frame_of([{"name": "n", "type": "long"}, {"name": "s", "type": "string"}], [[1, "a"]]).rows()
    [(1, 'a')]
    """
    for width in {len(row) for row in rows}:
        if width != len(columns):
            raise ValueError(f"expected {len(columns)} cells, found {width}")
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    return pl.DataFrame(
        [
            _column(column["name"], column.get("type", "string"), list(c))
            for column, c in zip(columns, cells, strict=True)
        ]
    )


def _column(name: str, kind: str, cells: list[Any]) -> pl.Series:
    if kind in _WHOLE:
        return pl.Series(name, cells, dtype=_WHOLE[kind])
    if kind in ("real", "decimal"):
        # JSON has no such numbers, so the service writes words.
        numbers = [_NOT_A_NUMBER.get(cell, cell) if isinstance(cell, str) else cell for cell in cells]
        return pl.Series(name, [None if n is None else float(n) for n in numbers], dtype=pl.Float64)
    if kind == "datetime":
        text = pl.Series(name, cells, dtype=pl.String)
        times = text.str.to_datetime(_CLOCK, time_unit="us", time_zone="UTC", strict=False)
        if times.null_count() != text.null_count():
            raise ValueError(f"a time of {name} that is none")
        return times
    return pl.Series(name, [c if c is None or isinstance(c, str) else json.dumps(c) for c in cells], dtype=pl.String)


def body_of(error: BaseException) -> object:
    """The JSON document that came with an error; None where there is none."""
    response = getattr(error, "response", None)
    try:
        return json.loads(response.text()) if response is not None else None
    except (ValueError, RecursionError, AttributeError, OSError):
        return None


def _errors(body: object) -> Iterator[Mapping[str, object]]:
    """An error of the service and those inside it, the outermost first."""
    level = body.get("error") if isinstance(body, dict) else None
    for _ in range(16):
        if not isinstance(level, dict):
            return
        yield level
        details = level.get("details")
        level = level.get("innererror") or (details[0] if isinstance(details, list) and details else None)


def _codes(body: object) -> list[str]:
    return [sample(str(level["code"])) for level in _errors(body) if level.get("code")]


def _last_code(body: object) -> str:
    return (_codes(body) or [""])[-1]


def _words(body: object) -> Iterator[str]:
    return (sample(str(level["message"])) for level in _errors(body) if level.get("message"))


def _is_silence(error: BaseException) -> bool:
    # By name, since older versions of the library have no class for it.
    return type(error).__name__ == "ServiceResponseTimeoutError" or "Read timed out" in str(error)
