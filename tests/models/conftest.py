import jax
import pytest


@pytest.fixture
def form(request, monkeypatch):
  """Selects the implementation for a kind of device, on this device."""

  def choose(*args, default, **forms):
    return forms.get(request.param, default)(*args)

  monkeypatch.setattr(jax.lax, "platform_dependent", choose)
  return request.param
