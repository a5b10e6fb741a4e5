"""What a storage account, a workspace and Azure Resource Manager can refuse, one table: an id, the problem, what to do next.

Refusals are told apart by status, error code, message and the chain of causes of what the SDK raised. No text that comes from
outside stands in an error before its secrets are taken out.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flowlens.errors import ConfigError, SourceError
from flowlens.evidence import sample


class Refusal(NamedTuple):
    """One declared error: its problem and its next step, both templates."""

    problem: str
    hint: str


_ROLE = "Storage Blob Data Reader"

REFUSALS: Mapping[str, Refusal] = {
    "FL-S01": Refusal("{detail}", "write https://ACCOUNT.blob.core.windows.net/CONTAINER[/PREFIX]"),
    "FL-S02": Refusal(
        "plain http would show the logs and the credential to the network", "write https://; http is for loopback only"
    ),
    "FL-S03": Refusal("{detail}", "set it in the environment; secrets are not taken from the command line"),
    "FL-S04": Refusal(
        "the SAS token {detail}", "make one for the container that allows read and list (sp=rl), HTTPS only"
    ),
    "FL-S05": Refusal("the SAS token expired at {detail}", "make a new one; what was read before stays counted"),
    "FL-S06": Refusal("the SAS token is valid from {detail} on", "wait, or make one that starts 15 minutes ago"),
    "FL-S07": Refusal(
        "no identity was found: {detail}",
        "sign in with `az login`, or choose with --auth: cli, managed-identity, environment; for storage also key and sas",
    ),
    "FL-S08": Refusal("finding an identity took longer than {detail} s", "choose one with --auth, or check the proxy"),
    "FL-S09": Refusal("the sign-in was refused: {detail}", "check tenant, client id and secret of this identity"),
    "FL-S10": Refusal(
        "the identity may not read blobs here: it lacks a data role (Owner and Contributor are not enough)",
        f"assign {_ROLE} on {{scope}} to {{identity}}, then wait up to 10 minutes",
    ),
    "FL-S11": Refusal(
        "the network rules of the account shut out this machine{detail}",
        "allow its address or network in the account's networking settings, or run inside the VNet; with a private endpoint the "
        "account's name must lead to a private address here",
    ),
    "FL-S12": Refusal(
        "the account key is wrong", "copy key1 or key2 again into AZURE_STORAGE_KEY; keys may be rotated"
    ),
    "FL-S13": Refusal("the SAS token was refused{detail}", "make a new one with sp=rl; rotating a key ends its tokens"),
    "FL-S14": Refusal(
        "the token is not for this account: wrong tenant, cloud or audience",
        "sign in to the tenant of the account (`az login --tenant`, AZURE_TENANT_ID) and check --cloud",
    ),
    "FL-S15": Refusal("this account takes no account keys and no tokens made from them", "use --auth default or cli"),
    "FL-S16": Refusal(
        "the name {detail} has no address",
        "check the name of the account, --cloud and DNS; behind a private endpoint this machine must use its DNS zone",
    ),
    "FL-S17": Refusal(
        "{detail} does not answer",
        "check route, firewall and proxy; an account with a private endpoint answers only inside its network",
    ),
    "FL-S18": Refusal(
        "no such container",
        "flow logs lie in insights-logs-flowlogflowevent, those of NSGs in insights-logs-networksecuritygroupflowevent",
    ),
    "FL-S19": Refusal(
        "the clock of this machine is wrong by {detail}", "set the clock; tokens and windows depend on it"
    ),
    "FL-S20": Refusal(
        "the TLS certificate is not trusted{detail}",
        "behind a TLS proxy pass its certificate with --ca-file; verification can't be switched off",
    ),
    "FL-S21": Refusal("the proxy refused or does not answer{detail}", "check HTTPS_PROXY and NO_PROXY"),
    "FL-S22": Refusal("no complete answer in {detail}", "check the network, or give it more time with --timeout"),
    "FL-S23": Refusal("the account is throttled (503 or 429) and stays so", "run later, or with fewer --threads"),
    "FL-S24": Refusal("the server fails and goes on failing ({detail})", "run again later"),
    "FL-S25": Refusal("answered with a redirect, which is never followed{detail}", "check the address and the proxy"),
    "FL-S26": Refusal("deleted before it was read", "retention may be shorter than the window"),
    "FL-S27": Refusal("is in the archive tier and can't be read", "rehydrate it, then run again"),
    "FL-S28": Refusal("is {detail}, not a block blob", "flow logs are block blobs; something else wrote this one"),
    "FL-S29": Refusal("was replaced while it was read", "run again when nothing else writes the container"),
    "FL-S30": Refusal("keeps changing faster than it can be read", "run again, or end the window before this hour"),
    "FL-S31": Refusal(
        "the listing cannot be read ({detail})",
        "a blob name may hold control characters: narrow the prefix; or a proxy answers in the account's place",
    ),
    "FL-S32": Refusal("the listing holds {detail}, which was not asked for", "report this: counting it would be wrong"),
    "FL-S33": Refusal("--ca-file {detail}", "expected a PEM file with the certificates to trust"),
    "FL-S34": Refusal("the connection string {detail}", "copy it again into AZURE_STORAGE_CONNECTION_STRING"),
    "FL-S35": Refusal("refused: {detail}", "the error code is in the storage documentation"),
    "FL-S36": Refusal("the account is disabled", "check the subscription of the account"),
    "FL-S37": Refusal("more than {detail} folders above the hours", "narrow the prefix down to one flow log"),
    "FL-W01": Refusal(
        "{detail}",
        "write workspace:GUID, with the Workspace ID of its overview page, or workspace:/subscriptions/... with its resource id",
    ),
    "FL-W02": Refusal(
        "--auth {detail} is for storage accounts", "choose --auth default, cli, managed-identity or environment"
    ),
    "FL-W03": Refusal(
        "no such workspace", "copy the Workspace ID, a GUID, from the overview page of the workspace, and check --cloud"
    ),
    "FL-W04": Refusal(
        "the identity may not query this workspace",
        "assign Log Analytics Reader on the workspace to {identity}, then wait up to 10 minutes",
    ),
    "FL-W05": Refusal(
        "has no table {detail}: Traffic Analytics was never enabled with this workspace",
        "enable it on a flow log and wait an hour; rows of NSG flow logs are in workspace:GUID/AzureNetworkAnalytics_CL",
    ),
    "FL-W06": Refusal(
        "the table {detail} has the plan Basic or Auxiliary, which can't be queried this way",
        "set its plan to Analytics (az monitor log-analytics workspace table update), or read the storage account's blobs",
    ),
    "FL-W07": Refusal(
        "the token is not for this workspace: wrong tenant, cloud or audience",
        "sign in to the tenant of the workspace (`az login --tenant`, AZURE_TENANT_ID) and check --cloud",
    ),
    "FL-W08": Refusal("the query was refused: {detail}", "paste it into the portal's Logs page of this workspace"),
    "FL-W09": Refusal("cut even when asked in the smallest parts ({detail})", "narrow the window, or read the blobs"),
    "FL-W10": Refusal("no complete answer ({detail})", "run again later, or narrow the window"),
    "FL-W11": Refusal(
        "throttled (429) and stays so", "run later: all queries of this identity count, those of dashboards too"
    ),
    "FL-W12": Refusal(
        "rows and their count go on differing ({detail})", "run again; rows may be arriving or expiring just now"
    ),
    "FL-W13": Refusal(
        "{detail} does not answer",
        "check --cloud, route, firewall and proxy; a private link scope answers only inside its network",
    ),
    "FL-W14": Refusal("the answer can't be read ({detail})", "check that no proxy answers in the place of the API"),
    "FL-W15": Refusal("asking was stopped", "run again"),
    "FL-W16": Refusal(
        "more than the service works through in one query ({detail})",
        "narrow the window with --start and --end, or ask flowlens analyze {workspace}, which reads in parts",
    ),
    "FL-A01": Refusal(
        "the token is not for this endpoint: wrong tenant, cloud or audience",
        "sign in to the tenant of the subscription (`az login --tenant`, AZURE_TENANT_ID) and check --cloud",
    ),
    "FL-A02": Refusal(
        "the identity may not read this ({detail})",
        "any role that can read will do: assign Reader on {scope} to {identity}",
    ),
    "FL-A03": Refusal("refused: {detail}", "check --subscription, --location and --cloud"),
    "FL-A04": Refusal("throttled or failing, and stays so ({detail})", "run again later, or use --file"),
    "FL-A05": Refusal("expected service tags, found {detail}", "check the address and the proxy, or use --file"),
    "FL-C01": Refusal("pyspark is not installed here", "pip install 'flowlens[spark]'"),
    "FL-C02": Refusal(
        "{detail}", "write spark://HOST:7077 as the page of the running master shows it, yarn, k8s://..., or local[2]"
    ),
    "FL-C03": Refusal(
        "found no Java {detail}",
        "install a Java runtime of version 17 or newer (Debian: default-jre-headless), or point JAVA_HOME to it",
    ),
    "FL-C04": Refusal(
        "the cluster gave no executor in {detail} s",
        "see on the page of the master whether workers are there, and whether other applications hold their cores and memory",
    ),
    "FL-C05": Refusal(
        "an executor can't run flowlens: {detail}",
        "install the same flowlens and Python on every worker (Databricks, Fabric: %pip install; else PYSPARK_PYTHON names it)",
    ),
    "FL-C06": Refusal(
        "no executor can reach the account: {detail}",
        "the network of the workers must lead to it as the driver's does: {step}",
    ),
    "FL-C07": Refusal(
        "no executor can sign in to the account: {detail}",
        "no credential travels: give the workers an identity, or the same variable in their own environment ({step})",
    ),
    "FL-C08": Refusal(
        "a SAS token in the address would travel to the executors with the job",
        "set AZURE_STORAGE_SAS_TOKEN, or AZURE_STORAGE_SAS_TOKEN_FILE, on driver and workers and choose --auth sas",
    ),
    "FL-C09": Refusal("{detail} is not read on Spark", "Spark reads blobs; leave out --engine spark for anything else"),
    "FL-C10": Refusal(
        "executors run on other machines and no folder is named that all of them share",
        "name one with --scratch, e.g. dbfs:/tmp/flowlens, abfss://..., or a mounted folder",
    ),
    "FL-C11": Refusal("the job failed: {detail}", "the logs of the executors (stderr) say more"),
    "FL-C12": Refusal(
        "what executors wrote to the lake is not in this folder on the driver; nothing was committed",
        "keep the lake in an account (abfss://...), or in a folder that driver and workers share under one name",
    ),
}
"""Every error of these sources; the id stands in the message, so that it can be looked up."""

_WRONG_USAGE = {"FL-S01", "FL-S02", "FL-S03", "FL-S33", "FL-S34", "FL-W01", "FL-W02"} | {
    *("FL-C01", "FL-C02", "FL-C03", "FL-C08", "FL-C09", "FL-C10")
}

_SECRET_PARAMETERS = re.compile(
    r"(?i)\b(sig|signature|sharedaccesssignature|accountkey|account_key|client_secret|client_assertion|access_token|"
    r"refresh_token|assertion|password|x-identity-header)(=|%3D|\s*[:=]\s*|['\"]\s*:\s*['\"]?)[^\s&;,'\"<>)\]]+"
)
_AUTHORIZATION = re.compile(r"(?i)\b(Bearer|Basic|SharedKey(?:Lite)?)\s+[^\s,;'\"<>]+")
_JWT = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?")
_KEY = re.compile(r"[A-Za-z0-9+/]{86}==")
_USER_INFORMATION = re.compile(r"(?<=://)[^/\s@]+@")


def redact(text: str) -> str:
    """``text`` with signatures, keys, tokens and passwords replaced by ``***``.

    >>> redact("GET https://u:p@a/c?sv=1&sig=abc%3D&se=2 Bearer eyJhbGciOi.e30.x")
    'GET https://***@a/c?sv=1&sig=***&se=2 Bearer ***'
    """
    text = _USER_INFORMATION.sub("***@", text)
    text = _AUTHORIZATION.sub(r"\1 ***", text)
    text = _SECRET_PARAMETERS.sub(r"\1\2***", text)
    return _KEY.sub("***", _JWT.sub("***", text))


def declared(code: str, where: str, detail: str = "", **words: str) -> SourceError | ConfigError:
    """The error of the table under ``code``, without secrets and without unprintable characters.

    >>> declared("FL-S05", "https://a/c", "2026-01-01T00:00:00Z").problem
    'FL-S05 the SAS token expired at 2026-01-01T00:00:00Z'
    """
    refusal = REFUSALS[code]
    values = {name: sample(redact(text)) for name, text in {"detail": detail, **words}.items()}
    kind = ConfigError if code in _WRONG_USAGE else SourceError
    problem = f"{code} {refusal.problem.format_map(values)}"
    return kind(_shown(where), problem, hint=refusal.hint.format_map(values))


def _shown(where: str) -> str:
    return "".join(map(sample, redact(where)))


class Context(NamedTuple):
    """What is known where an SDK error is told: the place, its host, the kind of credential and who it is."""

    where: str
    host: str = ""
    auth: str = ""
    identity: str = ""
    scope: str = "the storage account"
    timeout: float = 0.0


RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which asking again can help."""


def status_of(error: BaseException) -> int:
    """The HTTP status behind an SDK error; 0 where there was no response, or one that is no error but can't be read."""
    response = getattr(error, "response", None)
    status = int(getattr(response, "status_code", None) or getattr(error, "status_code", None) or 0)
    return status if status >= 300 else 0


def is_passing(error: BaseException) -> bool:
    """Whether trying again can help: throttling, server faults, broken or silent connections."""
    status = status_of(error)
    if status:
        return status in RETRIED_STATUS
    causes = list(_causes(error))
    return not any(_is_untrusted(cause) or _is_refused_proxy(cause) or _is_credential(cause) for cause in causes)


def is_throttling(error: BaseException) -> bool:
    """Whether the account says that there were too many requests."""
    return status_of(error) in (429, 503)


class Again:
    """How often requests were tried again, by what came of the try before; threads may count at the same time.

    >>> again = Again()
    >>> again.count(TimeoutError()), again.count("another version"), again.told("requests")
    (None, None, ('requests that were tried again: 2 (another version 1, no whole answer 1)',))
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = Counter(counts or {})
        self._lock = threading.Lock()

    def count(self, reason: BaseException | str) -> None:
        """One more, after an error or what is said in words."""
        words = reason if isinstance(reason, str) else str(status_of(reason) or "no whole answer")
        with self._lock:
            self._counts[words] += 1

    def add(self, counts: Mapping[str, int]) -> None:
        """What somebody else has counted, too."""
        with self._lock:
            self._counts.update(counts)

    def counts(self) -> dict[str, int]:
        """How often after what."""
        with self._lock:
            return dict(self._counts)

    def told(self, what: str) -> tuple[str, ...]:
        """In words, how many of ``what``, and why; nothing where there were none."""
        counts = self.counts()
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        return (f"{what} that were tried again: {sum(counts.values())} ({reasons})",) if counts else ()


def asked_wait(error: BaseException) -> float:
    """Seconds that the server asks to be left alone (Retry-After); 0 where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    asked = str(headers.get("Retry-After", ""))
    return float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 0.0


def refusal(error: BaseException, context: Context) -> SourceError | ConfigError:
    """The declared error behind what the SDK raised."""
    if isinstance(error, SourceError | ConfigError):
        return error
    status = status_of(error)
    code = _code_of(error)
    if status:
        return _by_status(status, code, error, context)
    return _by_cause(error, context)


def _code_of(error: BaseException) -> str:
    """The service's own code: from its header, else from the XML of the body, since some proxies drop headers."""
    code = getattr(error, "error_code", None)
    value = getattr(code, "value", code)
    if not value:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        value = headers.get("x-ms-error-code")
    if not value and (found := re.search(r"<Code>(\w{1,80})</Code>", str(getattr(error, "message", "")))):
        value = found[1]
    return str(value or "")


_BY_CODE = {
    "ContainerNotFound": "FL-S18",
    "ContainerBeingDeleted": "FL-S18",
    "BlobNotFound": "FL-S26",
    "BlobArchived": "FL-S27",
    "BlobBeingRehydrated": "FL-S27",
    "KeyBasedAuthenticationNotPermitted": "FL-S15",
    "AccountIsDisabled": "FL-S36",
    "InvalidAuthenticationInfo": "FL-S14",
}


def _by_status(status: int, code: str, error: BaseException, context: Context) -> SourceError | ConfigError:
    message = str(getattr(error, "message", "") or error)
    where = context.where
    if status in (401, 403) and (skew := _skew(error)):
        return declared("FL-S19", where, skew)
    if code in _BY_CODE:
        return declared(_BY_CODE[code], where)
    if code == "InvalidBlobType":
        return declared("FL-S28", where, "an append or page blob")
    if 300 <= status < 400:
        return declared("FL-S25", where, f" ({status})")
    if status == 407:
        return declared("FL-S21", where, " (407, it wants a sign-in)")
    if status == 401:
        return declared("FL-S14", where)
    if status == 403:
        return _forbidden(code, message, context)
    if status == 404:
        return declared("FL-S26", where)
    if is_throttling(error):
        return declared("FL-S23", where)
    if status in RETRIED_STATUS:
        return declared("FL-S24", where, f"{status} {code}".strip())
    return declared("FL-S35", where, f"{status} {code or _first_line(message)}".strip())


def _forbidden(code: str, message: str, context: Context) -> SourceError | ConfigError:
    where = context.where
    # An emulator says AuthorizationFailure for a wrong signature; its message tells that from a firewall's.
    signature = code == "AuthenticationFailed" or "authenticate" in message.lower()
    if signature and context.auth == "key":
        return declared("FL-S12", where)
    if signature and context.auth == "sas":
        return declared("FL-S13", where, f" ({_detail(message)})" if _detail(message) else "")
    if signature:
        return declared("FL-S14", where)
    if code in ("AuthorizationPermissionMismatch", "InsufficientAccountPermissions"):
        if context.auth == "sas":
            return declared("FL-S04", where, "does not allow this call")
        return declared("FL-S10", where, scope=context.scope, identity=context.identity or "this identity")
    if code in ("AuthorizationResourceTypeMismatch", "AuthorizationServiceMismatch", "AuthorizationProtocolMismatch"):
        return declared("FL-S04", where, f"is for something else ({code})")
    if code == "AuthorizationSourceIPMismatch":
        return declared("FL-S13", where, " (it is for other addresses: sip)")
    if code == "AuthorizationFailure":
        return declared("FL-S11", where, _address_words(context.host))
    return declared("FL-S35", where, f"403 {code or _first_line(message)}")


def _by_cause(error: BaseException, context: Context) -> SourceError | ConfigError:
    where = context.where
    causes = list(_causes(error))
    if any(_is_refused_proxy(cause) for cause in causes):
        # The proxy's name and port are the user's own; its password is taken out with everything else.
        return declared("FL-S21", where)
    for cause in causes:
        if _is_untrusted(cause):
            reason = getattr(cause, "verify_message", "")
            return declared("FL-S20", where, f" ({reason})" if reason else "")
    if any(_is_credential(cause) for cause in causes):
        return declared("FL-S09", where, _first_line(str(error)))
    if any(isinstance(c, socket.gaierror) or type(c).__name__ == "NameResolutionError" for c in causes):
        return declared("FL-S16", where, context.host)
    if any("ConnectTimeout" in type(c).__name__ or isinstance(c, ConnectionRefusedError) for c in causes):
        return declared("FL-S17", where, context.host + _address_words(context.host))
    if type(error).__name__ in ("DecodeError", "DeserializationError", "ParseError"):
        return declared("FL-S31", where, _first_line(str(error)))
    if any("NewConnectionError" in type(c).__name__ for c in causes):
        return declared("FL-S17", where, context.host + _address_words(context.host))
    return declared("FL-S22", where, f"{context.timeout:g} s ({type(error).__name__})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it names as its cause, in whatever way its library does so."""
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        each = pending.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [each.__cause__, each.__context__, *each.args]
        pending += [getattr(each, name, None) for name in ("inner_exception", "reason", "exc_value")]


def _is_untrusted(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) or (
        isinstance(error, ssl.SSLError) and "CERTIFICATE" in str(error).upper()
    )


def _is_refused_proxy(error: BaseException) -> bool:
    return type(error).__name__ == "ProxyError"


def _is_credential(error: BaseException) -> bool:
    return type(error).__name__ in ("ClientAuthenticationError", "CredentialUnavailableError")


def _skew(error: BaseException) -> str:
    """How far the clock is off by the Date header of the answer, in words; empty below 15 minutes."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    seconds = clock_skew(headers.get("Date"))
    return f"{abs(seconds) / 60:.0f} minutes" if abs(seconds) > SKEW_LIMIT else ""


SKEW_LIMIT = 15 * 60
"""Seconds; beyond these tokens are refused, and "the last 24 h" are others."""


def clock_skew(date: str | None) -> float:
    """Seconds by which this machine's clock is ahead of the server's Date header; 0 where it says nothing.

    >>> clock_skew(None), clock_skew("Mon, 01 Jan 99999999999999999999 00:00:00 GMT")
    (0.0, 0.0)
    """
    import datetime as dt
    from email.utils import parsedate_to_datetime

    if not date:
        return 0.0
    try:
        server = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return 0.0
    if server.tzinfo is None:
        return 0.0
    return (dt.datetime.now(dt.UTC) - server).total_seconds()


def _detail(message: str) -> str:
    """What the server says of a refused signature; never the string to sign, which it repeats."""
    found = re.search(r"<AuthenticationErrorDetail>([^<]*)|AuthenticationErrorDetail:\s*([^\n]*)", message)
    return (found[1] or found[2] or "").strip()[:120] if found else ""


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:160] if lines else "no reason given"


def _address_words(host: str) -> str:
    found = address_words(host)
    return f" ({found})" if found else ""


def address_words(host: str) -> str:
    """Where the name of the account leads, since a private endpoint's DNS is the usual fault; empty where it leads nowhere."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if not name:
        return ""
    try:
        address = str(socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)[0][4][0])
        kind = "private" if ipaddress.ip_address(address.partition("%")[0]).is_private else "public"
    except (OSError, ValueError, UnicodeError):
        return ""
    return f"{name} leads to the {kind} address {address}"
