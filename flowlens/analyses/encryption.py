"""Is the traffic between my VMs encrypted by VNet encryption, and where not, why not?"""

from __future__ import annotations

import polars as pl

from flowlens import schema
from flowlens.analyses.tables import both_ways, condensed, flows_of, result
from flowlens.evidence import Parts, Scan

_DROPPED = [code for code, status in schema.ENCRYPTION_STATUS.items() if status == "Dropped"]
_LOCAL = "NX_LOCAL_DST"
SAME_HOST = "same host"
_JUDGED = ("Encrypted", "Unencrypted", "Dropped", "Unknown")
_CAN_ENCRYPT = ["nic", "forwarder"]
PAIR = ["vnet", "src_workload", "src_subnet", "dst_vnet", "dst_workload", "dst_subnet"]
"""What a row of the table is of."""

PUBLIC = "public addresses"
PLATFORM = "Azure platform"

TURNED = "Encrypted since the first encrypted flow; nothing was unencrypted after it."
_SET_UP = (
    "Encryption is set up at one end: the other end is off, was not stopped (deallocated) and started since, or has a size or NIC "
    "(Accelerated Networking, vnetEncryptionSupported) that cannot encrypt."
)
_BY_ELIGIBILITY = {
    "public peer": "Expected: VNet encryption ends at private addresses of VMs; use TLS.",
    "platform": "Expected: platform addresses take no part in VNet encryption.",
    "by design": "Expected: this peer or path takes no part in VNet encryption.",
    "unknown peer": "Not judged: no logged NIC owns the peer's address; name it with --inventory or flowlens.toml.",
}


def encryption_status(scan: Scan) -> pl.LazyFrame:
    """Encryption of the traffic of each pair of workloads, with the worst code seen and what to do.

    The status takes every view of the pair, so the worst view wins; bytes and flows count each flow once. Only tuples of
    state Continuing and End are judged; Deny counts where encryption itself denied. Tuples between VMs of one host count only
    where a pair has no others. Times are UTC. Codes: Microsoft Learn,
    "Virtual network flow logs", 02/2025.

    >>> import flowlens as fl
    >>> table = fl.encryption_status(fl.scan("sample_logs")).collect()
    >>> sorted(table.filter(pl.col("eligibility") == "eligible")["encryption_status"].unique())
    ['Dropped', 'Mixed', 'Unencrypted']
    """
    return result("encryption_status", lambda: _pairs(scan.evidence.parts))


def _pairs(parts: Parts) -> pl.LazyFrame:
    by = [*PAIR, "peer", "encryption_code", "kind", "rank", "counted", "mac_address"]
    rows = condensed(parts, judged, by).with_columns(bytes=both_ways())
    proven = (
        rows.filter(pl.col("encryption_code") != "NX", pl.col("encryption_code").is_in(list(schema.ENCRYPTION_STATUS)))
        .select("mac_address")
        .unique()
        .with_columns(set_up=pl.lit(True))
    )
    rows = rows.join(proven, on="mac_address", how="left")
    is_kind = {kind: pl.col("kind") == kind for kind in (*_JUDGED, SAME_HOST)}
    in_clear = {"unencrypted": is_kind["Unencrypted"], "same_host": is_kind[SAME_HOST]}
    measured = {"encrypted": is_kind["Encrypted"], **in_clear}
    counted = pl.col("counted")
    worst = pl.col("encryption_code").sort_by(pl.col("rank"), pl.col("encryption_code")).last()
    grouped = rows.group_by(*PAIR, "peer").agg(
        worst.alias("encryption_code"),
        *(is_kind[kind].any().alias(f"any_{kind}") for kind in is_kind),
        *(
            pl.when(pl.col("bytes").count() > 0)
            .then(pl.col("bytes").filter(rows & counted).sum())
            .alias(f"bytes_{name}")
            for name, rows in measured.items()
        ),
        *(flows_of(rows & counted).alias(f"flows_{name}") for name, rows in measured.items()),
        (
            pl.max_horizontal(
                pl.col("flows_denied").filter(is_kind["Dropped"] & counted).sum()
                + pl.max_horizontal(
                    pl.col("flows_started").filter(is_kind["Dropped"] & counted).sum(),
                    pl.col("flows_ended").filter(is_kind["Dropped"] & counted).sum(),
                ),
                is_kind["Dropped"].any().cast(pl.Int64),
            )
        ).alias("flows_dropped"),
        *(pl.col("last_traffic").filter(rows).max().alias(f"last_{name}") for name, rows in in_clear.items()),
        pl.col("first_traffic").filter(is_kind["Encrypted"]).min().alias("first_encrypted"),
        pl.col("set_up").any().fill_null(False),
    )
    return (
        grouped.with_columns(
            pl.when(_only_same_host())
            .then(f"{what}_same_host")
            .otherwise(f"{what}_unencrypted")
            .alias(f"{what}_unencrypted")
            for what in ("bytes", "flows", "last")
        )
        .with_columns(encryption_status=_status(), eligibility=_eligibility())
        .with_columns(advice=_advice())
    )


def unprotected(scan: Scan) -> pl.DataFrame:
    """When each pair's traffic first and last went in clear or was dropped for encryption's sake, in any view of it; UTC.

    Columns: those of the pair in encryption_status, first_seen, last_seen. Only pairs between VMs that can encrypt are there.

    >>> import flowlens as fl
    >>> unprotected(fl.scan("sample_logs"))["first_seen"].null_count()
    0
    """
    traffic = pl.col("kind") == "Unencrypted"
    seen = {
        f"{edge}_seen": pl.when(traffic).then(f"{edge}_traffic").otherwise(f"{edge}_seen") for edge in ("first", "last")
    }
    bad = pl.col("kind").is_in(["Unencrypted", "Dropped"]) & (pl.col("peer") == "eligible")
    rows = condensed(scan.evidence.parts, lambda part: judged(part).filter(bad), [*PAIR, "kind"])
    return rows.with_columns(**seen).group_by(PAIR).agg(pl.col("first_seen").min(), pl.col("last_seen").max()).collect()


def judged(views: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that say something of encryption, each end named, each code classed."""
    code = pl.col("encryption_code")
    by_encryption = (pl.col("flow_status") == "Denied") & (pl.col("acl_id").str.to_lowercase() == schema.UNSPECIFIED)
    code = pl.when(by_encryption & ~code.is_in(_DROPPED)).then(pl.lit(schema.UNSPECIFIED)).otherwise(code)
    status = code.replace_strict(schema.ENCRYPTION_STATUS, default="Unknown", return_dtype=pl.String)
    has_traffic = (pl.col("flow_status") == "Allowed") & pl.col("first_traffic").is_not_null()
    dropped = by_encryption | ((pl.col("flow_status") == "Allowed") & code.is_in(_DROPPED))
    status = pl.when(code == _LOCAL).then(pl.lit(SAME_HOST)).otherwise(status)
    severity = code.replace_strict(
        schema.ENCRYPTION_SEVERITY, default=schema.ENCRYPTION_SEVERITY["NX"], return_dtype=pl.Int32
    )
    return (
        views.filter(~pl.col("is_reply"), pl.col("encryption_code").is_not_null(), has_traffic | dropped)
        .with_columns(
            encryption_code=code,
            kind=status,
            rank=severity,
            peer=_peer(),
            vnet=pl.coalesce("src_vnet", "vnet"),
            dst_vnet=pl.col("dst_vnet"),
        )
        .with_columns(
            *(
                pl.coalesce(
                    f"{end}_workload",
                    pl.when(pl.col(f"{end}_place") == "external")
                    .then(pl.lit(PUBLIC))
                    .when(pl.col(f"{end}_place") == "platform")
                    .then(pl.lit(PLATFORM))
                    .otherwise(pl.col(f"{end}_ip")),
                ).alias(f"{end}_workload")
                for end in ("src", "dst")
            )
        )
    )


def _peer() -> pl.Expr:
    """The eligibility of a row's two ends, before its codes are looked at."""

    def either(condition: str) -> pl.Expr:
        return (pl.col("src_place") == condition) | (pl.col("dst_place") == condition)

    excluded = pl.any_horizontal(
        pl.col(f"{end}_kind").is_not_null() & ~pl.col(f"{end}_kind").is_in(_CAN_ENCRYPT) for end in ("src", "dst")
    )
    unknown = pl.col("src_nic").is_null() | pl.col("dst_nic").is_null()
    return (
        pl.when(either("external"))
        .then(pl.lit("public peer"))
        .when(either("platform"))
        .then(pl.lit("platform"))
        .when(excluded)
        .then(pl.lit("by design"))
        .when(unknown)
        .then(pl.lit("unknown peer"))
        .otherwise(pl.lit("eligible"))
    )


def _only_same_host() -> pl.Expr:
    """Whether both VMs shared a host in all that was seen: beside anything else to judge, that says nothing of a pair."""
    return ~pl.any_horizontal(f"any_{kind}" for kind in _JUDGED)


def _status() -> pl.Expr:
    encrypted, unencrypted, dropped, unknown = (pl.col(f"any_{kind}") for kind in _JUDGED)
    return (
        pl.when(encrypted & ~unencrypted & ~dropped & ~unknown)
        .then(pl.lit("Encrypted"))
        .when(encrypted)
        .then(pl.lit("Mixed"))
        .when(unencrypted | _only_same_host())
        .then(pl.lit("Unencrypted"))
        .when(dropped)
        .then(pl.lit("Dropped"))
        .otherwise(pl.lit("Unknown"))
    )


def _eligibility() -> pl.Expr:
    local = (pl.col("peer") == "eligible") & _only_same_host()
    return pl.when(local).then(pl.lit("by design")).otherwise("peer")


def _advice() -> pl.Expr:
    by_code = pl.col("encryption_code").replace_strict(
        schema.ENCRYPTION_ADVICE, default=schema.UNKNOWN_CODE_ADVICE, return_dtype=pl.String
    )
    turned = (pl.col("encryption_status") == "Mixed") & (pl.col("first_encrypted") > pl.col("last_unencrypted"))
    return (
        pl.when(pl.col("encryption_status") == "Encrypted")
        .then(pl.lit(schema.ENCRYPTION_ADVICE["X"]))
        .when(pl.col("eligibility").is_in(list(_BY_ELIGIBILITY)))
        .then(pl.col("eligibility").replace_strict(_BY_ELIGIBILITY, default=None, return_dtype=pl.String))
        .when(turned.fill_null(False) & ~pl.col("any_Dropped") & ~pl.col("any_Unknown"))
        .then(pl.lit(TURNED))
        .when((pl.col("encryption_code") == "NX") & pl.col("set_up"))
        .then(pl.lit(_SET_UP))
        .otherwise(by_code)
    )
