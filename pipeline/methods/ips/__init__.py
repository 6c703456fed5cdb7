"""Iterative patch selection: learning from images too large to look at in full (Bergner et al. 2023, arXiv:2210.13007)."""
