"""Ranges of blobs, their blocks and pages of a list, each by one plain GET with the account's credential.

What is asked for a few times goes through azure-storage-blob. Its download takes 2.5 ms of CPU however small the blob is, more than
decoding a small one, as much as its list of blocks, and its list 0.2 ms for each name; a request put together here takes a fraction of that
(``python -m bench.storage``). Connections, proxies and trust are those of the same session.
"""

from __future__ import annotations

import base64
import hmac
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from flowlens.sources.exchanges import asked

if TYPE_CHECKING:
    import requests
    from urllib3.connectionpool import HTTPConnectionPool

_PIECE = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_ERROR_BYTES = 1 << 14
_EARLY = 300
"""Seconds before its end from which on another token is asked for."""
_LATE = 30
"""Seconds before its end from which on a token is no longer used, and between two tries to get another."""

Headers = dict[str, str]
Authorize = Callable[[str, Mapping[str, str], Headers], str]
"""Puts a credential on a GET: takes its path and parameters, adds to its headers, gives path and query as it is asked with."""


class Opened(NamedTuple):
    """An answer that gives the bytes asked for: its headers, and its body as it comes."""

    headers: Mapping[str, str]
    pieces: Iterator[bytes]


class Tokens:
    """A credential that keeps the token it has given until shortly before its end; threads and azure-core share it.

    Some credentials start a program for each token.
    """

    def __init__(self, credential: Any) -> None:
        self._credential = credential
        self._token: Any = None
        self._again = 0.0
        self._asked: tuple[tuple[str, ...], dict[str, Any]] = ((), {})
        self._lock = threading.Lock()

    def get_token(self, *scopes: str, **more: Any) -> Any:
        """A token as azure-core asks for one; what is asked for last, such as the account's own tenant, is kept."""
        with self._lock:
            if self._differs(scopes, more):
                self._token = None
            self._asked = (scopes, more)
            return self._valid()

    def __call__(self, path: str, parameters: Mapping[str, str], headers: Headers) -> str:
        """Authorize a request."""
        with self._lock:
            headers["Authorization"] = f"Bearer {self._valid().token}"
        return _with_query(path, parameters)

    def renew(self, refused: str) -> None:
        """Give another token than that of the header ``refused`` from now on."""
        with self._lock:
            if self._token is not None and refused == f"Bearer {self._token.token}":
                self._token = None

    def _differs(self, scopes: tuple[str, ...], more: Mapping[str, Any]) -> bool:
        before = self._asked
        return scopes != before[0] or any(more.get(name) != before[1].get(name) for name in ("tenant_id", "claims"))

    def _valid(self) -> Any:
        now = time.time()
        if self._token is None or now > max(self._token.expires_on - _EARLY, self._again):
            scopes, more = self._asked
            try:
                self._token = self._credential.get_token(*scopes, **more)
            except Exception:
                if self._token is None or now > self._token.expires_on - _LATE:
                    raise
                # What is there serves for minutes yet, and most failures pass.
                self._again = now + _LATE
        return self._token


def by_signature(sas: str) -> Authorize:
    """A shared access signature, which stands in the address."""
    return lambda path, parameters, _headers: _with_query(path, parameters, sas.lstrip("?"))


def by_key(account: str, key: str) -> Authorize:
    """Microsoft's page "Authorize with Shared Key" (REST API of storage services, read 2026), for a GET."""
    # hmac.digest would let go of the interpreter, which takes longer to get back where another thread decodes than the digest does.
    begun = hmac.new(base64.b64decode(key), digestmod="sha256")

    def authorize(path: str, parameters: Mapping[str, str], headers: Headers) -> str:
        own = sorted((name.lower(), value) for name, value in headers.items() if name.lower().startswith("x-ms-"))
        lines = ["GET", *[""] * 7, headers.get("If-Match", ""), "", "", ""]
        lines += [f"{name}:{value}" for name, value in own]
        text = "\n".join([*lines, f"/{account}{path}", *(f"{name}:{parameters[name]}" for name in sorted(parameters))])
        signature = begun.copy()
        signature.update(text.encode())
        headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(signature.digest()).decode()}"
        return _with_query(path, parameters)

    return authorize


def _with_query(path: str, parameters: Mapping[str, str], *more: str) -> str:
    query = "&".join([*([urlencode(parameters, quote_via=quote, safe="")] if parameters else []), *more])
    return f"{path}?{query}" if query else path


def authorize_by(credential: Any) -> Authorize:
    """The way of a credential as the client library takes it: `Tokens`, account name and key, or a signature."""
    if isinstance(credential, Tokens):
        return credential
    if isinstance(credential, dict):
        return by_key(credential["account_name"], credential["account_key"])
    return by_signature(credential.signature)


@dataclass(frozen=True, slots=True)
class PlainReads:
    """How the blobs of one container are read; holds a credential and shows none.

    ``origin`` stands before the path where a proxy takes plain http, else it is empty.
    """

    pool: HTTPConnectionPool = field(repr=False)
    path: str
    origin: str
    authorize: Authorize = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeouts: tuple[float, float]

    def range(self, key: str, start: int, length: int, etag: str) -> AbstractContextManager[Opened]:
        """The bytes [start, start + length) of the blob ``key``, of the version ``etag`` only, as they come.

        Raises azure.core's HttpResponseError where the account refuses, and its other errors where it can't be reached.
        """
        return self._opened(self._path_of(key), {}, _range_headers(start, length, etag))

    def request(self, key: str, start: int, length: int, etag: str) -> tuple[str, Headers]:
        """What ``range`` asks with, for another process to ask: path with query, and headers, which hold a credential for minutes."""
        return self._signed(self._path_of(key), {}, _range_headers(start, length, etag))

    @property
    def direct(self) -> bool:
        """Whether no proxy stands between, of whatever kind."""
        from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

        plain = type(self.pool) in (HTTPConnectionPool, HTTPSConnectionPool)
        return plain and not self.origin and self.pool.proxy is None

    def blocks(self, key: str) -> AbstractContextManager[Opened]:
        """The list of the committed blocks of the blob ``key``, as XML; raises as ``range`` does."""
        return self._opened(self._path_of(key), {"comp": "blocklist", "blocklisttype": "committed"}, {})

    def page(self, prefix: str, marker: str, most: int) -> AbstractContextManager[Opened]:
        """A page of the list of blobs whose names begin with ``prefix``, from ``marker`` on, as XML; raises as ``range`` does."""
        asked = {"restype": "container", "comp": "list", "maxresults": str(most), "prefix": prefix, "marker": marker}
        return self._opened(self.path, {name: value for name, value in asked.items() if value}, {})

    def _path_of(self, key: str) -> str:
        # An equals sign may stay, and names that need no change are quoted in a tenth of the time.
        return f"{self.path}/{quote(key, safe='~/=')}"

    @contextmanager
    def _opened(self, path: str, parameters: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[Opened]:
        from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
        from urllib3 import exceptions

        try:
            response = self._asked(path, parameters, wanted)
            try:
                if response.status >= 300:
                    # The body tells a wrong signature from a firewall.
                    text = response.read(_ERROR_BYTES).decode("utf-8", "replace")
                    raise HttpResponseError(message=text, response=_Told(response.status, response.headers))  # type: ignore[arg-type]
                yield Opened(response.headers, iter(lambda: response.read1(_PIECE), b""))
                # Read to its end the connection is used again, else it is closed.
                response.release_conn()
            finally:
                response.close()
        except (
            exceptions.NewConnectionError,
            exceptions.ConnectTimeoutError,
            exceptions.ProxyError,
            exceptions.SSLError,
        ) as error:
            raise ServiceRequestError(str(error), error=error) from error
        except (exceptions.HTTPError, OSError) as error:
            raise ServiceResponseError(str(error), error=error) from error

    def _asked(self, path: str, parameters: Mapping[str, str], wanted: Mapping[str, str]) -> Any:
        response, headers = self._sent(path, parameters, wanted)
        if response.status == 401 and isinstance(self.authorize, Tokens):
            # A token may be withdrawn before its end.
            self.authorize.renew(headers["Authorization"])
            response.drain_conn()
            response, _ = self._sent(path, parameters, wanted)
        return response

    def _sent(self, path: str, parameters: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[Any, Headers]:
        target, headers = self._signed(path, parameters, wanted)
        return asked(self.pool, target, headers, self.timeouts, through=self.origin, plain=not parameters), headers

    def _signed(self, path: str, parameters: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, Headers]:
        headers = {**self.headers, **wanted, "x-ms-date": _date(int(time.time()))}
        return self.authorize(path, parameters, headers), headers


@lru_cache(1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _range_headers(start: int, length: int, etag: str) -> Headers:
    return {"x-ms-range": f"bytes={start}-{start + length - 1}", "If-Match": etag}


def is_range(headers: Mapping[str, str], start: int, length: int) -> bool:
    """Whether an answer's headers say that the bytes [start, start + length) are in it.

    >>> is_range({"Content-Range": "bytes 0-9/20"}, 0, 10), is_range({}, 0, 10)
    (True, False)
    """
    told = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    return told is not None and (int(told[1]), int(told[2])) == (start, start + length - 1)


def quoted(etag: str) -> str:
    """An ETag as a condition has it: listings give it without quotes, headers with.

    >>> quoted("0x8D"), quoted('"0x8D"')
    ('"0x8D"', '"0x8D"')
    """
    return f'"{etag.strip(chr(34))}"'


def is_of(headers: Mapping[str, str], etag: str) -> bool:
    """Whether an answer's headers name no other version than ``etag``.

    >>> is_of({"ETag": "0x8D"}, '"0x8D"'), is_of({"ETag": "0x8E"}, '"0x8D"')
    (True, False)
    """
    return "ETag" not in headers or quoted(headers["ETag"]) == etag


class _Told(NamedTuple):
    """What an error keeps of a response."""

    status_code: int
    headers: Mapping[str, str]
    reason: str = ""
    content_type: str = ""


def plain_reads(
    session: requests.Session,
    address: str,
    authorize: Authorize,
    *,
    version: str,
    verify: str | bool,
    proxies: Mapping[str, str],
    timeouts: tuple[float, float],
) -> PlainReads:
    """Reads below ``address`` (account and container) over the session's connections; ``timeouts`` are to connect and to read."""
    import requests

    adapter = session.get_adapter(address)
    assert isinstance(adapter, requests.adapters.HTTPAdapter)
    prepared = requests.Request("GET", address).prepare()
    pool = adapter.get_connection_with_tls_context(prepared, verify, proxies=dict(proxies))
    parts = urlsplit(address)
    asked = adapter.request_url(prepared, dict(proxies))
    origin = "" if asked.startswith("/") else f"{parts.scheme}://{parts.netloc}"
    headers = {"Host": parts.netloc, "x-ms-version": version, "Accept-Encoding": "identity", "User-Agent": "flowlens"}
    if origin:
        headers |= adapter.proxy_headers(requests.utils.select_proxy(address, dict(proxies)) or "")
    return PlainReads(pool, quote(parts.path, safe="/%$~"), origin, authorize, headers, timeouts)
