"""Whatever is no TOML, or can't be told of, is an error that names the file, in each reader of such files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flowlens.acceptance import read_acceptances
from flowlens.analyses.destinations import read_expected
from flowlens.catalog import load_profile
from flowlens.config import read_config
from flowlens.errors import FlowlensError
from flowlens.schedule import read_schedule
from flowlens.toml_files import parse_toml, read_toml

READERS: list[Callable[[Path], object]] = [read_toml, read_config, read_expected, read_acceptances, load_profile]
WRONG = {
    "not UTF-8": b"title = '\xff'",
    "no TOML": b"title =",
    "a number of many digits": b"title = " + b"9" * 5000,
    "a hexadecimal number of many digits": b"title = 0x" + b"f" * 5000,
    "nested": b"title = " + b"[" * 5000 + b"]" * 5000,
    "a date that is none": b"title = 2026-02-30",
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("read", READERS)
def test_a_file_that_cannot_be_read_is_told(read: Callable[[Path], object], data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    with pytest.raises(FlowlensError) as error:
        read(path)
    assert "a.toml" in error.value.where
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_a_schedule_tells_all_that_is_wrong(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    found, (error,) = read_schedule(path)
    assert found is None and error.where == str(path)


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_is_not_there_is_told(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(FlowlensError):
        read(tmp_path / "none.toml")


def test_line_ends_of_windows_are_read() -> None:
    assert parse_toml(b'a = """x\r\ny"""\r\nb = 1\r\n') == {"a": "x\ny", "b": 1}
