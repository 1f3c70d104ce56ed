"""Machinery of a step: checks, kernel calls, norms of layers, shards, states, and the class of an adapted optimizer."""
