"""The truth: invented traffic whose right answers are known, since they come from the traffic and not from its logs.

``generate(seed)`` invents a network, its flows and which blobs were written, and says what any right reader must
answer. Nothing here imports flowlens, and nothing here reads what it wrote. The rules, in the words of this package:

**View.** What one NIC writes about a flow. Roles: *source* (the NIC owns the source address, direction O),
*destination* (owns the destination address, I), *hop* (a forwarder's inbound leg, received counters 0), *hop out*
(its outbound leg with the same five-tuple, received 0), *reply* (return traffic at a forwarder, rows of their own
with addresses and ports swapped). What a forwarder with NAT sends on is a flow of its own, of which the forwarder is
the source (``after_nat``), with replies in the same row. Forwarders translate only IPv4 to public addresses. Traffic
goes through forwarders only towards ports below 1024 from ports of 32768 and more, so that a reply can be told by its
ports.

**Hour.** A tuple belongs to the full hour of its own time, whatever blob it stands in. A blob belongs to the hour of
its path. Only tuples inside the window ``[start, end)`` count.

**Counted.** All flows with the same key (source VNet and address, destination VNet and address, destination port,
protocol) are counted together. For each hour:

1. the places that could count it are, in this order: the NIC that owns the source, the NIC that owns the destination,
   the forwarder's inbound leg; in each place its flow logs in the order VNet, subnet, NIC;
2. the first place that *covers* the hour counts: its flow log has a blob of that NIC and hour. Not whether a tuple
   happens to be in it: where it covers the hour and shows nothing, nothing is counted;
3. where no place covers the hour, but late tuples of it stand in a blob of the next hour, the first place that has
   any counts, so that nothing is lost.

``hop out`` and ``reply`` views are never counted. A VNet is None where no NIC owns the address. The port is None
where there is none, and where the tuple's ports alone (source below 1024, destination 32768 or more) could make it a
reply.

**Egress** to a required endpoint is judged per source address over the counted tuples of role *source*; ``hop only``
where there are counted tuples but none of that role. A success is a tuple with a reply, on port 443 one of 500 bytes or
more, since less holds no TLS handshake; activation on port 1688 has none. In order:
successes and denials: *Recovered* if the last success is later than the last denial, else *Partly denied*; successes:
*Reached* (an unanswered flow beside an answered one changes nothing, whichever came first); denials: *Denied*; any
reply at all: *Answered without data*; any packet sent: *Unanswered*; else *Pending*.

**Encryption** of an ordered pair of addresses, both owned by logged NICs: the codes of all C and E tuples of all
views but replies, in all flow logs, whatever was counted; a D tuple says something only if its rule is
``unspecified``: then it was dropped. Only X: *Encrypted*; X and others: *Mixed*; only drops: *Dropped*; else
*Unencrypted*. NX_LOCAL_DST is *Unencrypted* where it is all there is, and says nothing beside other codes.

**Destinations**: public addresses with a counted tuple that was not denied, a lone B included, in any role. The
platform's 168.63.129.16 stands apart.

**Denied at destination**: private, the counted tuples of role source sent and never received, and the destination's
NIC wrote an inbound D in the window.

**Coverage** of a NIC-hour, for the hours that the window touches, and for the NICs of which that flow log has a blob
in one of them or in the hour behind them, which is read too: *read* where the blob is there; *missing* where the flow log has no blob of any NIC in that hour (also
before it was switched on), or another NIC wrote a flow with this one that it must have seen; else *silent*. Blobs are
taken away only where this does not depend on how near an hour's edge, or a window's, the other NIC's tuple is.

Left out, since truth would be a matter of opinion: an address that moves between NICs; flows between VNets with an
address owned in several (``ambiguous=True`` brings them, labelled); NICs with a NIC flow log alone, whose VNet no log
says (``nic_only=True``); forwarders that translate private traffic, deny, or forward to ports of 1024 and more;
counters that are running totals; several encryption reasons at once.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import random
from dataclasses import dataclass
from pathlib import Path

from . import blobs as _blobs
from . import expected as _expected
from . import topology as _topology
from . import traffic as _traffic
from . import writers as _writers
from .blobs import Blobs
from .expected import Expected
from .topology import Settings, Topology
from .traffic import HOUR, MINUTE, Flow

__all__ = ["Settings", "Truth", "generate"]


@dataclass(frozen=True, slots=True)
class Truth:
    """An invented day of a network, its logs, and the right answers. ``interval`` is in minutes."""

    seed: int
    settings: Settings
    start: dt.datetime
    end: dt.datetime
    topology: Topology
    flows: tuple[Flow, ...]
    blobs: Blobs
    expected: Expected
    interval: int

    @property
    def inventory(self) -> list[dict[str, str]]:
        """Who every address is: ``vnet``, ``address``, ``mac``, ``workload``; unlogged NICs included."""
        return [
            {"vnet": nic.vnet.id, "address": address, "mac": nic.mac, "workload": nic.vm}
            for nic in self.topology.nics
            for address in nic.addresses
        ]

    def write_blobs(self, folder: Path) -> list[Path]:
        """Write the blobs below ``folder`` in their container's paths, and return the paths."""
        return _writers.write_blobs(self.topology, self.blobs, Path(folder))

    def write_traffic_analytics(self, path: Path) -> int:
        """Write the same tuples as NTANetAnalytics rows, a JSON array, and return the number of rows."""
        return _writers.write_traffic_analytics(self.topology, self.blobs, Path(path), self.interval)

    def document(self) -> dict[str, object]:
        """The answers as plain JSON values, with what they are about. Hours are epoch ms."""
        return {
            "seed": self.seed,
            "settings": dataclasses.asdict(self.settings),
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "peerings": sorted(sorted(p) for p in self.topology.peerings),
            "inventory": self.inventory,
            "expected": dataclasses.asdict(self.expected),
        }

    def write_expected(self, path: Path) -> None:
        """Write ``document`` as JSON."""
        Path(path).write_text(json.dumps(self.document(), indent=1) + "\n")


def generate(seed: int, **overrides: bool | int | None) -> Truth:
    """The truth of a seed; the same for the same seed and overrides, which are fields of ``Settings``.

    >>> generate(1, forwarders=False, max_nics=3).settings.forwarders
    False
    """
    settings = Settings(**overrides)  # type: ignore[arg-type]
    rng = random.Random(seed)
    hours = rng.choice((2, 3, 3, 4, 4, 5, 6))
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=rng.randrange(0, 24 * 200))
    first = int(day.timestamp()) * 1000
    last = first + hours * HOUR
    window = _window(rng, settings, first, last)
    topology = _topology.invent(rng, settings, first, hours)
    world = _traffic.World(rng, settings, topology, first, last)
    flows = _traffic.invent(world)
    blobs = _blobs.place(world, flows, window)
    return Truth(
        seed,
        settings,
        _writers.utc(window[0]),
        _writers.utc(window[1]),
        topology,
        tuple(flows),
        blobs,
        _expected.expect(world, flows, blobs, window),
        rng.choice((10, 60)),
    )


def _window(rng: random.Random, settings: Settings, first: int, last: int) -> tuple[int, int]:
    """Everything, some full hours, or edges in the middle of hours; never under an hour long."""
    kind = rng.choice(("all", "all", "hours", "minutes"))
    if not settings.window or kind == "all" or last - first < 3 * HOUR:
        return first, last
    if kind == "hours":
        start, end = first + rng.choice((0, HOUR)), last - rng.choice((0, HOUR))
    else:
        start, end = first + rng.randint(1, 55) * MINUTE, last - rng.randint(1, 55) * MINUTE + rng.randint(0, 999)
    return start, end
