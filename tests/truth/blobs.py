"""Which blob each tuple is written to, which blobs are gone, and what that says about every NIC-hour.

A NIC's record of a minute is flushed 3 to 63 s after its tuples, so the last tuples of an hour can stand in the blob of
the next. Blobs are deleted only where what is left proves plainly whether the NIC-hour is *silent* or *missing*.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from . import traffic
from .topology import FlowLog
from .traffic import HOUR, MINUTE, Flow, FlowTuple, View, World

LAG = 3_000
PLAIN = (10_000, HOUR - 75_000)
"""Milliseconds of an hour in which the two clocks of a flow and its flush all agree on the hour."""

NicHour = tuple[str, str, int]
"""Flow log id, MAC, start of the hour (epoch ms)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tuple in a blob; ``index`` is its place in its view."""

    record_time: int
    view: View
    index: int

    @property
    def tuple(self) -> FlowTuple:
        return self.view.tuples[self.index]


@dataclass(slots=True)
class Blobs:
    """Everything that was written, and what was taken away."""

    entries: dict[NicHour, list[Entry]] = field(default_factory=dict)
    deleted: dict[NicHour, list[Entry]] = field(default_factory=dict)
    places: dict[int, dict[str, list[tuple[int, FlowTuple]]]] = field(default_factory=dict)
    """By identity of the view, then flow log id: its written tuples, each with its index in the view."""

    def written(self, view: View, log_id: str) -> list[tuple[int, FlowTuple]]:
        """The tuples of a view that stand in a blob of this flow log."""
        return self.places.get(id(view), {}).get(log_id, [])


def place(world: World, flows: list[Flow], window: tuple[int, int]) -> Blobs:
    """Write the flows to blobs, adding heartbeats to ``flows`` and taking blobs away. Times in epoch ms."""
    offsets = {(log.id, mac): world.rng.randrange(0, MINUTE) for log in world.topology.flow_logs for mac in log.macs}
    blobs = Blobs(_all_entries(world, flows, offsets))
    beats = _heartbeats(world, flows, blobs)
    if beats:
        flows += beats
        blobs = Blobs(_all_entries(world, flows, offsets))
    _take_away(world, blobs, window)
    for (log_id, _, _), entries in blobs.entries.items():
        for entry in entries:
            blobs.places.setdefault(id(entry.view), {}).setdefault(log_id, []).append((entry.index, entry.tuple))
    return blobs


def hours_of(start: int, end: int) -> range:
    """Starts of the full hours that a window touches."""
    return range(start - start % HOUR, end, HOUR)


def record_time(world: World, offset: int, time: int) -> int:
    """When the record that holds a tuple is flushed: once a minute, at the second that ``offset`` says."""
    if not world.settings.late_records:
        return time - time % MINUTE + MINUTE - 1
    return time + LAG + (offset - time - LAG) % MINUTE


def _all_entries(world: World, flows: list[Flow], offsets: dict[tuple[str, str], int]) -> dict[NicHour, list[Entry]]:
    entries: dict[NicHour, list[Entry]] = defaultdict(list)
    for flow in flows:
        for view in flow.views:
            for log in world.topology.logs_of(view.nic.mac):
                for index, row in enumerate(view.tuples):
                    if row.time >= log.starts:
                        flush = record_time(world, offsets[log.id, view.nic.mac], row.time)
                        entries[log.id, view.nic.mac, flush - flush % HOUR].append(Entry(flush, view, index))
    return {key: sorted(found, key=lambda e: (e.record_time, e.tuple.time)) for key, found in sorted(entries.items())}


def _others(view: View) -> set[str]:
    """MACs of the NICs at the ends of a view, other than the one that wrote it."""
    return {end.nic.mac for end in (view.src, view.dst) if end.nic and end.nic.mac != view.nic.mac}


def _heartbeats(world: World, flows: list[Flow], blobs: Blobs) -> list[Flow]:
    """Heartbeats for NIC-hours without a blob in which another NIC, or another of its flow logs, wrote a flow with it.

    Also one for each flow log and hour in which no NIC wrote anything: only what is taken away is a gap.
    """
    talked: set[tuple[str, int]] = set()
    for flow in flows:
        for view in flow.views:
            for row in view.tuples:
                talked.add((view.nic.mac, row.time - row.time % HOUR))
                for mac in _others(view):
                    talked |= {(mac, row.time - row.time % HOUR), (mac, (row.time + 66_000) // HOUR * HOUR)}
    for _, mac, hour in blobs.entries:
        talked.add((mac, hour))
    needed: set[tuple[str, int]] = set()
    for log in world.topology.flow_logs:
        for hour in range(world.first, world.last, HOUR):
            if hour + HOUR <= log.starts:
                continue
            absent = [mac for mac in log.macs if (log.id, mac, hour) not in blobs.entries]
            needed |= {(mac, hour) for mac in absent if (mac, hour) in talked}
            if len(absent) == len(log.macs):
                needed.add((log.macs[0], hour))
    # A heartbeat appears in all flow logs of its NIC, and says nothing about other NICs, so one pass is enough.
    return [flow for mac, hour in sorted(needed) for flow in traffic.heartbeat(world, world.topology.by_mac[mac], hour)]


def _take_away(world: World, blobs: Blobs, window: tuple[int, int]) -> None:
    """Make gaps of whole flow logs and delete single NIC-hours, then put back what would leave a doubtful state."""
    rng, settings = world.rng, world.settings
    hours = list(range(world.first, world.last, HOUR))
    if settings.gaps:
        for log in world.topology.flow_logs:
            if rng.random() < 0.12:
                gap = rng.choice(hours)
                for mac in log.macs:
                    _delete(blobs, (log.id, mac, gap))
    if settings.deletions:
        share = rng.choice((0.0, 0.03, 0.15))
        for log in world.topology.flow_logs:
            for mac in log.macs:
                for hour in hours:
                    if rng.random() < share:
                        for twin in world.topology.logs_of(mac) if rng.random() < 0.5 else [log]:
                            _delete(blobs, (twin.id, mac, hour))
    while doubtful := _doubtful(world, blobs, window):
        for key in doubtful:
            blobs.entries[key] = blobs.deleted.pop(key)
    blobs.entries = dict(sorted(blobs.entries.items()))


def _delete(blobs: Blobs, key: NicHour) -> None:
    if key in blobs.entries:
        blobs.deleted[key] = blobs.entries.pop(key)


def _doubtful(world: World, blobs: Blobs, window: tuple[int, int]) -> list[NicHour]:
    """Deleted NIC-hours whose state depends on how a reader weighs what is left."""
    plain, any_sign = signs(blobs, window)
    gaps = gap_hours(world, blobs)
    return [
        (log_id, mac, hour)
        for log_id, mac, hour in blobs.deleted
        if (log_id, hour) not in gaps and ((mac, hour) in any_sign) != ((mac, hour) in plain)
    ]


def signs(blobs: Blobs, window: tuple[int, int]) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """(MAC, hour) of which a written blob shows traffic: by plain signs, and by any sign at all.

    A plain sign is a tuple that another NIC wrote about a flow with this one, inside the window, away from the hour's
    edges, and that this NIC must have seen: any but an attempt denied on the way out.
    """
    plain: set[tuple[str, int]] = set()
    any_sign: set[tuple[str, int]] = set()
    for (_, writer, blob_hour), entries in blobs.entries.items():
        any_sign.add((writer, blob_hour))
        for entry in entries:
            row, hour = entry.tuple, entry.tuple.time - entry.tuple.time % HOUR
            any_sign.add((writer, hour))
            stopped = entry.view.direction == "O" and row.state == "D"
            for mac in _others(entry.view):
                any_sign |= {(mac, hour), (mac, blob_hour)}
                if not stopped and PLAIN[0] <= row.time - hour < PLAIN[1] and window[0] <= row.time < window[1]:
                    plain.add((mac, hour))
    return plain, any_sign


def gap_hours(world: World, blobs: Blobs) -> set[tuple[str, int]]:
    """(flow log id, hour) in which a flow log wrote no blob for any NIC, from the first hour of all to the last."""
    written = {(log_id, hour) for log_id, _, hour in blobs.entries}
    hours = range(world.first, world.last, HOUR)
    return {(log.id, hour) for log in world.topology.flow_logs for hour in hours} - written


def coverage(world: World, blobs: Blobs, window: tuple[int, int]) -> dict[NicHour, str]:
    """State of each NIC-hour of the window, for the NICs of which a flow log has a blob in its hours or the one behind them."""
    hours = hours_of(*window)
    read = hours_of(window[0], window[1] + HOUR)
    plain, _ = signs(blobs, window)
    gaps = gap_hours(world, blobs)
    states: dict[NicHour, str] = {}
    for log in world.topology.flow_logs:
        for mac in log.macs:
            if not any((log.id, mac, hour) in blobs.entries for hour in read):
                continue
            for hour in hours:
                if (log.id, mac, hour) in blobs.entries:
                    state = "read"
                elif (log.id, hour) in gaps or (mac, hour) in plain:
                    state = "missing"
                else:
                    state = "silent"
                states[log.id, mac, hour] = state
    return states


def covers(blobs: Blobs, log: FlowLog, mac: str, hour: int) -> bool:
    """Whether a flow log has the blob of that NIC-hour."""
    return (log.id, mac, hour) in blobs.entries
