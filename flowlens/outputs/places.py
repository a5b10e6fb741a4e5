"""Where a scheduled report is kept: a folder, or a container in a storage account that holds no logs.

The account that holds the logs is only ever read. What is written here goes elsewhere, with a credential of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

from flowlens.errors import ConfigError, SourceError
from flowlens.outputs.tables import atomic
from flowlens.sources.accounts import (
    CLOUDS,
    IDENTITIES,
    KEY_VARIABLE,
    SAS_VARIABLE,
    Access,
    Location,
    checked_ca_file,
    is_remote,
    parse_location,
    quiet_loggers,
    session_for,
    sign_in,
)
from flowlens.sources.refusals import Context, refusal, status_of

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient


_FORBIDDEN = 403
_NOT_STORAGE = "the answer is none of a storage account"
_INSTEAD = "a proxy may answer in its place: check the address, HTTPS_PROXY and NO_PROXY"


@dataclass(frozen=True, slots=True)
class Place:
    """A path on disk, or a container's address and who writes there; ``variable`` names the one that holds the secret."""

    path: Path | None = None
    location: Location | None = None
    access: Access = field(default_factory=Access)
    variable: str | None = None

    def __str__(self) -> str:
        return str(self.path or self.location)

    def filled(self, fields: Mapping[str, str]) -> Place:
        """The place with ``{name}`` in its address replaced by what each field is."""
        told = str(self.path) if self.path is not None else self.location.prefix if self.location else ""
        for name, value in fields.items():
            told = told.replace(f"{{{name}}}", value)
        if self.path is not None:
            return replace(self, path=Path(told))
        return replace(self, location=self.location and replace(self.location, prefix=told))


def place_of(address: str, access: Access | None, variable: str | None, logs: Sequence[object]) -> Place:
    """The place that a path or a container's address names, which must not be where the ``logs`` are.

    Raises ConfigError where it is, for an address that is none, and where its secret is not in the environment.
    """
    if access is None or not is_remote(address):
        path = Path(address)
        for source in logs:
            if isinstance(source, Path) and source.is_dir() and path.resolve().is_relative_to(source.resolve()):
                raise ConfigError("", f"lies in {source}, where the logs are", hint="write outside of what is read")
        return Place(path=path)
    location = parse_location(address, access)
    if location.sas:
        raise ConfigError("", "carries a token, and a config holds no secrets", hint="name it with secret_variable")
    for source in logs:
        if isinstance(source, Location) and _account(source) == _account(location):
            raise ConfigError(
                "",
                f"lies in the account {location.account}, which holds the logs and is only read",
                hint="name another",
            )
    if access.auth in ("key", "sas"):
        variable = variable or (KEY_VARIABLE if access.auth == "key" else SAS_VARIABLE)
        if not os.environ.get(variable, "").strip():
            raise ConfigError("", f"{variable} is not set, which holds its {access.auth}", hint="see secret_variable")
    elif access.auth not in IDENTITIES:
        raise ConfigError("", f"auth {access.auth} is for reading", hint="use an identity, key or sas")
    return Place(location=location, access=access, variable=variable)


def _account(location: Location) -> str:
    return location.account.removesuffix("-secondary")


def write(place: Place, name: str, fill: Callable[[BinaryIO], None]) -> str:
    """Where it now stands: what ``fill`` writes, whole or not at all, in the place of what was there; ``name`` is below it.

    Raises SourceError where it cannot be written.
    """
    if place.path is not None:
        path = place.path / name if name else place.path
        with atomic(path) as file:
            fill(file)
        return str(path)
    blob = _name(place, name)
    with TemporaryFile() as file:
        fill(file)
        file.seek(0)
        client = _client(place)
        _tried(place, blob, lambda: client.upload_blob(blob, file, overwrite=True))
    assert place.location is not None
    return f"{place.location.account_url}/{place.location.container}/{blob}"


def read(place: Place, name: str) -> bytes | None:
    """What stands there under that name; None where nothing does. Raises SourceError where it cannot be read."""
    if place.path is not None:
        path = place.path / name
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError as error:
            raise SourceError(str(path), f"cannot be read: {error.strerror or error}") from error
    from azure.core.exceptions import ResourceNotFoundError

    blob = _name(place, name)

    def get() -> bytes | None:
        try:
            return bytes(_client(place).download_blob(blob).readall())
        except ResourceNotFoundError:
            return None

    found: bytes | None = _tried(place, blob, get)
    return found


def names(place: Place, folder: str) -> list[str]:
    """The names of the files below a folder of the place, sorted. Raises SourceError where it cannot be listed."""
    if place.path is not None:
        try:
            return sorted(path.name for path in (place.path / folder).glob("*") if path.is_file())
        except OSError as error:
            raise SourceError(str(place), f"cannot be listed: {error.strerror or error}") from error
    prefix = _name(place, f"{folder}/")

    def checked(answer: Any) -> None:
        # The library reads any other XML as a list of nothing.
        if b"<EnumerationResults" not in answer.http_response.body()[:1024]:
            raise SourceError(f"{place}/{folder}", _NOT_STORAGE, hint=_INSTEAD)

    def listed() -> list[str]:
        found = _client(place).list_blob_names(name_starts_with=prefix, raw_response_hook=checked)
        return [name.removeprefix(prefix) for name in found]

    found: list[str] = _tried(place, prefix, listed)
    return sorted(name for name in found if "/" not in name)


def _name(place: Place, name: str) -> str:
    assert place.location is not None
    prefix = place.location.prefix.rstrip("/")
    return "/".join(filter(None, (prefix, name)))


def _client(place: Place) -> ContainerClient:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ContainerClient

    location, access = place.location, place.access
    assert location is not None
    quiet_loggers()
    secret = os.environ.get(place.variable or "", "").strip()
    credential: Any
    if access.auth == "key":
        credential = AzureNamedKeyCredential(_account(location), secret)
    elif access.auth == "sas":
        credential = AzureSasCredential(secret.lstrip("?"))
    else:
        cloud = CLOUDS[location.cloud]
        ca_file = checked_ca_file(access.ca_file)
        credential = sign_in(access, cloud, cloud.audience, str(location), ca_file).credential
    session = session_for(location.account_url, checked_ca_file(access.ca_file))
    transport = RequestsTransport(
        session=session,
        use_env_settings=False,
        connection_timeout=min(10.0, access.timeout),
        read_timeout=access.timeout,
        connection_verify=session.verify,
    )
    return ContainerClient(
        location.account_url,
        location.container,
        credential=credential,
        transport=transport,
        audience=CLOUDS[location.cloud].audience,
        retry_total=3,
        permit_redirects=False,
        proxies=dict(session.proxies),
        user_agent="flowlens",
    )


def _tried(place: Place, blob: str, call: Callable[[], Any]) -> Any:
    from azure.core.exceptions import AzureError

    assert place.location is not None
    where = f"{place.location.account_url}/{place.location.container}/{blob}"
    try:
        return call()
    except (AttributeError, TypeError, LookupError, ArithmeticError):
        # The library takes an answer apart without looking whether it is one.
        raise SourceError(where, _NOT_STORAGE, hint=_INSTEAD) from None
    except (AzureError, OSError, ValueError) as error:
        if status_of(error) == _FORBIDDEN:
            role = f"give the role Storage Blob Data Contributor on the container {place.location.container}"
            raise SourceError(where, "whoever writes the report has no right to", hint=role) from None
        context = Context(where, place.location.account, place.access.auth, timeout=place.access.timeout)
        raise refusal(error, context) from None
