"""ALTO and the E adaptor for PyTorch optimizers (Zhao et al., NeurIPS 2025, arXiv 2510.27153)."""
