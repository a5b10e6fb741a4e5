"""The lake: flow tuples of a storage account in a Delta table, kept up to date, each record once (docs/lake.md)."""
