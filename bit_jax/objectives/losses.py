"""Losses of classification on dense targets, and mixup."""

import jax
import jax.numpy as jnp
import optax


def dense_targets(labels: jax.Array, num_classes: int) -> jax.Array:
  """Turns labels into one row of class weights per example.

  Args:
    labels: Class ids int[N], or for multi-label sets uint8[N, num_classes] with
      a one for each class of the example.
    num_classes: Number of columns of the result.

  Returns:
    float32[N, num_classes].
  """
  if labels.ndim == 2:
    return labels.astype(jnp.float32)
  return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def softmax(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Softmax cross-entropy [N] of logits and targets, both float[N, C]."""
  return optax.softmax_cross_entropy(logits, targets)


def sigmoid(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Sigmoid cross-entropy [N] of float[N, C], summed over the classes.

  Each class counts alike, present or not (paper section 3.3, upstream).
  """
  return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)


# The values that config.loss may have.
LOSSES = {"softmax": softmax, "sigmoid": sigmoid}


def mixup(
  rng: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
  """Mixes every example of the global batch with one partner (1710.09412).

  One weight ~ Beta(alpha, alpha) serves the whole batch; the partner of row i
  is row N-1-i. Paper section 3.3; alpha 0 changes nothing.

  Args:
    rng: Random key; the same key draws the same weight.
    images: Images, float[N, H, W, 3].
    targets: Class weights, float[N, C].
    alpha: Parameter of the Beta distribution, >= 0.

  Returns:
    Mixed images and targets, of the same shapes and dtypes.

  Example:
    >>> import jax, numpy as np
    >>> from bit_jax.objectives import losses
    >>> images = np.zeros((2, 32, 32, 3), np.float32)
    >>> images[1] = 1.0
    >>> targets = losses.dense_targets(np.array([0, 1]), num_classes=2)
    >>> rng = jax.random.key(0)
    >>> images, targets = losses.mixup(rng, images, targets, alpha=0.1)
    >>> images.shape, targets.shape
    ((2, 32, 32, 3), (2, 2))
    >>> bool((images[0] == targets[0, 1]).all())  # The partner's share.
    True
  """
  if not alpha:
    return images, targets
  weight = jax.random.beta(rng, alpha, alpha)

  def mix(x):
    w = weight.astype(x.dtype)
    return w * x + (1 - w) * x[::-1]

  return mix(images), mix(targets)
