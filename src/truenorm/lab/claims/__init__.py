"""Claims about batch norm, measured: each a file of the catalogue, with the rule of its verdict fixed in advance."""
