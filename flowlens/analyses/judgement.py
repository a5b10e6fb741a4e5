"""From attempts to one status per requirement: plain rules over plain records.

An exact match proves an endpoint, a service tag its service only, a port nothing. Alternatives are judged each for itself and
the best counts; a service is judged over all its addresses, and a denial beside a success counts against it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from flowlens import schema
from flowlens.analyses.fixes import advice, private_address
from flowlens.analyses.needs import ADDRESS, APPROXIMATE_TAG, EXACT, NAME, OTHER_NAME, PORT_ONLY, SURE, TAG, Need
from flowlens.prefixes import PLATFORM_PREFIXES

SUCCESS = ("Reached", "Service reached", "Recovered")
ANSWERED = (*SUCCESS, "Partly denied")
LISTED = 4
"""How many of many things a note names; it counts the others."""

# Protocols in which a packet need not be answered.
_UNCONNECTED = [schema.PROTOCOL_NUMBER[name] for name in ("udp", "icmp", "icmpv6")]
_COMMON_PORTS = (53, 80, 123, 443)

# How rarely what a profile lists is asked for; a log of hours says next to nothing of it.
_RARE = {
    "windows-kms": "Windows renews weekly",
    "rhui": "it is asked for when packages are updated",
    "ubuntu-repos": "they are asked for when packages are updated",
}
# Windows renews its activation about every seven days (Microsoft Learn, windows-activation-stopped-working).
_WEEK = dt.timedelta(days=7)

# Of alternatives the one that needs a person least speaks for all.
_BEST_FIRST = (
    "Reached",
    "Recovered",
    "Partly denied",
    "Pending",
    "Answered without data",
    "Unanswered",
    "Denied at destination",
    "Denied",
    "Cannot tell",
)


class Length(NamedTuple):
    """How long the evidence is, and how many NIC-hours were covered of how many expected."""

    time: dt.timedelta
    covered: int
    expected: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one workload's flows to one address and port, and how it is tied to the requirement."""

    dst_ip: str
    dst_port: int | None
    protocol: int
    status: str
    match: str
    endpoint: str
    confidence: str
    attempts: int
    acl_rule: str | None
    acl_id: str | None
    acl_kind: str | None
    last_answered: dt.datetime | None
    last_denied: dt.datetime | None
    first_failure: dt.datetime | None
    last_failure: dt.datetime | None
    unseen: bool


class Totals(NamedTuple):
    """Sums over all attempts at a requirement; ``failed`` counts addresses that met it exactly and failed."""

    attempts: int
    last_success: dt.datetime | None
    first_failure: dt.datetime | None
    last_failure: dt.datetime | None
    failed: int


NOTHING = Totals(0, None, None, None, 0)


class Judged(NamedTuple):
    """The columns of denied_egress that a judgement fills, and when the requirement failed first."""

    profile: str
    cloud: str
    endpoint: str
    requirement: str
    protocol: str
    port: str
    status: str
    match: str | None
    dst_ip: str | None
    acl_rule: str | None
    acl_id: str | None
    attempts: int
    last_success: dt.datetime | None
    last_failure: dt.datetime | None
    note: str | None
    fix: str | None
    first_failure: dt.datetime | None


class _Opinion(NamedTuple):
    status: str
    match: str | None
    best: Attempt | None
    notes: tuple[str, ...] = ()


def judge(
    need: Need,
    attempts: Sequence[Attempt],
    totals: Totals,
    logged: bool,
    evidence: Length,
    others: Set[str] = frozenset(),
) -> Judged | None:
    """One row of denied_egress; None where silence means nothing: retired and safe-to-block endpoints.

    ``attempts`` are all at the requirement, or those that stand for all; ``totals`` are of all. ``others`` are addresses of
    names that are somebody else's in this VNet, so that nothing was looked for there.
    """
    requirement = need.requirement
    quiet = requirement.retired or requirement.need == "safe-to-block"
    if not attempts and quiet:
        return None
    opinion = _opinion(need, attempts, totals.failed) if attempts else _unseen(need, logged, evidence, others)
    notes = [requirement.note, *opinion.notes]
    if opinion.best is None and need.expansion.untestable:
        notes.append(f"not tested: {_shortened(need.expansion.untestable)}")
    best, status = opinion.best, opinion.status
    if best is not None and status == "Unanswered" and best.protocol in _UNCONNECTED:
        notes.append("without a connection silence proves little: not every packet asks for an answer")
    elif best is not None and status == "Unanswered" and best.unseen:
        notes.append("no NIC is known at this private address, so nothing but the silence tells of the other end")
    problem = status in schema.EGRESS_PROBLEMS
    return Judged(
        profile=need.profile,
        cloud=requirement.cloud,
        endpoint=requirement.name,
        requirement="retired" if requirement.retired else requirement.need,
        protocol=requirement.protocol.upper(),
        port=requirement.ports,
        status=status,
        match=opinion.match,
        dst_ip=best.dst_ip if best else None,
        acl_rule=best.acl_rule if best and problem else None,
        acl_id=best.acl_id if best and problem else None,
        attempts=totals.attempts,
        last_success=totals.last_success,
        last_failure=totals.last_failure,
        note=_sentences(notes),
        fix=_fix(need, status, best) if problem and best and not quiet else None,
        first_failure=totals.first_failure,
    )


def _fix(need: Need, status: str, best: Attempt) -> str:
    private = private_address(best.match, best.dst_ip)
    return advice(need, status, best.acl_rule, best.acl_id, best.acl_kind, private)


def _shortened(parts: Sequence[str]) -> str:
    """The first of many parts, and how many more there are."""
    more = f"; and {len(parts) - LISTED} more" if len(parts) > LISTED else ""
    return "; ".join(parts[:LISTED]) + more


def _sentences(notes: Sequence[str]) -> str | None:
    told = dict.fromkeys(note.strip().rstrip(".") for note in notes if note)
    return " ".join(f"{note[0].upper()}{note[1:]}." for note in told) or None


def _opinion(need: Need, attempts: Sequence[Attempt], failures: int) -> _Opinion:
    """Exact success, else success of the service, else the most exact failure."""
    exact = [a for a in attempts if a.match in EXACT]
    best = min(exact, key=_alternative_order, default=None)
    failed = sorted({a.dst_ip for a in exact if a.status in schema.EGRESS_PROBLEMS})[:LISTED]
    more = f" and {failures - len(failed)} more" if failures > len(failed) else ""
    beside = (f"{', '.join(failed)}{more} failed, an alternative answered",) if failed else ()
    if best is not None and best.status in SUCCESS:
        return _Opinion(best.status, best.match, best, beside)
    named = {a.dst_ip for a in exact}
    by_tag = [a for a in attempts if a.match == TAG]
    likely = [a for a in attempts if a.match == APPROXIMATE_TAG and a.confidence in SURE]
    plausible = [a for a in attempts if a.match == APPROXIMATE_TAG and a.confidence not in SURE]
    for kind in (by_tag, likely):
        service = _service([a for a in kind if a.dst_ip not in named])
        # A tag that the requirement lists is one of its alternatives; one that only stands for a name is none.
        if service is not None and service[0] in SUCCESS and (best is None or kind is by_tag):
            opinion = _service_success(service[0], service[1])
            return opinion._replace(notes=(*opinion.notes, *beside))
    anywhere = _service([a for a in attempts if a.match == PORT_ONLY and a.dst_ip not in named])
    if best is not None:
        return _beside_any(_Opinion(best.status, best.match, best), anywhere)
    for kind in (by_tag, likely, plausible, [a for a in attempts if a.match == PORT_ONLY]):
        service = _service(kind)
        if service is not None:
            return _beside_any(_claim(need, service[0], service[1]), anywhere)
    raise AssertionError("an attempt without a match")


def _beside_any(opinion: _Opinion, anywhere: tuple[str, Attempt] | None) -> _Opinion:
    """The opinion, but no failure where any address will do and some address answered: it may be the alternative."""
    best = opinion.best
    if best is None or best.match == PORT_ONLY or opinion.status not in schema.EGRESS_PROBLEMS:
        return opinion
    if anywhere is None or anywhere[0] not in SUCCESS:
        return opinion
    told = (
        f"{best.dst_ip} was {opinion.status.lower()}, but {anywhere[1].dst_ip} answered on the port, where any may do"
    )
    return _Opinion("Cannot tell", best.match, best, (*opinion.notes, told))


def _alternative_order(attempt: Attempt) -> tuple[int, str, str]:
    return _BEST_FIRST.index(attempt.status), attempt.endpoint, attempt.dst_ip


def _service(attempts: Sequence[Attempt]) -> tuple[str, Attempt] | None:
    """The status of a service behind many addresses, and the attempt that shows it best."""
    if not attempts:
        return None
    good = [a for a in attempts if a.status in ("Reached", "Recovered", "Partly denied")]
    denied = [a for a in attempts if a.last_denied is not None]
    if good and denied:
        success = max(good, key=_when(lambda a: a.last_answered))
        denial = max(denied, key=_when(lambda a: a.last_denied))
        later = _when(lambda a: a.last_answered)(success)[0] > _when(lambda a: a.last_denied)(denial)[0]
        return ("Recovered", success) if later else ("Partly denied", denial)
    if good:
        return "Reached", min(good, key=_alternative_order)
    # Without a success the worst speaks, since nothing shows that the rest would do.
    told = [a for a in attempts if a.status != "Cannot tell"] or attempts
    worst = max(told, key=lambda a: (_BEST_FIRST.index(a.status), a.dst_ip))
    return worst.status, worst


def _when(time: Callable[[Attempt], dt.datetime | None]) -> Callable[[Attempt], tuple[float, str]]:
    """A key that orders attempts by a time, equal times by address, so that runs are identical."""

    def key(attempt: Attempt) -> tuple[float, str]:
        at = time(attempt)
        return (at.timestamp() if at is not None else float("-inf"), attempt.dst_ip)

    return key


def _service_success(status: str, best: Attempt) -> _Opinion:
    word = "Service reached" if status == "Reached" else status
    return _Opinion(word, best.match, best, ("some endpoint of the service answered, not necessarily this one",))


def _claim(need: Need, status: str, best: Attempt) -> _Opinion:
    """What a failure, or a success on a port alone, may claim where no address is named."""
    low, high = need.requirement.port_ranges[0]
    if best.match == PORT_ONLY and (status in SUCCESS or low != high or low in _COMMON_PORTS):
        return _Opinion("Cannot tell", best.match, best, (f"only the port fits ({best.dst_ip}, {status.lower()})",))
    if best.match != APPROXIMATE_TAG:
        return _Opinion(status, best.match, best)
    if status in SUCCESS:
        told = f"some endpoint of its likely service answered ({best.dst_ip})"
    else:
        told = f"an endpoint of its likely service was {status.lower()} ({best.dst_ip})"
    if best.confidence == OTHER_NAME:
        return _Opinion("Cannot tell", best.match, best, (f"{told}, known by another name",))
    if any(reach.match == NAME for reach in need.expansion.reaches):
        return _Opinion("Cannot tell", best.match, best, (f"{told}, which is no address known of the name",))
    if best.confidence not in SURE:
        return _Opinion("Cannot tell", best.match, best, (told,))
    return _Opinion(status, best.match, best, ("some endpoint of the service; this name may be the one",))


def is_testable(need: Need, *, taken: bool) -> bool:
    """Whether traffic to the requirement would show as such, so that silence says something.

    It says nothing of what could not be looked for: an alternative that is not tested may have been tried. ``taken``: a
    private address known of its name may be somebody else's in this virtual network.
    """
    expansion = need.expansion
    return not expansion.untestable and any(
        reach.match in (ADDRESS, TAG)
        or (reach.match == APPROXIMATE_TAG and expansion.confidence.get(reach.endpoint) == "high")
        # A private endpoint is the only address of its name; a public name may have more than those that are known.
        or (reach.match == NAME and not expansion.private.isdisjoint(reach.prefixes) and not taken)
        for reach in expansion.reaches
    )


def is_platform(need: Need) -> bool:
    """Whether all of the requirement is the platform's own addresses, of which flow logs need not tell."""
    return all(set(PLATFORM_PREFIXES).issuperset(reach.prefixes) for reach in need.expansion.reaches)


def _unseen(need: Need, logged: bool, evidence: Length, others: Set[str]) -> _Opinion:
    """Nothing matched: never tried, or the evidence cannot tell."""
    if not logged:
        return _Opinion("Not observable", None, None, ("no flow log covers this workload",))
    named = any(reach.match == NAME for reach in need.expansion.reaches)
    elsewhere = sorted(others & {prefix.partition("/")[0] for prefix in need.expansion.private})
    testable = is_testable(need, taken=bool(elsewhere))
    notes = []
    if elsewhere:
        notes.append(f"{', '.join(elsewhere[:LISTED])}, known of its name, is somebody else's in this virtual network")
    # Documented to be exempt from rules; whether it is logged is not documented (network-security-groups-overview).
    platform = testable and is_platform(need)
    if platform:
        notes.append("flow logs need not hold what goes to the platform's own addresses")
    elif not testable and named and not elsewhere:
        notes.append("the addresses known of its name were not tried, it may have others")
    if evidence.covered < evidence.expected:
        notes.append(f"only {evidence.covered} of {evidence.expected} NIC-hours are covered")
    if evidence.time < _WEEK:
        hours = f"{evidence.time.total_seconds() / 3600:.0f} h of logs"
        notes.append(f"{hours} prove little: {_RARE[need.profile]}" if need.profile in _RARE else hours)
    silent = testable and not platform and evidence.covered
    return _Opinion("Not seen" if silent else "Cannot tell", None, None, tuple(notes))
