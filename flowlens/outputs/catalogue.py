"""The catalogue on the terminal: profiles, and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from flowlens.catalog import Profile
from flowlens.catalog.placeholders import left_open
from flowlens.catalog.profiles import EGRESS
from flowlens.catalog.tags import CLOUDS
from flowlens.outputs.page import Page, Row, Shown

Line = tuple[str, str]
"""A line and its style."""


def profiles(found: Sequence[Profile], page: Page) -> None:
    """A row per profile: its title, its requirements in each cloud, and the date of its newest source."""
    rows = pl.DataFrame(
        [
            {
                "profile": profile.name,
                **{cloud: sum(r.cloud == cloud for r in profile.requirements) for cloud in CLOUDS},
                "as_of": profile.as_of,
                "title": profile.title,
            }
            for profile in found
        ]
    )
    page.table(
        f"{rows.height} profiles, with their requirements in each cloud",
        rows,
        lambda _: (
            Shown("profile", _cell("profile"), whole=True),
            *(Shown(cloud, _cell(cloud), right=True) for cloud in CLOUDS),
            Shown("as of", _cell("as_of"), whole=True),
            Shown("title", _cell("title")),
        ),
    )


def profile(one: Profile, cloud: str) -> Iterator[Line]:
    """One profile's sources, placeholders, and requirements in ``cloud``."""
    yield f"{one.name}: {one.title}", "bold"
    for source in one.sources:
        yield f"  source: {source}", ""
    own = [requirement for requirement in one.requirements if requirement.cloud == cloud]
    if not own:
        held = ", ".join(known for known in CLOUDS if any(r.cloud == known for r in one.requirements))
        yield f"No source was read for {cloud}; there are requirements for {held}.", ""
    for name, text in left_open(own).items():
        yield f"  to set: {name}, {text}", ""
    for requirement in own:
        need = "retired" if requirement.retired else requirement.need
        words = need if requirement.concerns == EGRESS else f"{need}, {requirement.concerns}"
        where = f"{requirement.protocol.upper()} {requirement.ports}"
        yield f"{requirement.name}  [{words}]  {where}  as of {requirement.as_of}", ""
        yield "  " + ", ".join(f"{e.value} ({e.kind})" for e in requirement.endpoints), ""
        if requirement.note:
            yield f"  {requirement.note}", "dim"


def _cell(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name]) if row[name] else "-"
