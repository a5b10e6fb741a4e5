"""Where a lake is: a folder, or an address in an account with a credential of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flowlens.errors import ConfigError, is_unicode
from flowlens.sources.accounts import CLOUDS, IDENTITIES, Access, checked_ca_file, sign_in
from flowlens.sources.refusals import redact

KEY_VARIABLE = "FLOWLENS_LAKE_KEY"
SAS_VARIABLE = "FLOWLENS_LAKE_SAS_TOKEN"
ENDPOINT_VARIABLE = "FLOWLENS_LAKE_ENDPOINT"

_CONTAINER_ADDRESS = re.compile(r"abfss://(?P<container>[^@/]+)@(?P<account>[a-z0-9]{3,24})\.[^/]+/(?P<path>.+)")
_SHORT_ADDRESS = re.compile(r"az://(?P<container>[^@/]+)/(?P<path>.+)")


@dataclass(frozen=True, slots=True)
class LakePlace:
    """Where a lake is; its text is what was given, and no secret. ``folder`` is None where it is in an account."""

    text: str
    folder: Path | None
    options: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    def uri(self, part: str = "") -> str:
        """The address of the table in the folder ``part``, as deltalake takes it."""
        base = str(self.folder) if self.folder is not None else self.text.rstrip("/")
        return f"{base}/{part}" if part else base


def is_lake_address(text: str) -> bool:
    """Whether ``text`` names a lake in an account: ``abfss://`` or ``az://``.

    >>> is_lake_address("abfss://lake@contoso.dfs.core.windows.net/flows"), is_lake_address("lake")
    (True, False)
    """
    return text.startswith(("abfss://", "az://"))


def is_lake_folder(text: str) -> bool:
    """Whether ``text`` is a folder that holds a Delta table."""
    return os.path.isdir(os.path.join(text, "_delta_log"))


def parse_lake(text: str, *, account: str | None = None, token: str | None = None) -> LakePlace:
    """Where the lake ``text`` is: a folder, ``abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH`` or ``az://CONTAINER/PATH``.

    The credential of an account is the lake's own: a key or SAS token from the environment, else ``token``. ``account`` is the
    account of ``az://``. Raises ConfigError for any other address, and for a folder whose name is not Unicode.
    """
    if not is_unicode(text):
        raise ConfigError(f"{text!r:.160}", "is no place for a lake: its name is not Unicode")
    if not is_lake_address(text):
        if "://" in text:
            raise ConfigError(
                redact(text.partition("?")[0]),
                "is no place for a lake",
                hint="name a folder, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH or az://CONTAINER/PATH",
            )
        return LakePlace(text, Path(text).absolute())
    found = _CONTAINER_ADDRESS.fullmatch(text) or _SHORT_ADDRESS.fullmatch(text)
    if found is None:
        raise ConfigError(
            redact(text), "expected abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH or az://CONTAINER/PATH"
        )
    name = found.groupdict().get("account") or account or os.environ.get("FLOWLENS_LAKE_ACCOUNT")
    if not name:
        raise ConfigError(text, "names no account", hint="set FLOWLENS_LAKE_ACCOUNT, or write abfss://")
    options = {"azure_storage_account_name": name}
    if key := os.environ.get(KEY_VARIABLE):
        options["azure_storage_account_key"] = key
    elif sas := os.environ.get(SAS_VARIABLE):
        options["azure_storage_sas_key"] = sas.lstrip("?")
    elif token:
        options["azure_storage_token"] = token
    if endpoint := os.environ.get(ENDPOINT_VARIABLE):
        if endpoint.startswith("http://") and not re.match(r"http://(127\.|localhost[:/]|\[::1\])", endpoint):
            raise ConfigError(ENDPOINT_VARIABLE, "plain http would show the credential", hint="write https://")
        options |= {"azure_storage_endpoint": endpoint, "allow_http": "true"}
    return LakePlace(text, None, options)


def locate_lake(text: str, access: Access) -> LakePlace:
    """Where the lake ``text`` is, with a credential of its own for one in an account: key or SAS token from the environment, else
    the identity that ``access`` asks for.

    Raises SourceError where there is none.
    """
    token = None
    if is_lake_address(text) and not (os.environ.get(KEY_VARIABLE) or os.environ.get(SAS_VARIABLE)):
        if access.auth not in IDENTITIES:
            access = replace(access, auth="default")
        cloud = CLOUDS[access.cloud or "global"]
        token = sign_in(access, cloud, cloud.audience, text, checked_ca_file(access.ca_file)).token
    return parse_lake(text, token=token)
