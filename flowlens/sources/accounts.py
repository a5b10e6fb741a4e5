"""Storage accounts: what a URL names, which identity reads it, and a client that only lists and reads.

Secrets come from the environment (a variable, or with ``_FILE`` behind its name a file that holds it), or as a SAS token in the URL
given; they stand in no text, setting or representation.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import ipaddress
import json
import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import sample
from flowlens.sources.plain_reads import PlainReads, Tokens, authorize_by, plain_reads
from flowlens.sources.refusals import Context, declared, redact, refusal
from flowlens.sources.sas import check_sas

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient
    from requests import Session

KEY_VARIABLE = "AZURE_STORAGE_KEY"
SAS_VARIABLE = "AZURE_STORAGE_SAS_TOKEN"
CONNECTION_STRING_VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"  # the name of a variable, not a secret
IDENTITIES = ("default", "cli", "managed-identity", "environment")
AUTHS = (*IDENTITIES, "key", "sas", "connection-string")

IDENTITY_DEADLINE = 30.0
"""Seconds that finding an identity may take in all; the default chain asks several places, some of which never answer."""
PATIENCE = 6
"""A request ends with all its tries within so many times the seconds that a server may stay silent; a sign-in does too."""
_MOMENT = 0.5
API_VERSION = "2021-12-02"
"""The version of the REST API that is asked for: all that reading takes is in it, and every account knows it. The newest, which
the library asks for, comes to some accounts and clouds months after the library (Azure/azure-sdk-for-net#31940)."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """Where a cloud's accounts, sign-in and Azure Resource Manager are. The audience of storage is the same in all of them
    (Microsoft's page "Authorize with Microsoft Entra ID" for storage, resource id, read 2026); that of Resource Manager is the
    one that Azure's own libraries ask for.
    """

    suffix: str
    authority: str
    management: str
    management_audience: str
    audience: str = "https://storage.azure.com"


CLOUDS: Mapping[str, Cloud] = {
    "global": Cloud(
        "blob.core.windows.net",
        "login.microsoftonline.com",
        "https://management.azure.com",
        "https://management.azure.com",
    ),
    "usgov": Cloud(
        "blob.core.usgovcloudapi.net",
        "login.microsoftonline.us",
        "https://management.usgovcloudapi.net",
        "https://management.core.usgovcloudapi.net",
    ),
    "china": Cloud(
        "blob.core.chinacloudapi.cn",
        "login.chinacloudapi.cn",
        "https://management.chinacloudapi.cn",
        "https://management.core.chinacloudapi.cn",
    ),
}
# An account with DNS zones of its own has a zone between its name and this suffix.
_ZONED = re.compile(r"z[0-9]{1,3}\.blob\.storage\.azure\.net")
_ACCOUNT_NAME = re.compile(r"[a-z0-9]{3,24}(?:-secondary)?")
_CONTAINER_NAME = re.compile(r"\$?[a-z0-9](?:[a-z0-9-]{1,61}[a-z0-9])")
_SCHEME = re.compile(r"(?i)(https?|az|wasbs?)://")


def parts_of(address: str, name: str) -> SplitResult:
    """The parts of an address that ``name`` gives; raises ConfigError, which tells nothing of it, where it is none.

    >>> parts_of("https://[", "HTTPS_PROXY")
    Traceback (most recent call last):
    flowlens.errors.ConfigError: HTTPS_PROXY: is not a valid address
    """
    try:
        parts = urlsplit(address)
        # Looked at only where it is asked for.
        _ = parts.port
    except ValueError:
        raise ConfigError(name, "is not a valid address") from None
    return parts


@dataclass(frozen=True, slots=True)
class Access:
    """How storage accounts are read: which identity, which cloud, which endpoint, how patiently. Holds no secret.

    ``cloud`` None means that the address tells it. ``timeout`` is how many seconds a server may stay silent; a request with all
    its tries ends within `PATIENCE` times as much.

    >>> Access(auth="password")
    Traceback (most recent call last):
    flowlens.errors.ConfigError: --auth password: is not a way to sign in
      hint: known: cli, connection-string, default, environment, key, managed-identity, sas
    """

    auth: str = "default"
    cloud: str | None = None
    account_url: str | None = None
    ca_file: Path | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for option, value, known in (("--auth", self.auth, AUTHS), ("--cloud", self.cloud or "global", CLOUDS)):
            if value not in known:
                what = "a way to sign in" if option == "--auth" else "a cloud"
                raise ConfigError(f"{option} {value!s:.40}", f"is not {what}", hint=near_matches(value, known))
        if not 0 < self.timeout <= 3600:
            raise ConfigError(f"--timeout {self.timeout}", "expected seconds above 0, at most 3600")
        if self.account_url is not None:
            parts = parts_of(self.account_url, "--account-url")
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
                raise ConfigError(
                    f"--account-url {redact(self.account_url)}", "expected https://HOST without a query or password"
                )
            _refuse_plain(self.account_url, parts.scheme, parts.hostname)


@dataclass(frozen=True, slots=True)
class Location:
    """A container, or a part of one, in a storage account; its text is the address without any secret.

    ``account_url`` is where requests go, ``prefix`` begins the names of blobs as given.
    """

    account_url: str
    account: str
    container: str
    prefix: str
    cloud: str
    sas: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.account_url}/{self.container}" + (f"/{self.prefix}" if self.prefix else "")


def is_remote(source: str) -> bool:
    """Whether a SOURCE names a storage account rather than files.

    >>> is_remote("https://contoso.blob.core.windows.net/logs"), is_remote("C:\\\\logs")
    (True, False)
    """
    return _SCHEME.match(source) is not None


def parse_location(source: str, access: Access) -> Location:
    """The container and prefix that a URL names.

    Only accounts under a known cloud's suffix are read, or what ``access.account_url`` names: with it also a loopback address,
    whose first folder is the account, and an account of that name is read there.

    Raises ConfigError for anything else, ``az://`` among it, since other tools read that differently.

    >>> str(parse_location("https://contoso.blob.core.windows.net/logs/a%3Db/", Access()))
    'https://contoso.blob.core.windows.net/logs/a=b/'
    """
    shown = redact(source.partition("?")[0])
    try:
        parts = urlsplit(source)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise declared("FL-S01", shown, "is not a valid address") from None
    path = unquote(parts.path).lstrip("/")
    if parts.scheme.lower() not in ("http", "https"):
        # wasbs://CONTAINER@ACCOUNT…/PATH, az://ACCOUNT/CONTAINER/PATH
        below = "/".join(filter(None, (parts.username, path))) or "CONTAINER"
        meant = f"https://{_blob_host(host, access)}/{quote(below, safe='/=~')}"
        raise declared("FL-S01", shown, f"{parts.scheme.lower()}:// is read differently by every tool: write {meant}")
    if parts.username is not None or parts.fragment:
        raise declared("FL-S01", shown, "an address has no user, password or #")
    if not path.isprintable():
        raise declared("FL-S01", shown, "the path holds control characters")
    base, account, cloud, rest = _endpoint(shown, parts.scheme.lower(), host, port, path, access)
    container, _, prefix = rest.partition("/")
    if not container:
        raise declared("FL-S01", shown, "names an account but no container")
    if not _CONTAINER_NAME.fullmatch(container):
        raise declared("FL-S01", shown, f"{container} is not the name of a container")
    if access.cloud is not None and cloud is not None and cloud != access.cloud:
        raise declared("FL-S01", shown, f"is in the cloud {cloud}, --cloud says {access.cloud}")
    sas = parts.query
    if sas and "sig" not in parse_qs(sas):
        raise declared("FL-S04", shown, "in the address has no signature (sig=)")
    return Location(base, account, container, prefix, access.cloud or cloud or "global", sas)


def _endpoint(
    shown: str, scheme: str, host: str, port: int | None, path: str, access: Access
) -> tuple[str, str, str | None, str]:
    """Where requests go, the account's name, its cloud where the address tells it, and the path below."""
    label, _, suffix = host.partition(".")
    cloud = next((name for name, each in CLOUDS.items() if each.suffix == suffix), None)
    if cloud is None and _ZONED.fullmatch(suffix):
        cloud = "global"
    if cloud is not None and port in (None, 443):
        if not _ACCOUNT_NAME.fullmatch(label):
            raise declared("FL-S01", shown, f"{label} is not the name of an account")
        _refuse_plain(shown, scheme, host)
        if access.account_url is not None and label in re.split(r"[/.:]+", access.account_url.lower()):
            return access.account_url.rstrip("/"), label, cloud, path
        return f"https://{host}", label, cloud, path
    if suffix.startswith(("dfs.core.", "blob.", "privatelink.")) or ".blob." in suffix or ".dfs." in suffix:
        place = f"{host}:{port}" if port else host
        raise declared(
            "FL-S01", shown, f"{place} is not the blob endpoint of an account; it may be {_blob_host(host, access)}"
        )
    named = access.account_url.rstrip("/") if access.account_url else ""
    given = f"{scheme}://{host}{f':{port}' if port else ''}"
    given_and_path = f"{given}/{path}"
    if not named or not f"{given_and_path}/".lower().startswith(f"{named.lower()}/"):
        raise declared(
            "FL-S01", shown, f"{host} is no known storage endpoint (if it is yours, name it with --account-url)"
        )
    if not _is_loopback(host):
        return named, os.environ.get("AZURE_STORAGE_ACCOUNT") or label, None, given_and_path[len(named) :].lstrip("/")
    account, _, rest = path.partition("/")
    return f"{given}/{account}", account, None, rest


def _blob_host(host: str, access: Access) -> str:
    """The blob endpoint of the account that a name begins with, in the cloud that the name or ``access`` tells."""
    account, _, suffix = host.partition(".")
    suffix = suffix.removeprefix("privatelink.").replace("dfs.", "blob.", 1)
    known = _ZONED.fullmatch(suffix) or suffix in {each.suffix for each in CLOUDS.values()}
    return f"{account or 'ACCOUNT'}.{suffix if known else CLOUDS[access.cloud or 'global'].suffix}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_plain(shown: str, scheme: str, host: str) -> None:
    if scheme != "https" and not _is_loopback(host):
        raise declared("FL-S02", redact(shown))


@dataclass(frozen=True, slots=True)
class Account:
    """A container that can be listed and read, and who reads it.

    ``client`` lists, ``reads`` gives bytes. ``identity`` says it in words, ``warnings`` what is doubtful about it.
    """

    location: Location
    client: ContainerClient = field(repr=False)
    reads: PlainReads = field(repr=False)
    auth: str
    identity: str
    warnings: tuple[str, ...]
    timeout: float

    def context(self, where: str) -> Context:
        """What an error at ``where`` is told with."""
        host = urlsplit(self.location.account_url).netloc
        scope = f"container {self.location.container} or account {self.location.account}"
        return Context(where, host, self.auth, self.identity, scope, self.timeout)


def connect(location: Location, access: Access, *, connections: int = 32) -> Account:
    """The container of ``location``, ready to read, with the identity that ``access`` asks for; a token is fetched at once.

    Raises SourceError where no identity is found within `IDENTITY_DEADLINE`, or where a SAS token cannot serve.
    """
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ContainerClient

    quiet_loggers()
    ca_file = checked_ca_file(access.ca_file)
    warnings: tuple[str, ...] = ()
    auth = "sas" if access.auth == "default" and location.sas else access.auth
    endpoint = location.account_url
    credential: Any
    if auth == "key":
        credential, identity = _key(location, _secret(KEY_VARIABLE, location)), f"account key ({KEY_VARIABLE})"
    elif auth == "sas":
        token = location.sas or _secret(SAS_VARIABLE, location)
        credential, identity, warnings = _sas(location, token, "the address" if location.sas else SAS_VARIABLE)
    elif auth == "connection-string":
        auth, credential, identity, warnings = _connection_string(location)
    else:
        if not endpoint.startswith("https://"):
            raise declared("FL-S02", str(location))
        cloud = CLOUDS[location.cloud]
        signed_in = sign_in(access, cloud, cloud.audience, str(location), ca_file)
        auth, credential, identity = "token", signed_in.credential, signed_in.identity
    session = session_for(endpoint, ca_file, connections=connections)
    timeouts = min(10.0, access.timeout), access.timeout
    transport = RequestsTransport(
        session=session,
        use_env_settings=False,
        connection_timeout=timeouts[0],
        read_timeout=timeouts[1],
        connection_verify=session.verify,
    )
    client = ContainerClient(
        endpoint,
        location.container,
        credential=credential,
        api_version=API_VERSION,
        transport=transport,
        audience=CLOUDS[location.cloud].audience,
        # Retries are this package's own, bounded in time; a redirect could carry the credential elsewhere.
        retry_total=0,
        permit_redirects=False,
        proxies=dict(session.proxies),
        user_agent="flowlens",
    )
    reads = plain_reads(
        session,
        f"{endpoint}/{location.container}",
        authorize_by(credential),
        version=API_VERSION,
        verify=session.verify,
        proxies=session.proxies,
        timeouts=timeouts,
    )
    return Account(location, client, reads, auth, identity, warnings, access.timeout)


def session_for(endpoint: str, ca_file: str | None, *, connections: int = 4) -> Session:
    """A session for requests to ``endpoint``: certificates and proxy are settled, nothing is tried again."""
    import requests

    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(
            scheme, requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=connections, max_retries=0)
        )
    # Looked up once, not at each request. Without its environment the session also leaves ~/.netrc alone, which would replace
    # the credential.
    session.trust_env = False
    session.proxies = dict(requests.utils.get_environ_proxies(endpoint))
    for scheme, proxy in session.proxies.items():
        if scheme != "no":
            parts_of(proxy if "://" in proxy else f"http://{proxy}", f"{scheme.upper()}_PROXY")
    session.verify = ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or True
    return session


def checked_ca_file(path: Path | None) -> str | None:
    """The file of certificates as libraries take it; raises ConfigError where it holds none."""
    if path is None:
        return None
    try:
        if not ssl.create_default_context(cafile=str(path)).cert_store_stats()["x509"]:
            raise declared("FL-S33", str(path), "holds no certificate")
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else "cannot be read as certificates"
        raise declared("FL-S33", str(path), str(reason)) from None
    return str(path)


def _secret(variable: str, location: Location) -> str:
    value = os.environ.get(variable, "").strip()
    file = os.environ.get(f"{variable}_FILE", "")
    if not value and file:
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise declared("FL-S03", str(location), f"{variable}_FILE names a file that can't be read") from None
    if not value:
        raise declared("FL-S03", str(location), f"{variable} is not set")
    return value


def _key(location: Location, key: str) -> dict[str, str]:
    try:
        base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise declared("FL-S12", str(location)) from None
    return {"account_name": location.account.removesuffix("-secondary"), "account_key": key}


def _sas(location: Location, token: str, source: str) -> tuple[Any, str, tuple[str, ...]]:
    from azure.core.credentials import AzureSasCredential

    token = token.lstrip("?")
    expiry, warnings = check_sas(token, str(location), now=dt.datetime.now(dt.UTC))
    until = f", until {expiry.isoformat()}" if expiry else ""
    return AzureSasCredential(token), f"SAS token from {source}{until}", warnings


def _connection_string(location: Location) -> tuple[str, Any, str, tuple[str, ...]]:
    """The kind of credential in the connection string, the credential, and who it is."""
    where = str(location)
    text = _secret(CONNECTION_STRING_VARIABLE, location)
    words = {name.strip().lower(): value for name, _, value in (part.partition("=") for part in text.split(";"))}
    account = words.get("accountname", "")
    if not account and (endpoint := words.get("blobendpoint")):
        account = (parts_of(endpoint, CONNECTION_STRING_VARIABLE).hostname or "").partition(".")[0]
    if account and account != location.account:
        raise declared("FL-S34", where, f"is for the account {account}")
    source = f"({CONNECTION_STRING_VARIABLE})"
    if sas := words.get("sharedaccesssignature"):
        credential, identity, warnings = _sas(location, sas, f"the connection string {source}")
        return "sas", credential, identity, warnings
    if key := words.get("accountkey"):
        return "key", _key(location, key), f"account key from the connection string {source}", ()
    raise declared("FL-S34", where, "holds neither AccountKey nor SharedAccessSignature")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A credential, the token that it has just given, and in words whose that is."""

    credential: Any = field(repr=False)
    token: str = field(repr=False)
    identity: str


def sign_in(access: Access, cloud: Cloud, audience: str, where: str, ca_file: str | None) -> SignedIn:
    """The identity that ``access`` asks for, one of `IDENTITIES`, with a token for ``audience``; errors name ``where``.

    Raises SourceError where none is found within `IDENTITY_DEADLINE`.
    """
    import azure.identity as identity

    host = os.environ.get("AZURE_AUTHORITY_HOST") or cloud.authority
    own = (parts_of(host, "AZURE_AUTHORITY_HOST").netloc or host) not in {each.authority for each in CLOUDS.values()}
    options: dict[str, Any] = {"authority": host, "connection_timeout": 10.0, "read_timeout": 10.0}
    if ca_file:
        options["connection_verify"] = ca_file
    if own:
        # Discovery knows Microsoft's own authorities only.
        options["disable_instance_discovery"] = True
    client_id = os.environ.get("AZURE_CLIENT_ID")
    makers: Mapping[str, Callable[[], Any]] = {
        "default": lambda: identity.DefaultAzureCredential(**options),
        "cli": lambda: identity.AzureCliCredential(process_timeout=20),
        "managed-identity": lambda: identity.ManagedIdentityCredential(
            client_id=client_id, **_without_authority(options)
        ),
        "environment": lambda: identity.EnvironmentCredential(**options),
    }
    scope = f"{audience}/.default"
    try:
        credential = makers[access.auth]()
    except ValueError as error:
        raise declared("FL-S07", where, str(error)) from None
    tokens = Tokens(credential)
    token = within(min(IDENTITY_DEADLINE, PATIENCE * access.timeout), lambda: tokens.get_token(scope), where)
    # The chain keeps the credential that succeeded; where a version does not say, the kind asked for is still right.
    used = getattr(credential, "_successful_credential", None) or credential
    return SignedIn(tokens, token.token, f"{type(used).__name__}{principal(token.token)}")


def _without_authority(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("authority", "disable_instance_discovery")}


def within(seconds: float, get: Callable[[], Any], where: str) -> Any:
    """What ``get`` gives, or the declared error: the sign-in was refused, no identity was found, or it took too long."""
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import CredentialUnavailableError

    result: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(get())
        except Exception as error:  # noqa: BLE001 - told below, by whichever name
            failure.append(error)

    # A daemon, since what hangs here would hold up the end of the process too.
    thread = threading.Thread(target=run, daemon=True, name="flowlens-identity")
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
        # In short waits: one that begins just as a signal comes is not ended by it.
        thread.join(min(left, _MOMENT))
    if result:
        return result[0]
    if not failure:
        raise declared("FL-S08", where, f"{seconds:g}")
    error = failure[0]
    text = " ".join(str(error).split())
    # The chain wraps a refusal in the words of all its members, so the code of the sign-in service tells it.
    refused = re.search(
        r"AADSTS\d+|invalid_client|unauthorized_client|invalid_tenant|Unable to get authority configuration", text
    )
    if refused:
        raise declared("FL-S09", where, text[max(0, refused.start() - 20) :][:180]) from None
    if "CERTIFICATE_VERIFY_FAILED" in text:
        raise declared("FL-S20", where, " (that of the sign-in service)") from None
    if isinstance(error, CredentialUnavailableError):
        raise declared("FL-S07", where, text[:180]) from None
    if isinstance(error, ClientAuthenticationError):
        by_cause = refusal(error, Context(where, auth="token"))
        if by_cause.problem.startswith(("FL-S20", "FL-S21")):
            raise by_cause from None
        code = "FL-S07" if "failed to retrieve a token from the included" in text else "FL-S09"
        raise declared(code, where, text[:180]) from None
    raise refusal(error, Context(where, host=where, auth="token", timeout=seconds)) from None


def principal(token: str) -> str:
    """Whose token it is, by its own claims: name or application, object and tenant; empty where it does not say.

    The signature is not looked at: this is for a person to read, the server decides.
    """
    body = token.split(".")[1:2]
    try:
        claims = json.loads(base64.urlsafe_b64decode(body[0] + "=" * (-len(body[0]) % 4))) if body else {}
    except (ValueError, RecursionError):
        return ""
    if not isinstance(claims, dict):
        return ""
    found = []
    for word, names in (
        ("", ("upn", "unique_name")),
        ("application ", ("appid",)),
        ("object ", ("oid",)),
        ("tenant ", ("tid",)),
    ):
        value = next((claims[name] for name in names if isinstance(claims.get(name), str)), None)
        if value:
            found.append(f"{word}{sample(value[:80])}")
    return f" ({', '.join(found)})" if found else ""


class _Redacted(logging.Filter):
    """Takes secrets out of what libraries log: at DEBUG one of them writes whole addresses, signatures among them."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        clean = redact(text)
        if clean != text:
            record.msg, record.args = clean, ()
        if record.exc_info and not record.exc_text:
            # A formatter takes this text as it is; exceptions repeat the address.
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True


_LOGGERS = (
    # A filter sees only what is logged by this very name, not by those below it.
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.response",
    "urllib3.util.retry",
    "azure.core.pipeline.policies.http_logging_policy",
    "azure.core.pipeline.policies._universal",
    "msal",
)


def quiet_loggers() -> None:
    """Keep what Azure's libraries log from the terminal, and secrets out of it wherever it goes; does so once."""
    for name in ("azure", "msal", "urllib3"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Redacted) for each in logger.filters):
            logger.addFilter(_Redacted())
