"""Each declared error of a storage account, provoked through the command line by what really leads to it.

The tests run over the table of declared errors: one that is declared and has no case here fails.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowlens.cli import ERROR, INCOMPLETE, WRONG_USAGE
from flowlens.sources import storage
from flowlens.sources.refusals import REFUSALS
from tests.faults.azurite import KEY, make_certificate
from tests.faults.conftest import LONG, Stored
from tests.faults.identity import identity_server, write_az
from tests.faults.loopback import Handler, serving
from tests.faults.proxies import (
    ARCHIVED,
    CHANGED,
    FIREWALL,
    GONE,
    INTERNAL,
    NO_ROLE,
    SERVER_BUSY,
    Broken,
    Fault,
    Plan,
    Refusal,
    Request,
    always,
    connect_proxy,
    fault_proxy,
)
from tests.faults.writer import DAY, HEAD, TAIL, GrowingBlob, blob_name, record
from tests.flow_logs import Ran, run
from tests.make_logs import vnet_log

NINE = DAY + dt.timedelta(hours=9)
WINDOW = ("--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")
HOUR = dt.timedelta(hours=1)
NOWHERE = "https://127.0.0.1:9/account/logs"
"""An address over TLS; a sign-in that fails never gets so far as to ask it."""

pytestmark = pytest.mark.usefixtures("impatient")


@dataclass
class World:
    """What a case may use: a container with one blob of an hour, the variables, a folder on PATH, a folder of its own."""

    stored: Stored
    patch: pytest.MonkeyPatch
    programs: Path
    folder: Path

    def ask(
        self, url: str | None = None, *options: str | Path, auth: str = "key", timeout: float = 0.5, window: bool = True
    ) -> Ran:
        url = self.stored.url if url is None else url
        base = ("--account-url", url.partition("?")[0].rpartition("/")[0]) if "127.0.0.1" in url else ()
        times = WINDOW if window else ()
        return run(
            "coverage", url, "--auth", auth, *base, *options, "--timeout", str(timeout), *times, "--format", "json"
        )

    def meeting(self, plan: Plan | Fault, *options: str | Path, auth: str = "key", window: bool = True) -> Ran:
        """The run where a proxy before the server does what the plan says."""
        with fault_proxy(self.stored.server.host, plan if callable(plan) else always(plan)) as proxy:
            return self.ask(self.stored.through(proxy.host), *options, auth=auth, window=window)

    def with_sas(self, **words: object) -> Ran:
        return self.ask(f"{self.stored.url}?{self.stored.server.sas(self.stored.name, **words)}", auth="default")  # type: ignore[arg-type]


@pytest.fixture
def world(stored: Stored, monkeypatch: pytest.MonkeyPatch, own_environment: Path, tmp_path: Path) -> World:
    GrowingBlob(stored.client, hour=NINE).create(2)
    return World(stored, monkeypatch, own_environment, tmp_path)


def reads(request: Request) -> bool:
    return request.is_read


def plain_http(world: World) -> Ran:
    return world.ask("http://contoso.blob.core.windows.net/logs")


def no_key(world: World) -> Ran:
    world.patch.delenv("AZURE_STORAGE_KEY")
    return world.ask()


def expired(world: World) -> Ran:
    now = dt.datetime.now(dt.UTC)
    return world.with_sas(start=now - 2 * HOUR, expiry=now - HOUR)


def not_yet(world: World) -> Ran:
    now = dt.datetime.now(dt.UTC)
    return world.with_sas(start=now + HOUR, expiry=now + 2 * HOUR)


def signed_out(world: World) -> Ran:
    write_az(world.programs, signed_in=False)
    return world.ask(NOWHERE, auth="cli", timeout=5)


def silent_identity(world: World) -> Ran:
    class Silent(Handler):
        def respond(self) -> None:
            self.connection.recv(1)

    with serving(Silent) as port:
        world.patch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{port}/msi/token")
        world.patch.setenv("IDENTITY_HEADER", "x")
        return world.ask(NOWHERE, auth="managed-identity", timeout=0.1)


def refused_sign_in(world: World) -> Ran:
    certificate = make_certificate(world.folder)
    with identity_server(certificate) as identity:
        for name, value in identity.environment(secret="wrong").items():
            world.patch.setenv(name, value)
        return world.ask(NOWHERE, "--ca-file", certificate[0], auth="environment", timeout=5)


def wrong_key(world: World) -> Ran:
    world.patch.setenv("AZURE_STORAGE_KEY", KEY[::-1].lstrip("=") + "==")
    return world.ask()


def other_container(world: World) -> Ran:
    return world.ask(f"{world.stored.url}?{world.stored.server.sas('another-container')}", auth="default")


def untrusted(world: World) -> Ran:
    with serving(Handler, make_certificate(world.folder)) as port:
        return world.ask(f"https://127.0.0.1:{port}/account/logs")


def refusing_proxy(world: World) -> Ran:
    with connect_proxy(refuse=403) as proxy:
        world.patch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        return world.ask(NOWHERE)


def nobody_listens(world: World) -> Ran:
    with serving(Handler) as port:
        pass
    return world.ask(f"http://127.0.0.1:{port}/account/logs")


def append_blob(world: World) -> Ran:
    name = blob_name(vnet_log(), "00005E005302", NINE)
    world.stored.client.upload_blob(name, b'{"records":[]}', blob_type="AppendBlob")
    return world.ask()


def replaced_in_the_middle(world: World) -> Ran:
    """Another blob of the same name is there once the first of two ranges was read."""
    name = blob_name(vnet_log(), "00005E005301", NINE)
    client = world.stored.client

    def write(minute: int) -> None:
        body = HEAD + record(vnet_log(), "00005E005301", NINE, minute, 2) + b" " * (5 << 20) + TAIL
        client.upload_blob(name, body, overwrite=True)

    write(0)

    def plan(request: Request) -> Fault | None:
        if request.is_block_list:
            write(1)
        first = request.range.startswith("bytes=0-")
        return CHANGED if request.is_read and request.attempt == 0 and not first else None

    return world.meeting(plan)


def restless(world: World) -> Ran:
    """A blob of this very hour, of which another version is there at every read."""
    now = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
    GrowingBlob(world.stored.client, hour=now).create(2)
    return world.meeting(always(CHANGED, reads), "--start", "2h", window=False)


def unspeakable(world: World) -> Ran:
    """A name with a character that no XML can hold; the server fails at the whole page."""
    world.stored.client.get_blob_client(f"{blob_name(vnet_log(), '00005E005302', NINE)}\x1b").upload_blob(b"x")
    return world.ask()


def snapshots_listed(world: World) -> Ran:
    """A server that lists more than it was asked for."""
    root = "flowLogResourceID=/S_NW/NW_A/"
    facts = (
        "<Properties><Etag>0x8D</Etag><Content-Length>14</Content-Length><BlobType>BlockBlob</BlobType></Properties>"
    )
    blob = f"<Blob><Name>{root}y=2026/m=06/d=15/h=09/m=00/macAddress=00005E005301/PT1H.json</Name>"
    blob += f"<Snapshot>2026-06-15T10:00:00.0000000Z</Snapshot>{facts}</Blob>"

    class Lists(Handler):
        def respond(self) -> None:
            listed = f"<BlobPrefix><Name>{root}y=2026/</Name></BlobPrefix>" if "delimiter" in self.path else blob
            text = f"<EnumerationResults><Blobs>{listed}</Blobs><NextMarker /></EnumerationResults>"
            self.answer(200, f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode(), "application/xml")

    with serving(Lists) as port:
        base = f"http://127.0.0.1:{port}/account"
        return world.ask(f"{base}/logs/{root}", "--account-url", base)


def folders_without_end(world: World) -> Ran:
    """A server with more folders than anybody has flow logs, and no year in any of them."""
    if not LONG:
        world.patch.setattr(storage, "_FOLDERS_LIMIT", 30)
    count = storage._FOLDERS_LIMIT + 1

    class Broad(Handler):
        def respond(self) -> None:
            top = "%2Ff" not in self.path and "/f" not in self.path
            names = [f"flowLogResourceID=/f{number}/" for number in range(count if top else 0)]
            found = "".join(f"<BlobPrefix><Name>{name}</Name></BlobPrefix>" for name in names)
            text = f"<EnumerationResults><Blobs>{found}</Blobs><NextMarker /></EnumerationResults>"
            self.answer(200, f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode(), "application/xml")

    with serving(Broad) as port:
        return world.ask(f"http://127.0.0.1:{port}/account/logs", timeout=5)


def other_account(world: World) -> Ran:
    text = f"AccountName=fabrikam;AccountKey={KEY};BlobEndpoint={world.stored.server.account_url};"
    world.patch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    return world.ask(auth="connection-string")


def no_container(world: World) -> Ran:
    return world.ask(f"{world.stored.server.account_url}/no-such-container")


LATE = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - 7200))
WRONG_CLOCK = Refusal(403, "AuthenticationFailed", "Server failed to authenticate.", head=(("Date", LATE),))

CASES: dict[str, Callable[[World], Ran]] = {
    "FL-S01": lambda world: world.ask("https://contoso.dfs.core.windows.net/logs"),
    "FL-S02": plain_http,
    "FL-S03": no_key,
    "FL-S04": lambda world: world.with_sas(permission="r"),
    "FL-S05": expired,
    "FL-S06": not_yet,
    "FL-S07": signed_out,
    "FL-S08": silent_identity,
    "FL-S09": refused_sign_in,
    "FL-S10": lambda world: world.meeting(NO_ROLE),
    "FL-S11": lambda world: world.meeting(FIREWALL),
    "FL-S12": wrong_key,
    "FL-S13": other_container,
    "FL-S14": lambda world: world.meeting(Refusal(401, "InvalidAuthenticationInfo", "Issuer validation failed.")),
    "FL-S15": lambda world: world.meeting(Refusal(403, "KeyBasedAuthenticationNotPermitted", "Not permitted.")),
    "FL-S16": lambda world: world.ask("https://contoso.invalid/logs", "--account-url", "https://contoso.invalid"),
    "FL-S17": nobody_listens,
    "FL-S18": no_container,
    "FL-S19": lambda world: world.meeting(WRONG_CLOCK),
    "FL-S20": untrusted,
    "FL-S21": refusing_proxy,
    "FL-S22": lambda world: world.meeting(Broken("stall", 30)),
    "FL-S23": lambda world: world.meeting(SERVER_BUSY),
    "FL-S24": lambda world: world.meeting(always(INTERNAL, reads)),
    "FL-S25": lambda world: world.meeting(Refusal(302, location="http://127.0.0.1:9/elsewhere")),
    "FL-S26": lambda world: world.meeting(always(GONE, reads)),
    "FL-S27": lambda world: world.meeting(always(ARCHIVED, reads)),
    "FL-S28": append_blob,
    "FL-S29": replaced_in_the_middle,
    "FL-S30": restless,
    "FL-S31": unspeakable,
    "FL-S32": snapshots_listed,
    "FL-S33": lambda world: world.ask(None, "--ca-file", world.folder / "none.pem"),
    "FL-S34": other_account,
    "FL-S35": lambda world: world.meeting(Refusal(418, "NeverHeardOf", "Something new.")),
    "FL-S36": lambda world: world.meeting(Refusal(403, "AccountIsDisabled", "The account is disabled.")),
    "FL-S37": folders_without_end,
}
OF_STORAGE = [code for code in REFUSALS if code.startswith("FL-S")]
OF_A_BLOB = {"FL-S24", "FL-S26", "FL-S27", "FL-S28", "FL-S29", "FL-S30"}
"""What is told of one blob, in the ledger of a run that goes on."""
OF_USAGE = {"FL-S01", "FL-S02", "FL-S03", "FL-S33", "FL-S34"}


def fixed_words(template: str) -> list[str]:
    """What stands in every error of a template, whatever is filled in."""
    return [words for words in re.split(r"\{\w+\}", template) if words]


@pytest.mark.parametrize("code", OF_STORAGE)
def test_each_declared_error_is_provoked_and_told_with_its_cause_and_next_step(world: World, code: str) -> None:
    ran = CASES[code](world)
    if code in OF_A_BLOB:
        assert ran.code == INCOMPLETE, ran.err
        (reject,) = ran.document["ledger"]["rejects"]
        cause, step = reject["reason"].rsplit(" (", 1)
        assert ran.document["ledger"]["unread"] == 1
    else:
        assert ran.code == (WRONG_USAGE if code in OF_USAGE else ERROR), ran.err
        assert not ran.stdout
        cause, step = ran.err.removeprefix("error: ").splitlines()
    assert f"{code} " in cause
    assert all(words in cause for words in fixed_words(REFUSALS[code].problem))
    assert all(words in step for words in fixed_words(REFUSALS[code].hint))


def test_every_case_is_of_a_declared_error() -> None:
    assert set(CASES) == set(OF_STORAGE)
