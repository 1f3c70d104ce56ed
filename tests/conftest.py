"""What every test begins with."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A model that a test makes has the same parameters in every run and in every order of the tests."""
    torch.manual_seed(0)
