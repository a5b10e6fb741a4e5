"""Service tags as Azure Resource Manager tells them: what ``flowlens tags update --subscription`` asks for.

One call that only reads (Microsoft Learn, "Service Tags - List"); any role that can read the subscription will do. The token
goes to the endpoint of the cloud, or to the one that the user names, and nowhere else: redirects are never followed, nor links
to another host.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import msgspec

from flowlens.errors import ConfigError, SourceError
from flowlens.sources.accounts import (
    CLOUDS,
    IDENTITIES,
    Access,
    checked_ca_file,
    quiet_loggers,
    session_for,
    sign_in,
)
from flowlens.sources.refusals import (
    RETRIED_STATUS,
    SKEW_LIMIT,
    Context,
    clock_skew,
    declared,
    is_passing,
    redact,
    refusal,
)

if TYPE_CHECKING:
    from requests import Session

API_VERSION = "2023-09-01"
LOCATIONS = {"global": "westeurope", "usgov": "usgovvirginia", "china": "chinaeast2"}
"""Where to ask in each cloud; every location answers for its whole cloud."""

_SUBSCRIPTION = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOCATION = re.compile(r"[a-z][a-z0-9]{2,40}")
_LARGEST_ANSWER = 64 * 2**20
_PAGES_LIMIT = 200
_TRIES = 4
# Path, query and fragment of an address that ends with its host.
_BARE, _SLASH = ("", "", ""), ("/", "", "")
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint said, in the form of a published file, and where and as whom it was asked."""

    data: bytes
    where: str
    identity: str


class _Page(msgspec.Struct, rename="camel"):
    values: list[msgspec.Raw]
    cloud: str = ""
    next_link: str | None = None


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Refused(msgspec.Struct):
    error: _Problem


class _FailingError(Exception):
    """The server is throttling or failing; asking again may help."""


def ask_for_tags(
    subscription: str,
    access: Access,
    *,
    cloud: str = "global",
    location: str | None = None,
    endpoint: str | None = None,
) -> Answer:
    """The service tags that Azure Resource Manager lists for a subscription, all pages of them as one document.

    ``location`` is where to ask, not a filter; ``endpoint`` stands in for the cloud's own. Raises ConfigError for what cannot be
    a subscription, location or endpoint and for an identity that serves storage only; SourceError where the endpoint does not
    give a whole answer.
    """
    base = _endpoint(endpoint or CLOUDS[cloud].management)
    where = f"{base}/subscriptions/{_subscription(subscription)}"
    where += f"/providers/Microsoft.Network/locations/{_location(location or LOCATIONS[cloud])}/serviceTags"
    if access.auth not in IDENTITIES:
        raise ConfigError(f"--auth {access.auth}", "is for storage only", hint=f"known: {', '.join(IDENTITIES)}")
    quiet_loggers()
    ca_file = checked_ca_file(access.ca_file)
    signed_in = sign_in(access, CLOUDS[cloud], CLOUDS[cloud].management_audience, where, ca_file)
    scope = f"the subscription {subscription}"
    context = Context(where, urlsplit(base).netloc, "token", signed_in.identity, scope, access.timeout)
    headers = {"Authorization": f"Bearer {signed_in.token}", "Accept": "application/json", "User-Agent": "flowlens"}
    pages: list[_Page] = []
    asked: set[str] = set()
    link: str | None = f"{where}?api-version={API_VERSION}"
    size = 0
    with session_for(base, ca_file) as session:
        while link:
            if link in asked or len(asked) == _PAGES_LIMIT:
                raise declared("FL-A05", where, f"pages without an end ({len(asked)} read)")
            asked.add(link)
            body = _read(session, link, headers, context)
            size += len(body)
            if size > _LARGEST_ANSWER:
                raise declared("FL-A05", where, f"more than {_LARGEST_ANSWER} bytes")
            pages.append(_page(body, where))
            link = _next(pages[-1], base, link, where)
    clouds = {page.cloud for page in pages if page.cloud}
    if len(clouds) > 1:
        raise declared("FL-A05", where, f"those of several clouds: {', '.join(sorted(clouds))}")
    document = {"cloud": "".join(clouds), "values": [tag for page in pages for tag in page.values]}
    return Answer(msgspec.json.encode(document), where, signed_in.identity)


def _endpoint(url: str) -> str:
    """The endpoint without its last slash; a token goes over TLS only."""
    place = _place(url)
    if place is None or place[0] != "https" or not place[1] or urlsplit(url)[2:] not in (_BARE, _SLASH):
        raise ConfigError(f"--management-url {redact(url)!r:.100}", "expected https://HOST[:PORT]")
    return f"https://{urlsplit(url).netloc}"


def _subscription(text: str) -> str:
    if not _SUBSCRIPTION.fullmatch(text):
        hint = "az account show --query id tells it"
        raise ConfigError(f"--subscription {text!r:.60}", "is not the id of a subscription", hint=hint)
    return text.lower()


def _location(text: str) -> str:
    name = text.replace(" ", "").lower()
    if not _LOCATION.fullmatch(name):
        raise ConfigError(f"--location {text!r:.60}", "is not the name of a location", hint="write westeurope")
    return name


def _page(body: bytes, where: str) -> _Page:
    try:
        return msgspec.json.decode(body, type=_Page)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise declared("FL-A05", where, f"something else: {error}") from None


def _next(page: _Page, base: str, link: str, where: str) -> str | None:
    """The address of the next page; None behind the last one. A link to another host would carry the token there."""
    if not page.next_link:
        return None
    try:
        following = urljoin(link, page.next_link)
    except ValueError:
        following = ""
    if _place(following) != _place(base):
        raise declared("FL-A05", where, f"a link to another host: {page.next_link[:80]}")
    return following


def _place(url: str) -> tuple[str, str | None, int] | None:
    """Scheme, host and port, which Azure names even where it is the usual one; None for what is no plain address."""
    try:
        parts = urlsplit(url)
        return None if parts.username is not None else (parts.scheme, parts.hostname, parts.port or 443)
    except ValueError:
        return None


def _read(session: Session, link: str, headers: dict[str, str], context: Context) -> bytes:
    """The body of one page; tried again while the server throttles or fails, within six times the time limit."""
    import requests

    deadline = time.monotonic() + 6 * context.timeout
    for attempt in range(_TRIES):
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
        last = attempt + 1 == _TRIES or time.monotonic() + wait > deadline
        try:
            return _once(session, link, headers, context, deadline)
        except _FailingError as error:
            if last:
                raise declared("FL-A04", context.where, str(error)) from None
        except (requests.RequestException, ValueError) as error:
            # Where a redirect leads is taken apart, though it is not followed.
            if last or not is_passing(error):
                raise refusal(error, context) from None
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _once(session: Session, link: str, headers: dict[str, str], context: Context, deadline: float) -> bytes:
    patience = (min(10.0, context.timeout), context.timeout)
    with session.get(link, headers=headers, allow_redirects=False, stream=True, timeout=patience) as response:
        body = bytearray()
        for chunk in response.iter_content(1 << 16):
            body += chunk
            if len(body) > _LARGEST_ANSWER:
                raise declared("FL-A05", context.where, f"more than {_LARGEST_ANSWER} bytes")
            if time.monotonic() > deadline:
                raise declared("FL-S22", context.where, f"{6 * context.timeout:g} s")
        if response.status_code == 200:
            return bytes(body)
        raise _refused(response.status_code, bytes(body), response.headers.get("Date"), context)


def _refused(status: int, body: bytes, date: str | None, context: Context) -> SourceError | ConfigError | _FailingError:
    """What an answer other than 200 means."""
    try:
        said = msgspec.json.decode(body, type=_Refused).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = _Problem()
    told = " ".join(f"{status} {said.code} {said.message[:160]}".split())
    if 300 <= status < 400:
        return declared("FL-S25", context.where, f" ({status})")
    if status == 407:
        return declared("FL-S21", context.where, " (407, it wants a sign-in)")
    if status in (401, 403) and abs(skew := clock_skew(date)) > SKEW_LIMIT:
        return declared("FL-S19", context.where, f"{abs(skew) / 60:.0f} minutes")
    if status == 401:
        return declared("FL-A01", context.where)
    if status == 403:
        return declared("FL-A02", context.where, told, scope=context.scope, identity=context.identity)
    if status in RETRIED_STATUS:
        return _FailingError(told)
    return declared("FL-A03", context.where, told)
