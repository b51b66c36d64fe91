import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """No checks of shapes at run time, which cost three quarters of a long walk; the other tests make them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
