"""How flows are encoded: one decode function a format, bytes or rows in, Arrow tables with their ledgers out."""

from __future__ import annotations

from flowlens.formats.flow_log import decode_flow_log, flow_log_documents

FORMATS = {
    "flow_log": decode_flow_log,
}
"""Name of a format to its decode function."""

__all__ = ["FORMATS", "decode_flow_log", "flow_log_documents"]
