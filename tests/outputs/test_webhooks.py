"""Messages for Teams and Slack: plain text whatever stands in names, below the limit, and an address that is never told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

import flowlens as fl
from flowlens.outputs.text import clean
from flowlens.outputs.webhooks import KINDS, Message, Webhook, body, message_of, post, webhook_of
from tests.faults.loopback import Handler, serving
from tests.hostile_report import hostile_report, sample_report
from tests.payloads import PAYLOADS

SECRET = "secret-of-the-address"
LIMIT = 24_000


def webhook(kind: str = "teams", url: str = f"https://example.invalid/{SECRET}") -> Webhook:
    return webhook_of(kind, "HOOK_URL", url)


def told(kind: str, data: bytes) -> list[str]:
    """Every text of a message, which must be of a form that is not read as Markdown."""
    document: dict[str, Any] = json.loads(data)
    if kind == "teams":
        (attachment,) = document["attachments"]
        assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert "entities" not in attachment["content"].get("msteams", {})
        texts = []
        for block in attachment["content"]["body"]:
            assert block["type"] == "RichTextBlock"
            for inline in block["inlines"]:
                assert inline["type"] == "TextRun" and set(inline) <= {"type", "text", "size", "weight", "isSubtle"}
                texts.append(inline["text"])
        return texts
    texts = []
    assert document["mrkdwn"] is False and len(document["blocks"]) <= 50
    assert "<" not in document["text"] and ">" not in document["text"]
    for block in document["blocks"]:
        assert block["text"]["type"] == "plain_text" and block["text"]["emoji"] is False
        assert 0 < len(block["text"]["text"]) <= (150 if block["type"] == "header" else 3000)
        texts += block["text"]["text"].split("\n")
    return texts


def message(report: fl.Report, **more: Any) -> Message:
    return message_of("Network", "2026-06-15", {"blobs": report}, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_tells_verdicts_counts_and_the_worst_findings(kind: str) -> None:
    report = sample_report()
    texts = told(kind, body(webhook(kind), message(report, fired=["unencrypted > 0"], failures=["rows: no"], top=3)))
    assert texts[:4] == ["Network", "Window 2026-06-15", "Gates that fired: unencrypted > 0", "Not read: rows: no"]
    assert "2026-06-15T06:00:00Z to 2026-06-15T16:00:00Z" in texts
    assert any(text.startswith("[findings] Required endpoints: 5 required endpoint(s) fail") for text in texts)
    assert f"{len(report.findings)} findings: {len(report.findings)} new" in texts
    listed = [text for text in texts if text.startswith("high, new: ")]
    assert len(listed) == 3
    assert f"and {len(report.findings) - 3} more" in texts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", range(0, len(PAYLOADS), 20))
def test_payloads_are_text_and_nothing_else(kind: str, start: int) -> None:
    texts = PAYLOADS[start : start + 20]
    data = body(webhook(kind), message(hostile_report(texts), failures=texts[:2], top=20))
    assert data.isascii() and len(data) <= LIMIT
    shown = told(kind, data)
    for text in shown:
        assert "{{" not in text and "://" not in text
        assert clean(text.removesuffix("…")) == text.removesuffix("…")
    # The findings of the first kind that are open: every third is new, those in odd places are accepted.
    expected = clean(texts[0]).replace("{{", "{ {").replace("://", "[:]//")[:100]
    assert any(expected in text for text in shown)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_stays_below_its_limit_and_counts_what_is_left_out(kind: str) -> None:
    wide = message_of("N", "w", {f"s{n}": hostile_report(["規則" * 400] * 9) for n in range(6)}, top=20)
    data = body(webhook(kind), wide)
    assert len(data) <= LIMIT
    assert any("more line(s) are in the report." in text for text in told(kind, data))


def test_accepted_findings_are_counted_and_not_listed() -> None:
    texts = told("slack", body(webhook("slack"), message(hostile_report(["one", "two", "three"]), top=20)))
    assert "9 findings: 3 new, 3 ongoing, 3 resolved, 3 of them accepted" in texts
    assert not any("two two" in text for text in texts)
    assert sum("one one" in text for text in texts) == 3


# ---- sending


@dataclass
class Hook:
    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@contextmanager
def hook(*answers: tuple[int, dict[str, str]]) -> Iterator[Hook]:
    """A server that answers so, in this order."""
    found = Hook(answers=list(answers))

    class Answers(Handler):
        def respond(self) -> None:
            found.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            status, headers = found.answers.pop(0)
            self.answer(status, b"", **headers)

    with serving(Answers) as port:
        found.url = f"http://127.0.0.1:{port}/{SECRET}?sig={SECRET}"
        yield found


def waits_of(found: Hook) -> tuple[list[float], str]:
    """How long was waited between tries, and the error if there was one."""
    waits: list[float] = []
    try:
        post(webhook(url=found.url), b"{}", sleep=waits.append)
    except fl.SourceError as error:
        return waits, str(error)
    return waits, ""


@pytest.mark.parametrize(
    ("answers", "waits", "error"),
    [
        ([(202, {})], [], ""),
        ([(503, {}), (429, {"Retry_After": "7"}), (200, {})], [2.0, 7.0], ""),
        ([(500, {})] * 3, [2.0, 4.0], "answered HTTP 500"),
        ([(429, {"Retry_After": "9999"}), (200, {})], [60.0], ""),
        ([(404, {})], [], "answered HTTP 404"),
        ([(302, {"Location": "http://127.0.0.1:9/elsewhere"})], [], "answered HTTP 302"),
        ([(302, {})], [], "answered HTTP 302"),
        ([(302, {"Location": "http://["})] * 3, [2.0, 4.0], "could not be reached"),
    ],
)
def test_what_may_pass_is_tried_again(
    answers: Sequence[tuple[int, dict[str, str]]], waits: list[float], error: str
) -> None:
    with hook(*answers) as found:
        waited, told_error = waits_of(found)
        assert waited == waits
        assert (error in told_error) if error else told_error == ""
        assert SECRET not in told_error
        assert found.answers == [] and set(found.bodies) == {b"{}"}


def test_an_address_that_nobody_answers_is_not_told() -> None:
    waits, error = waits_of(Hook(url=f"http://127.0.0.1:9/{SECRET}"))
    assert len(waits) == 2
    assert "teams (HOOK_URL): could not be reached" in error and SECRET not in error and "127.0.0.1" not in error


@pytest.mark.parametrize("url", [None, "", " ", "http://example.invalid/x", "ftp://x/y", "https://", "https://[x", "x"])
def test_what_is_no_address_is_refused_without_telling_it(url: str | None) -> None:
    with pytest.raises(fl.ConfigError) as found:
        webhook_of("teams", "HOOK_URL", url)
    assert "HOOK_URL" in str(found.value) and "example" not in str(found.value)


def test_the_address_stands_in_no_text() -> None:
    assert SECRET not in repr(webhook()) + str(webhook())
