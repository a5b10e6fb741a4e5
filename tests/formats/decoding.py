"""What tests of flow log decoding share: a blob decoded whole, with the promises that hold for every blob checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from flowlens import evidence, schema
from flowlens.evidence import Ledger
from flowlens.formats import decode_flow_log

Rows = list[dict[str, Any]]


def decoded(chunks: bytes | Iterable[bytes], *, strict: bool = False) -> tuple[Rows, Ledger]:
    """Rows and ledger of a blob; schema, balance and counts checked."""
    chunks = [chunks] if isinstance(chunks, bytes) else list(chunks)
    batches = list(decode_flow_log(chunks, where="PT1H.json", strict=strict))
    assert all(batch.flows.schema.equals(schema.ENCODED_FLOWS) for batch in batches)
    for batch in batches:
        batch.flows.validate(full=True)
    ledger = evidence.total(batch.ledger for batch in batches)
    flows = pa.concat_tables([schema.FLOWS.empty_table(), *(schema.plain(batch.flows) for batch in batches)])
    assert ledger.balanced
    assert ledger.bytes == sum(map(len, chunks))
    assert ledger.rows == flows.num_rows
    assert len(ledger.rejects) == min(ledger.rejected + ledger.rejected_records, evidence.REJECTS_KEPT)
    return flows.to_pylist(), ledger


def agreed(chunks: bytes | Iterable[bytes]) -> tuple[Rows, Ledger]:
    """Rows and ledger, the same from both decoders; ``strict_records`` is the fast one's."""
    chunks = [chunks] if isinstance(chunks, bytes) else list(chunks)
    rows, ledger = decoded(chunks)
    strict_rows, strict_ledger = decoded(chunks, strict=True)
    assert rows == strict_rows
    assert replace(ledger, strict_records=0) == strict_ledger
    return rows, ledger
