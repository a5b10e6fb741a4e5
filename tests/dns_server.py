"""A DNS server on loopback, over UDP and TCP, that answers as told: rightly, not at all, or with lies."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = Mapping[str, list[tuple[str, str]]]
"""Records by name: (kind, data). A name with no records exists and is empty."""


@dataclass
class Zone:
    """What the server says; ``behaviours`` change the answer for a name before it is sent, None sends nothing."""

    records: Records
    behaviours: Mapping[str, Callable[[dns.message.Message, dns.message.Message], bytes | None]] = field(
        default_factory=dict
    )
    follow: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, transport))
        response = dns.message.make_response(query, recursion_available=True)
        here, seen = name, set()
        while here in self.records and here not in seen:
            seen.add(here)
            aliases = [data for what, data in self.records[here] if what == "CNAME"]
            if aliases:
                response.answer.append(dns.rrset.from_text(f"{here}.", 60, "IN", "CNAME", f"{aliases[0]}."))
                here = aliases[0]
                if not self.follow:
                    break
                continue
            data = [data for what, data in self.records[here] if what == kind]
            if data:
                response.answer.append(dns.rrset.from_text(f"{here}.", 60, "IN", kind, *data))
            break
        if name not in self.records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        if behaviour := self.behaviours.get(name):
            return behaviour(query, response)
        whole = response.to_wire(max_size=65535)
        if transport == "udp" and len(whole) > 512:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()
        return whole


@contextlib.contextmanager
def serving(zone: Zone) -> Iterator[tuple[str, int]]:
    """The address and port at which the zone is served until the block ends."""

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            wire, sock = self.request
            if (answer := zone.answer(wire, "udp")) is not None:
                sock.sendto(answer, self.client_address)

    class Stream(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = int.from_bytes(self.rfile.read(2))
            answer = zone.answer(self.rfile.read(length), "tcp")
            if answer is not None:
                self.wfile.write(len(answer).to_bytes(2) + answer)

    class Datagrams(socketserver.ThreadingUDPServer):
        daemon_threads = True

    class Streams(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with contextlib.ExitStack() as stack:
        streams = stack.enter_context(Streams(("127.0.0.1", 0), Stream))
        port = streams.server_address[1]
        datagrams = stack.enter_context(Datagrams(("127.0.0.1", port), Datagram))
        for server in (streams, datagrams):
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield "127.0.0.1", port
