"""One file for each chart: a function from summaries to a figure, or to none if they hold nothing to draw."""
