"""A chart a file, from summaries to a figure. Importing one needs the `report` extra."""
