"""Packs Microsoft's Kusto language service, from the folder of its npm package, into the file that flowlens ships.

npm install @kusto/language-service-next@12.4.1
python scripts/build_language_service.py node_modules/@kusto/language-service-next
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

PARTS = ("bridge.min.js", "Kusto.Language.Bridge.min.js")
TARGET = Path(__file__).parents[1] / "flowlens" / "query_data" / "language_service.js.gz"


def main() -> None:
    folder = Path(sys.argv[1])
    script = b"\n;\n".join((folder / part).read_bytes() for part in PARTS)
    # Without a time in it, the same package gives the same bytes.
    TARGET.write_bytes(gzip.compress(script, compresslevel=9, mtime=0))
    print(f"{TARGET.name}: {len(script)} bytes, packed {TARGET.stat().st_size}")


if __name__ == "__main__":
    main()
