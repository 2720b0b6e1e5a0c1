"""Finds out which network weights belong to, without reading their arrays."""

from typing import Any, NamedTuple

from etils import epath

from bit_jax.storage import remote, user_paths
from bit_jax.weights import files, releases


class Network(NamedTuple):
  """A network, as `models.create(variant, num_classes=..., **options)` makes.

  Attributes:
    variant: Variant of the network, e.g. `R50x1`.
    options: Options other than the defaults, as in `Weights.model_options`.
  """

  variant: str
  options: dict[str, Any]


def network_of(path: epath.PathLike) -> Network:
  """Returns the network of weights; reads metadata and shapes alone.

  Nothing is downloaded: the name of a release tells its network.

  Args:
    path: Any file, folder or release that `files.load` takes.

  Raises:
    InputError: The same problems as in `files.load`, except damage inside an
      array.

  Example:
    >>> from bit_jax import weights
    >>> weights.network_of("BiT-M-R101x3")
    Network(variant='R101x3', options={})
  """
  name = user_paths.expand(path)
  remote.check(name, "weights")
  if name in releases.VARIANTS and not epath.Path(name).exists():
    return Network(releases.VARIANTS[name], {})
  with files.open_lazily(name, only_shapes=True) as found:
    return Network(found.variant, found.model_options)
