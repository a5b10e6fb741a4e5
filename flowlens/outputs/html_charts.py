"""Pictures of a page: drawn by Vega before the page is written, so that it needs no script, prints and stays small.

Colours are CSS variables of the page, so one picture serves both themes. The drawing is taken apart and put together anew:
only shapes and text pass, and every text through the page's escaper.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import polars as pl
from markupsafe import Markup, escape

from flowlens.analyses.charts import OTHERS, TILES_DRAWN, UNTAGGED
from flowlens.errors import ConfigError
from flowlens.outputs.text import clean, counted, size

WIDTHS = {"wide": 1060, "narrow": 340}
"""Each picture is drawn twice: as wide as a page, and for a phone."""
STATE_LOOK = {
    "read": ("good", 0.6, ""),
    "partly read": ("warn", 0.6, "P"),
    "empty": ("calm", 0.6, "E"),
    "silent": ("calm", 0.3, "S"),
    "open": ("calm", 0.3, "O"),
    "missing": ("warn", 1.0, "M"),
    "failed": ("bad", 1.0, "F"),
}
"""Colour, height and letter of a state in the heat map: whoever sees no colour sees the height."""

_KEPT = {"svg", "g", "path", "line", "rect", "text", "tspan"}
_SHAPE = {"d", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "viewBox"}
_LOOK = {
    *("fill", "stroke", "stroke-width", "stroke-dasharray", "fill-opacity", "opacity"),
    *("text-anchor", "font-size", "font-weight", "dominant-baseline"),
}
_NUMBER = re.compile(r"-?\d+\.\d+")
_ROW = 20
_TIME = {
    "milliseconds": "%H:%M",
    "seconds": "%H:%M",
    "minutes": "%H:%M",
    "hours": "%H:%M",
    "date": "%d %b",
    "day": "%d %b",
    "week": "%d %b",
    "month": "%b %Y",
    "quarter": "%b %Y",
    "year": "%Y",
}
# A gap after each bar where there is room for one.
_TO = "scale('x', datum.to) - (scale('x', datum.to) - scale('x', datum.from) > 4 ? 1 : 0)"
_TEXT = {"fontSize": {"value": 12}, "fill": {"value": "var(--muted)"}}


class Figure(NamedTuple):
    """A picture for each width, what it shows in a sentence, and the legend: tone, mark, text."""

    id: str
    title: str
    label: str
    pictures: Mapping[str, Markup]
    legend: tuple[tuple[str, str, str], ...] = ()


def require() -> None:
    """Raise ConfigError with the command that installs what draws, where it is not installed."""
    if importlib.util.find_spec("vl_convert") is None:
        raise ConfigError(
            "--format html", "needs what draws its charts", hint="install it with: pip install 'flowlens[html]'"
        )


def encryption_share(
    hours: pl.DataFrame, turns: pl.DataFrame, changed_at: dt.datetime | None, zone: ZoneInfo | None
) -> Figure | None:
    """Share of bytes that were encrypted by hour, and when pairs turned; None where no hour has traffic to judge."""
    sums = hours.select(
        "hour",
        "flows_dropped",
        "bytes_encrypted",
        total=pl.col("bytes_encrypted") + pl.col("bytes_unencrypted"),
    ).filter(pl.col("total") > 0)
    if sums.is_empty():
        return None
    place = _placed(zone)
    values = [
        {
            "from": place(row["hour"]),
            "to": place(row["hour"] + dt.timedelta(hours=1)),
            "share": row["bytes_encrypted"] / row["total"],
            "told": f"{_hour(row['hour'], zone)}: {100 * row['bytes_encrypted'] / row['total']:.1f} % of "
            f"{size(row['total'])} encrypted"
            + (f", {counted(row['flows_dropped'], 'flow')} dropped" if row["flows_dropped"] else ""),
        }
        for row in sums.iter_rows(named=True)
    ]
    marked = [
        {"at": place(hour), "told": f"{counted(pairs, 'pair')} encrypted", "n": n}
        for n, (hour, pairs) in enumerate(turns.sort("pairs", "hour", descending=[True, False]).head(3).iter_rows())
    ]
    if changed_at is not None:
        marked.append({"at": place(changed_at), "told": "change", "n": len(marked)})
    first, last = values[0]["share"], values[-1]["share"]
    label = (
        f"Share of bytes between VMs that were encrypted, by hour: {100 * first:.1f} % in the first hour, "
        f"{100 * last:.1f} % in the last."
    )
    turned = ", ".join(f"{counted(pairs, 'pair')} at {_hour(hour, zone)}" for hour, pairs in turns.head(5).iter_rows())
    label += f" Encrypted since a turning point: {turned}." if turned else " No pair turned from clear to encrypted."

    def spec(width: int) -> dict[str, Any]:
        return {
            **_frame(width, 200, left=40, right=6, top=8 + 16 * len(marked), bottom=24),
            "data": [{"name": "hours", "values": values}, {"name": "marks", "values": marked}],
            "scales": [
                {
                    "name": "x",
                    "type": "utc",
                    "range": "width",
                    "domain": [min(v["from"] for v in values), max(v["to"] for v in values)],
                },
                {"name": "y", "type": "linear", "range": "height", "domain": [0, 1]},
            ],
            "axes": [
                _axis("x", "bottom", format=_TIME, tickCount=max(2, width // 90)),
                _axis("y", "left", format=".0%", values=[0, 0.5, 1], grid=True),
            ],
            "marks": [
                _rect("hours", "var(--track)", y={"value": 0}, y2={"signal": "height"}),
                _rect(
                    "hours",
                    "var(--fill-good)",
                    y={"scale": "y", "field": "share"},
                    y2={"scale": "y", "value": 0},
                    description={"field": "told"},
                ),
                {
                    "type": "rule",
                    "from": {"data": "marks"},
                    "encode": {
                        "enter": {
                            "x": {"scale": "x", "field": "at"},
                            "y": {"signal": "-4 - 16 * datum.n"},
                            "y2": {"signal": "height"},
                            "stroke": {"value": "var(--ink)"},
                            "strokeDash": {"value": [3, 3]},
                        }
                    },
                },
                {
                    "type": "text",
                    "from": {"data": "marks"},
                    "encode": {
                        "enter": {
                            **_TEXT,
                            "fill": {"value": "var(--ink)"},
                            # Towards the side that has room.
                            "x": {"signal": "scale('x', datum.at) + (scale('x', datum.at) > width / 2 ? -5 : 5)"},
                            "align": {"signal": "scale('x', datum.at) > width / 2 ? 'right' : 'left'"},
                            "y": {"signal": "-4 - 16 * datum.n"},
                            "baseline": {"value": "middle"},
                            "text": {"field": "told"},
                        }
                    },
                },
            ],
        }

    return _figure(
        "encryption-share",
        "Share of bytes encrypted, by hour",
        label,
        spec,
        (("good", "", "encrypted"), ("track", "", "in clear")),
    )


def destination_tiles(groups: pl.DataFrame) -> Figure | None:
    """Destinations as tiles as large as their bytes, or flows where bytes are not known; None without any."""
    if groups.is_empty():
        return None
    measure = "bytes" if groups["bytes"].fill_null(0).sum() else "flows"
    weighed = groups.with_columns(weight=pl.col(measure).fill_null(0)).sort("weight", descending=True)
    drawn, rest = weighed.head(TILES_DRAWN), weighed.slice(TILES_DRAWN)
    words: Callable[[int], str] = size if measure == "bytes" else lambda n: counted(n, "flow")
    tiles = [
        _tile(n, _with_country(row["group"], row["country"]), row["weight"], words(row["weight"]), row["named"])
        for n, row in enumerate(drawn.iter_rows(named=True))
    ]
    if rest.height:
        weight = int(rest["weight"].sum())
        tiles.append(_tile(len(tiles), f"{rest.height:,} {OTHERS}", weight, words(weight), OTHERS))
    total = max(1, int(weighed["weight"].sum()))
    # A tile that would not be seen is one part in a thousand at least.
    values = [{"id": "all"}, *({**tile, "weight": max(tile["weight"], total / 1000)} for tile in tiles)]
    biggest = "; ".join(str(tile["told"]) for tile in tiles[:3])
    label = f"{counted(groups.height, 'destination group')} by {measure}, the largest: {biggest}."

    def spec(width: int) -> dict[str, Any]:
        height = 240
        inner = "datum.x1 - datum.x0 - 12"
        shown = {**_TEXT, "x": {"signal": "datum.x0 + 7"}, "baseline": {"value": "top"}, "limit": {"signal": inner}}
        fits = f"{inner} > 34 && datum.y1 - datum.y0 >"
        return {
            **_frame(width, height),
            "data": [
                {
                    "name": "tree",
                    "values": values,
                    "transform": [
                        {"type": "stratify", "key": "id", "parentKey": "parent"},
                        {"type": "treemap", "field": "weight", "size": [width, height], "paddingInner": 3},
                    ],
                },
                {
                    "name": "tiles",
                    "source": "tree",
                    "transform": [{"type": "filter", "expr": "datum.depth > 0"}],
                },
            ],
            "marks": [
                {
                    "type": "rect",
                    "from": {"data": "tiles"},
                    "encode": {
                        "enter": {
                            "x": {"field": "x0"},
                            "x2": {"field": "x1"},
                            "y": {"field": "y0"},
                            "y2": {"field": "y1"},
                            "fill": {"field": "fill"},
                            "description": {"field": "told"},
                        }
                    },
                },
                {
                    "type": "text",
                    "from": {"data": "tiles"},
                    "encode": {
                        "enter": {
                            **shown,
                            "fill": {"value": "var(--ink)"},
                            "fontWeight": {"value": 600},
                            "y": {"signal": "datum.y0 + 7"},
                            "text": {"signal": f"{fits} 22 ? datum.name : ''"},
                        }
                    },
                },
                {
                    "type": "text",
                    "from": {"data": "tiles"},
                    "encode": {
                        "enter": {
                            **shown,
                            "fill": {"value": "var(--ink)"},
                            "y": {"signal": "datum.y0 + 23"},
                            "text": {"signal": f"{fits} 38 ? datum.amount : ''"},
                        }
                    },
                },
            ],
        }

    legend = tuple(
        (look, "", str(named))
        for named, look in {str(tile["named"]): str(tile["look"]) for tile in tiles}.items()
        if named != OTHERS
    )
    return _figure("destination-tiles", f"Destinations by {measure}", label, spec, legend)


def _with_country(group: str, country: str | None) -> str:
    return f"{group} ({country})" if country else group


def _tile(number: int, name: str, weight: int, amount: str, named: str) -> dict[str, Any]:
    look = {UNTAGGED: "tile-odd", OTHERS: "tile-rest"}.get(named, "tile")
    return {
        "id": f"tile {number}",
        "parent": "all",
        "name": clean(name),
        "weight": weight,
        "amount": amount,
        "told": f"{clean(name)}, {amount}",
        "named": named,
        "look": look,
        "fill": f"var(--{look})",
    }


def coverage_map(runs: pl.DataFrame, nics: int, counts: Mapping[str, int], zone: ZoneInfo | None) -> Figure | None:
    """Hours by NIC and state, gaps first; None where no hour was expected. ``nics`` of them there are in all."""
    if runs.is_empty():
        return None
    place = _placed(zone)
    rows = runs.select("nic", "flow_log").unique(maintain_order=True)
    twice = set(rows.filter(pl.col("nic").is_duplicated())["nic"])
    number = {key: n for n, key in enumerate(rows.iter_rows())}
    labels = [
        {"n": n, "name": clean(f"{nic} ({flow_log})" if nic in twice else nic)} for (nic, flow_log), n in number.items()
    ]
    values: list[dict[str, Any]] = [
        {
            "from": place(row["start"]),
            "to": place(row["end"]),
            "n": number[row["nic"], row["flow_log"]],
            "fill": f"var(--fill-{look})",
            "tall": tall,
            "letter": letter,
            "told": clean(
                f"{row['nic']}: {row['state']} from {_hour(row['start'], zone)} to {_hour(row['end'], zone)}"
            ),
        }
        for row in runs.iter_rows(named=True)
        for look, tall, letter in [STATE_LOOK[row["state"]]]
    ]
    step = runs["step"].item(0)
    gaps = sum(counts[state] for state in ("missing", "failed", "partly read", "open"))
    label = (
        f"Hours of {f'the {rows.height} NICs with most gaps, of {nics}' if nics > rows.height else counted(nics, 'NIC')}"
        f", by state; {counted(gaps, 'NIC-hour')} of all should be there and could not be read whole."
        + (f" A column is {step} hours, in their worst state." if step > 1 else "")
    )

    def spec(width: int) -> dict[str, Any]:
        left = 150 if width > WIDTHS["narrow"] else 92
        return {
            **_frame(width, rows.height * _ROW, left=left, right=6, top=4, bottom=24),
            "data": [{"name": "hours", "values": values}, {"name": "rows", "values": labels}],
            "scales": [
                {
                    "name": "x",
                    "type": "utc",
                    "range": "width",
                    "domain": [min(v["from"] for v in values), max(v["to"] for v in values)],
                }
            ],
            "axes": [_axis("x", "bottom", format=_TIME, tickCount=max(2, width // 110))],
            "marks": [
                {
                    "type": "text",
                    "from": {"data": "rows"},
                    "encode": {
                        "enter": {
                            **_TEXT,
                            "x": {"value": -8},
                            "y": {"signal": f"(datum.n + 0.5) * {_ROW}"},
                            "align": {"value": "right"},
                            "baseline": {"value": "middle"},
                            "limit": {"value": left - 10},
                            "text": {"field": "name"},
                        }
                    },
                },
                {
                    "type": "rect",
                    "from": {"data": "hours"},
                    "encode": {
                        "enter": {
                            "x": {"scale": "x", "field": "from"},
                            "x2": {"signal": _TO},
                            "y": {"signal": f"(datum.n + 0.5 - datum.tall * 0.42) * {_ROW}"},
                            "y2": {"signal": f"(datum.n + 0.5 + datum.tall * 0.42) * {_ROW}"},
                            "fill": {"field": "fill"},
                            "description": {"field": "told"},
                        }
                    },
                },
                {
                    "type": "text",
                    "from": {"data": "hours"},
                    "encode": {
                        "enter": {
                            "fontSize": {"value": 10},
                            "fontWeight": {"value": 700},
                            "fill": {"value": "var(--on-fill)"},
                            "x": {"signal": "(scale('x', datum.from) + scale('x', datum.to) - 1) / 2"},
                            "y": {"signal": f"(datum.n + 0.5) * {_ROW}"},
                            "align": {"value": "center"},
                            "baseline": {"value": "middle"},
                            "text": {
                                "signal": "datum.tall > 0.5 && scale('x', datum.to) - scale('x', datum.from) > 11 ? datum.letter : ''"
                            },
                        }
                    },
                },
            ],
        }

    legend = tuple(
        (f"{STATE_LOOK[state][0]} h{round(10 * STATE_LOOK[state][1])}", STATE_LOOK[state][2], f"{state} {n:,}")
        for state, n in counts.items()
        if n
    )
    return _figure("coverage-map", "Hours of each NIC", label, spec, legend)


def _figure(
    name: str,
    title: str,
    label: str,
    spec: Callable[[int], dict[str, Any]],
    legend: tuple[tuple[str, str, str], ...] = (),
) -> Figure:
    pictures = {size_name: _draw(spec(width), title) for size_name, width in WIDTHS.items()}
    return Figure(name, title, label, pictures, legend)


def _frame(width: int, height: int, *, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0) -> dict[str, Any]:
    """A drawing that is exactly so wide, with room for axes around."""
    return {
        "$schema": "https://vega.github.io/schema/vega/v6.json",
        "width": width - left - right,
        "height": height,
        "padding": {"left": left, "right": right, "top": top, "bottom": bottom},
        "autosize": "none",
    }


def _axis(scale: str, orient: str, **more: Any) -> dict[str, Any]:
    return {
        "scale": scale,
        "orient": orient,
        "domain": False,
        "tickColor": "var(--line)",
        "gridColor": "var(--line)",
        "labelColor": "var(--muted)",
        "labelFontSize": 12,
        "labelOverlap": True,
        "zindex": 1 if more.get("grid") else 0,
        **more,
    }


def _rect(data: str, fill: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "rect",
        "from": {"data": data},
        "encode": {
            "enter": {
                "x": {"scale": "x", "field": "from"},
                "x2": {"signal": _TO},
                "fill": {"value": fill},
                **more,
            }
        },
    }


def _placed(zone: ZoneInfo | None) -> Callable[[dt.datetime], int]:
    """Where a time stands on an axis: milliseconds of the zone's own clock, which Vega takes for UTC."""

    def place(time: dt.datetime) -> int:
        local = time.astimezone(zone or dt.UTC).replace(tzinfo=dt.UTC)
        return int(local.timestamp() * 1000)

    return place


def _hour(time: dt.datetime, zone: ZoneInfo | None) -> str:
    local = time.astimezone(zone or dt.UTC)
    return local.strftime("%Y-%m-%d %H:%M") + ("Z" if zone is None else local.strftime("%z"))


def _draw(spec: Mapping[str, Any], label: str) -> Markup:
    """The drawing as SVG that a page may hold."""
    require()
    import vl_convert

    drawn = vl_convert.vega_to_svg(dict(spec), allowed_base_urls=[])
    # What is read was drawn in this process.
    return _rebuilt(ET.fromstring(drawn), **{"role": "img", "aria-label": label})  # noqa: S314


def _rebuilt(element: ET.Element, **more: str) -> Markup:
    name = element.tag.rpartition("}")[2]
    if name not in _KEPT or (name == "path" and not element.get("d")) or element.get("display") == "none":
        return Markup("")
    inside: Sequence[Markup] = [
        *([Markup("<title>{}</title>").format(clean(told))] if (told := _told(name, element)) else ()),
        escape(clean(element.text)) if name in ("text", "tspan") and element.text else Markup(""),
        *(_rebuilt(child) for child in element),
    ]
    content = Markup("").join(inside)
    if name == "g" and not content:
        return content
    kept = {
        key: _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value) if key in _SHAPE else value
        for key, value in element.attrib.items()
        if (key in _SHAPE or key in _LOOK) and not (key == "opacity" and value == "1")
    }
    attributes = Markup("").join(
        Markup(' {}="{}"').format(key, clean(value)) for key, value in {**kept, **more}.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, attributes, content)


def _told(name: str, element: ET.Element) -> str:
    """What a shape says when it is pointed at."""
    return element.get("aria-label", "") if name == "path" else ""
