"""What a shared access signature says of itself: when it ends, and whether it can list and read a container."""

from __future__ import annotations

import datetime as dt
from urllib.parse import parse_qs

from flowlens.evidence import sample
from flowlens.sources.refusals import declared

CLOCK_TOLERANCE = dt.timedelta(minutes=5)
LONG_LIVED = dt.timedelta(days=7)
_READ_AND_LIST = {"r", "l"}


def check_sas(token: str, where: str, *, now: dt.datetime) -> tuple[dt.datetime | None, tuple[str, ...]]:
    """When a SAS token ends (None where a stored policy says so) and what is doubtful about it, judged by its own words.

    Raises SourceError where it has ended, has not begun, or can't list and read a container.

    >>> check_sas("sp=rl&se=2030-01-01T00:00:00Z&sr=c&spr=https&sig=x", "", now=dt.datetime(2029, 12, 31, tzinfo=dt.UTC))
    (datetime.datetime(2030, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), ())
    """
    words = {name: values[-1] for name, values in parse_qs(token).items()}
    if "sig" not in words:
        raise declared("FL-S04", where, "has no signature (sig=)")
    start, expiry = (_sas_time(words.get(name), name, where) for name in ("st", "se"))
    if expiry is not None and expiry <= now:
        raise declared("FL-S05", where, expiry.isoformat())
    if start is not None and start > now + CLOCK_TOLERANCE:
        raise declared("FL-S06", where, start.isoformat())
    if expiry is None and "si" not in words:
        raise declared("FL-S04", where, "has no end (se=)")
    permissions = set(words.get("sp", ""))
    if permissions or "si" not in words:
        for letter, need in (("r", "read"), ("l", "list")):
            if letter not in permissions:
                raise declared("FL-S04", where, f"does not allow to {need} (sp={words.get('sp', '')})")
    if "b" not in words.get("ss", "b"):
        raise declared("FL-S04", where, "is not for blobs (ss=)")
    if not {"c", "o"} <= set(words.get("srt", "co")):
        raise declared("FL-S04", where, "needs containers and objects (srt=co)")
    if words.get("sr", "c") not in ("c", "d"):
        raise declared("FL-S04", where, f"is for one blob only (sr={words['sr']})")
    warnings = []
    if permissions - _READ_AND_LIST:
        warnings.append(f"the SAS token allows more than read and list (sp={words['sp']}): make one with sp=rl")
    if expiry is not None and expiry - now > LONG_LIVED:
        warnings.append(f"the SAS token stays valid until {expiry.isoformat()}, more than 7 days")
    if "si" not in words and words.get("spr", "https,http") != "https":
        warnings.append("the SAS token also allows plain http (spr=)")
    return expiry, tuple(map(sample, warnings))


def _sas_time(text: str | None, name: str, where: str) -> dt.datetime | None:
    if text is None:
        return None
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise declared("FL-S04", where, f"has no valid time in {name}=") from None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)
