"""Hessian products, eigenvalues, spectral density and trace."""
