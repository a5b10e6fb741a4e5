"""``python -m flowlens`` is the command line."""

from flowlens.cli import main

main()
