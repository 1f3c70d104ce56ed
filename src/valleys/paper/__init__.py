"""The paper (Zhao et al. 2025, arXiv 2510.27153): its tables as data, experiments, mathematics and pictures."""
