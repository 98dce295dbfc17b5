"""A chart a file, from summaries to a figure. Importing one needs the `report` extra."""

from importlib import import_module

from truenorm.errors import extra

with extra("report"):
    import_module("altair")
