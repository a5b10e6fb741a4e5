"""``python -m flowlens`` is the command line."""

import sys

from flowlens.cli import main

sys.exit(main())
