"""Where tokens come from, without Azure: an identity server over TLS, a managed identity endpoint, and an ``az``.

The tokens are those that the blob server checks for audience, issuer and dates; it does not check the signature.
"""

from __future__ import annotations

import json
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt

from tests.faults.loopback import Handler, serving

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT_ID = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "canary-client-secret-Vq8~x1"
IDENTITY_HEADER = "canary-identity-header"
AUDIENCE = "https://storage.azure.com"
_SIGNING_KEY = "no server of the tests checks this signature"


def token(tenant: str = TENANT, *, lifetime: int = 3600, audience: str = AUDIENCE) -> str:
    """A bearer token that the blob server takes."""
    now = int(time.time())
    claims = {
        "aud": audience,
        "iss": f"https://sts.windows.net/{tenant}/",
        "iat": now - 60,
        "nbf": now - 60,
        "exp": now + lifetime,
        "tid": tenant,
        "oid": "99999999-aaaa-bbbb-cccc-dddddddddddd",
        "appid": CLIENT_ID,
    }
    return jwt.encode(claims, _SIGNING_KEY, algorithm="HS256")


@dataclass(frozen=True, slots=True)
class Identity:
    """A running identity server. ``asked`` lists what was asked of it; ``issued`` every token that it gave."""

    port: int
    plain_port: int
    asked: list[str] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)

    def environment(self, tenant: str = TENANT, secret: str = CLIENT_SECRET) -> dict[str, str]:
        """Variables by which a client signs in with a client secret."""
        return {
            "AZURE_AUTHORITY_HOST": f"https://localhost:{self.port}",
            "AZURE_TENANT_ID": tenant,
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_CLIENT_SECRET": secret,
        }

    def managed_identity(self) -> dict[str, str]:
        """Variables by which a client signs in with a managed identity."""
        return {
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{self.plain_port}/msi/token",
            "IDENTITY_HEADER": IDENTITY_HEADER,
        }


@contextmanager
def identity_server(tls: tuple[Path, Path]) -> Iterator[Identity]:
    """An identity server that knows `TENANT` and `CLIENT_SECRET`; ``tls`` is its certificate and key."""
    asked: list[str] = []
    issued: list[str] = []

    class Answers(Handler):
        def respond(self) -> None:
            if self.command == "POST":
                self._sign_in()
                return
            url = urlsplit(self.path)
            asked.append(f"GET {url.path}")
            if url.path == "/msi/token":
                self._managed_identity(parse_qs(url.query))
            elif url.path.endswith("/.well-known/openid-configuration"):
                self._configuration(url.path.split("/")[1])
            else:
                self._say(404, {"error": "not_found"})

        def _sign_in(self) -> None:
            body = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
            tenant = self.path.split("/")[1]
            asked.append(f"POST {urlsplit(self.path).path}")
            if tenant != TENANT:
                self._refuse(400, "invalid_request", f"AADSTS90002: Tenant '{tenant}' not found.")
            elif body.get("client_secret") != [CLIENT_SECRET]:
                self._refuse(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
            else:
                self._say(200, {"token_type": "Bearer", "expires_in": 3600, "access_token": self._token()})

        def _configuration(self, tenant: str) -> None:
            if tenant != TENANT:
                self._refuse(400, "invalid_tenant", f"AADSTS90002: Tenant '{tenant}' not found.")
                return
            base = f"https://localhost:{self.server.server_address[1]}/{tenant}"
            document = {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "issuer": f"{base}/v2.0",
                "tenant_region_scope": None,
            }
            self._say(200, document)

        def _managed_identity(self, query: dict[str, list[str]]) -> None:
            if self.headers.get("X-IDENTITY-HEADER") != IDENTITY_HEADER:
                self._say(400, {"statusCode": 400, "message": "No User Assigned or Delegated Managed Identity found"})
                return
            expires = str(int(time.time()) + 3600)
            resource = query.get("resource", [""])[0]
            self._say(
                200,
                {"access_token": self._token(), "expires_on": expires, "resource": resource, "token_type": "Bearer"},
            )

        def _token(self) -> str:
            issued.append(token())
            return issued[-1]

        def _refuse(self, status: int, error: str, text: str) -> None:
            self._say(
                status,
                {"error": error, "error_description": text, "error_codes": [int(text[6:].split(":", maxsplit=1)[0])]},
            )

        def _say(self, status: int, document: dict[str, object]) -> None:
            self.answer(status, json.dumps(document).encode())

    with serving(Answers, tls) as port, serving(Answers) as plain_port:
        yield Identity(port, plain_port, asked, issued)


def write_az(folder: Path, *, signed_in: bool = True, seconds: float = 0) -> Path:
    """A folder for the front of PATH that holds an ``az`` which prints a token, or says that nobody is signed in.

    ``seconds`` is how long it takes for that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expires = int(time.time()) + 3600
    document = {
        "accessToken": token(),
        "expiresOn": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.localtime(expires)),
        "expires_on": expires,
        "subscription": TENANT,
        "tenant": TENANT,
        "tokenType": "Bearer",
    }
    lines = [f"#!{sys.executable}", "import sys, time", f"time.sleep({seconds})"]
    if signed_in:
        lines.append(f"print({json.dumps(document)!r})")
    else:
        lines.append("sys.exit(\"ERROR: Please run 'az login' to setup account.\")")
    program = folder / "az"
    program.write_text("\n".join([*lines, ""]))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder
