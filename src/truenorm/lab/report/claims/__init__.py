"""A record of claims: what was found of each, in words, in the terminal and as a page."""
