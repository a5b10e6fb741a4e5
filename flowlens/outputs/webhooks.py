"""Messages for Teams and Slack: the verdicts and the top findings, in forms that neither of them reads as anything but text.

Teams takes an Adaptive Card through a workflow ("When a Teams webhook request is received"); its runs of text are not read as
Markdown (https://adaptivecards.io/explorer/TextRun.html). Slack takes blocks of plain text
(https://api.slack.com/reference/block-kit/composition-objects#text). Both read 2026.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from flowlens.errors import ConfigError, SourceError
from flowlens.findings import SEVERITIES, Finding
from flowlens.outputs.content import TITLES
from flowlens.outputs.text import clean, counted, utc
from flowlens.reporting import Report
from flowlens.sources.accounts import checked_ca_file, session_for

KINDS = ("teams", "slack")
_LIMIT = 24_000
"""Bytes of a message: Teams refuses more than 28 KB."""
_LINE, _BLOCKS = 300, 45
"""Characters of one line and blocks of one message; Slack takes 3,000 and 50."""
_TRIES, _REDIRECT, _TOO_MANY, _SERVER = 3, 300, 429, 500
_SECONDS, _LONGEST_WAIT = 30.0, 60.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to send and as what; the address is the secret and stands in no text."""

    kind: str
    variable: str
    url: str = field(repr=False)
    ca_file: Path | None = None

    def __str__(self) -> str:
        return f"{self.kind} ({self.variable})"


@dataclass(frozen=True, slots=True)
class Message:
    """What is told: a headline, what stands below it, and for each section its heading and lines."""

    headline: str
    facts: tuple[str, ...]
    sections: tuple[tuple[str, tuple[str, ...]], ...]


def webhook_of(kind: str, variable: str, url: str | None, ca_file: Path | None = None) -> Webhook:
    """The webhook at ``url``, which ``variable`` holds; raises ConfigError, without the address, where that is none."""
    if not (url or "").strip():
        raise ConfigError("", f"{variable} is not set, which holds the address", hint="set it where the report runs")
    try:
        parts = urlsplit(str(url).strip())
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise ConfigError("", f"{variable} holds no https address", hint="copy it from the workflow or the Slack app")
    return Webhook(kind, variable, str(url).strip(), ca_file)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def message_of(
    title: str,
    window: str,
    reports: Mapping[str, Report],
    *,
    failures: Sequence[str] = (),
    fired: Sequence[str] = (),
    top: int = 5,
) -> Message:
    """The verdicts of each section and its ``top`` findings, new ones and the worst first; what is accepted is only counted."""
    facts = [f"Window {window}"]
    if fired:
        facts.append(f"Gates that fired: {'; '.join(fired)}")
    facts += [f"Not read: {failure}" for failure in failures]
    sections = tuple((name if len(reports) > 1 else "", tuple(_lines(each, top))) for name, each in reports.items())
    return Message(title, tuple(facts), sections)


def _lines(report: Report, top: int) -> Iterator[str]:
    start, end = utc(report.window.start), utc(report.window.end)
    yield f"{start} to {end}" if start and end else "No flow log was read."
    for name, verdict in report.verdicts.items():
        yield f"[{verdict.status.replace('_', ' ')}] {TITLES[name]}: {verdict.text.removeprefix('Not determined: ')}"
    open_findings = [finding for finding in report.findings if finding.counts]
    states = {state: sum(f.state == state for f in report.findings) for state in ("new", "ongoing", "resolved")}
    accepted = sum(finding.accepted is not None for finding in report.findings)
    told = [f"{number} {state}" for state, number in states.items() if number]
    yield (
        f"{counted(len(report.findings), 'finding')}"
        + (f": {', '.join(told)}" if told else "")
        + (f", {accepted} of them accepted" if accepted else "")
    )
    for finding in sorted(open_findings, key=_order)[:top]:
        yield f"{finding.severity}, {finding.state}: {finding.workload} {finding.subject}" + (
            f" by {finding.rule}" if finding.rule else ""
        )
    if len(open_findings) > top:
        yield f"and {len(open_findings) - top} more"
    yield from report.notes


def _order(finding: Finding) -> tuple[bool, int]:
    return finding.state != "new", SEVERITIES.index(finding.severity)


def body(webhook: Webhook, message: Message) -> bytes:
    """The message as what the webhook takes, in ASCII and below its limit; what does not fit is counted in a last line."""
    make = {"teams": _card, "slack": _blocks}[webhook.kind]
    lines = [(heading, [_line(text) for text in texts]) for heading, texts in message.sections]
    left_out = 0
    while True:
        texts = [*([f"{left_out} more line(s) are in the report."] if left_out else [])]
        made = make(_line(message.headline), [_line(fact) for fact in message.facts], lines, texts)
        data = json.dumps(made, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        if len(data) <= _LIMIT or not any(section for _, section in lines):
            return data
        longest = max(lines, key=lambda pair: len(pair[1]))[1]
        longest.pop()
        left_out += 1


def _line(text: str) -> str:
    """One line with nothing hidden in it, cut where it is long.

    A card fills in dates where two braces stand together, and an address would be made a link wherever it stands.
    """
    shown = clean(text).replace("{{", "{ {").replace("://", "[:]//")
    return shown if len(shown) <= _LINE else f"{shown[: _LINE - 1]}…"


Lines = Sequence[tuple[str, Sequence[str]]]


def _card(headline: str, facts: Sequence[str], sections: Lines, last: Sequence[str]) -> object:
    def run(text: str, **style: object) -> dict[str, object]:
        inline = {"type": "TextRun", "text": text, **style}
        return {"type": "RichTextBlock", "inlines": [inline]}

    blocks = [run(headline, size="Large", weight="Bolder"), *(run(fact, isSubtle=True) for fact in facts)]
    for heading, lines in sections:
        blocks += [run(heading, weight="Bolder")] if heading else []
        blocks += [run(line) for line in lines]
    blocks += [run(line, isSubtle=True) for line in last]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
        "msteams": {"width": "Full"},
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _blocks(headline: str, facts: Sequence[str], sections: Lines, last: Sequence[str]) -> object:
    def plain(text: str) -> dict[str, object]:
        return {"type": "plain_text", "text": text, "emoji": False}

    paragraphs = [*facts]
    for heading, lines in sections:
        paragraphs += ["\n".join([*([heading] if heading else []), *lines[:4]]), *lines[4:]]
    paragraphs = [text for text in (*paragraphs[: _BLOCKS - 1], *last) if text]
    sections_of = [{"type": "section", "text": plain(text)} for text in paragraphs]
    return {
        # What a notification shows; only these three characters mean anything there.
        "text": headline.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [{"type": "header", "text": plain(headline[:150])}, *sections_of],
    }


def post(webhook: Webhook, data: bytes, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Send a message; what may pass is tried again a few times.

    Raises SourceError, without the address, where it is not taken.
    """
    import requests

    session = session_for(webhook.url, checked_ca_file(webhook.ca_file))
    problem = ""
    for attempt in range(1, _TRIES + 1):
        wait = 2.0**attempt
        try:
            answer = session.post(
                webhook.url,
                data=data,
                headers={"Content-Type": "application/json", "User-Agent": "flowlens"},
                timeout=_SECONDS,
                allow_redirects=False,
            )
        except (requests.RequestException, ValueError) as error:
            # Its text holds the address.
            problem = f"could not be reached ({type(error).__name__})"
        else:
            if 200 <= answer.status_code < _REDIRECT:
                return
            problem = f"answered HTTP {answer.status_code}"
            if answer.status_code != _TOO_MANY and answer.status_code < _SERVER:
                break
            asked = answer.headers.get("Retry-After", "")
            wait = min(_LONGEST_WAIT, float(asked)) if asked.isdecimal() else wait
        if attempt < _TRIES:
            sleep(wait)
    raise SourceError(str(webhook), problem, hint="check that the workflow or app is on and its address is current")
