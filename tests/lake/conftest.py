"""A blob server for those tests of the lake that need a storage account."""

from tests.faults.conftest import azurite, impatient, stored

__all__ = ["azurite", "impatient", "stored"]
