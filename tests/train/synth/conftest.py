import pytest

from train.synth.donor import Donor, load_donor
from train.synth.render import Renderer


@pytest.fixture(scope="session")
def donor() -> Donor:
    return load_donor()


@pytest.fixture(scope="session")
def renderer(donor: Donor) -> Renderer:
    return Renderer(donor)
