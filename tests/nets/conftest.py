import pytest

from tests.nets.networks import DATA


@pytest.fixture(params=DATA)
def data(request):
    return DATA[request.param]
