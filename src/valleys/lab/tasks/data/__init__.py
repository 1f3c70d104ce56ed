"""Readers of data files, and augmentation on the device."""
