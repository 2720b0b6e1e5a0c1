import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax import models
from bit_jax.errors import InputError
from bit_jax.models import init, paths
from bit_jax.weights import layouts, param_shapes
from tests.goldens import seeded_weights

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


def max_error(a, b):
  """The goldens' measure: max|a - b| / max|b|."""
  return np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()


def num_params(variant, num_classes=1000):
  shapes = param_shapes.abstract_params(variant, num_classes).values()
  return sum(int(np.prod(s.shape)) for s in shapes)


@pytest.mark.parametrize(
  ("variant", "expected"),
  [
    # Counted from the shapes of the official files; the shapes of the other
    # released variants are in weights/layouts_test.py.
    ("R101x1", 44_541_480),
    ("R50x3", 217_319_080),
    ("R152x2", 236_335_208),
  ],
)
def test_number_of_parameters(variant, expected):
  assert variant in models.VARIANTS
  assert num_params(variant) == expected


def golden_network(name, *, jit=True, **kw):
  """Returns a golden file, and its network's logits and features."""
  golden = np.load(GOLDENS / f"{name}.npz")
  depth, width, classes, batch, height, width_px, seed = golden["meta"]
  flat = {
    layouts.OFFICIAL.path(k): v
    for k, v in seeded_weights.make(depth, width, classes, seed).items()
  }
  flat["head/kernel"] = flat["head/kernel"][0, 0]
  params = paths.unflatten(flat)
  images = seeded_weights.images(batch, height, width_px, seed)
  model = models.create(f"R{depth}x{width}", num_classes=int(classes), **kw)

  def apply(params, images):
    return model.apply({"params": params}, images, return_features=True)

  apply = jax.jit(apply) if jit else apply
  with jax.default_matmul_precision("highest"):
    return golden, *apply(params, images)


@pytest.mark.parametrize(
  ("name", "jit", "form"),
  [
    ("R50x1_96px", True, "cpu"),
    ("R50x1_65x97px", True, "cpu"),  # Odd sizes: padding on both sides matters.
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        ("R101x3_64px", True, "cpu"),
        ("R101x3_64px", False, "cpu"),
        ("R101x3_64px", True, "tpu"),
        ("R101x3_64px", False, "tpu"),
        ("R50x1_65x97px", False, "cpu"),
        ("R50x1_96px", True, "default"),
        ("R50x1_96px", False, "default"),
      )
    ),
  ],
  indirect=["form"],
)
def test_agrees_with_the_official_network(name, jit, form):
  golden, logits, features = golden_network(name, jit=jit)
  # Measured with each form, of the logits: 5e-5 and 2e-4 at most.
  limit = 1e-4 if jit else 3e-4
  assert logits.dtype == jnp.float32
  assert max_error(logits, golden["logits"]) < limit
  assert max_error(features["pre_logits"], golden["features"]) < limit
  for layer in ("root", "block1", "block2", "block3", "block4"):
    feature = np.asarray(features[layer])
    assert feature.shape == tuple(golden[f"{layer}/shape"])
    first8, mean = golden[f"{layer}/first8"], golden[f"{layer}/channel_mean"]
    assert max_error(feature[0, :, :, :8], first8) < limit
    assert max_error(feature.mean((0, 1, 2)), mean) < limit


@pytest.mark.slow
def test_bf16_stays_near_the_official_network():
  # Rounded to three digits 150 times in a row: 8 % were measured, for random
  # weights.
  golden, logits, _ = golden_network("R50x1_96px", dtype="bfloat16")
  assert 1e-3 < max_error(logits, golden["logits"]) < 0.12


def gradient_errors():
  """Errors of loss and gradients of the golden file, by name."""
  golden = np.load(GOLDENS / "R50x1_grad.npz")
  depth, width, classes, batch, height, width_px, seed = golden["meta"]
  flat = {
    layouts.OFFICIAL.path(k): v
    for k, v in seeded_weights.make(depth, width, classes, seed).items()
  }
  flat["head/kernel"] = flat["head/kernel"][0, 0]
  dtype = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32
  params = jax.tree.map(lambda x: jnp.asarray(x, dtype), flat)
  images = seeded_weights.images(batch, height, width_px, seed).astype(dtype)
  labels = np.arange(batch) % classes
  model = models.create(f"R{depth}x{width}", num_classes=int(classes))

  @jax.jit
  @jax.value_and_grad
  def loss_and_grads(flat):
    params = paths.unflatten(flat)
    logits = model.apply({"params": params}, images)
    assert logits.dtype == dtype
    return -jax.nn.log_softmax(logits)[jnp.arange(batch), labels].mean()

  loss, grads = loss_and_grads(params)
  errors = {"loss": max_error(loss, golden["loss"])}
  for key in golden.files:
    if key.startswith("grad/"):
      path = layouts.OFFICIAL.path(key.removeprefix("grad/"))
      errors[path] = max_error(
        grads[path], golden[key].reshape(grads[path].shape)
      )
  return errors


@pytest.mark.slow
def test_fp32_gradients_of_head_and_last_norm():
  # Gradients through standardized kernels are ill-conditioned in fp32.
  with jax.default_matmul_precision("highest"):
    errors = gradient_errors()
  outer = {k: e for k, e in errors.items() if k.startswith(("head", "norm-"))}
  assert set(outer) == {"norm-pre-head/scale", "head/kernel"}
  assert max(outer.values()) < 1e-3, outer


@pytest.mark.slow
def test_float64_gradients():
  # In a process of its own: x64 holds for a whole process.
  code = "from tests.models import resnet_test as t; print(t.gradient_errors())"
  out = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"JAX_ENABLE_X64": "1"},
    cwd=GOLDENS.parents[1],
    capture_output=True,
    text=True,
    check=True,
  )
  errors = eval(out.stdout, {"np": np})
  assert len(errors) == 8
  assert max(errors.values()) < 1e-6, errors


def test_bf16_network_gives_float32_logits_near_those_of_float32():
  images = seeded_weights.images(2, 32, 32)
  kw = {"num_classes": 5, "head_bias": -1.5}
  model = models.create("R14x0.5", **kw)
  params = init.init_variables(model, jax.random.key(0))["params"]
  params["head"]["kernel"] = jax.random.normal(jax.random.key(1), (1024, 5))
  bf16 = models.create("R14x0.5", dtype="bfloat16", **kw)

  @jax.jit
  def apply(params):
    exact = model.apply({"params": params}, images)
    return exact, bf16.apply({"params": params}, images, return_features=True)

  exact, (got, features) = apply(params)
  assert got.dtype == jnp.float32
  assert features["block4"].dtype == jnp.bfloat16
  assert max_error(got, np.asarray(exact)) < 0.05


def test_head_starts_with_zero_kernel_and_the_given_bias():
  model = models.create("R14x0.0625", num_classes=3, head_bias=-6.9)
  images = seeded_weights.images(2, 32, 32)
  apply = jax.jit(model.init_with_output)
  logits, params = apply(jax.random.key(0), images)
  assert not np.asarray(params["params"]["head"]["kernel"]).any()
  np.testing.assert_allclose(logits, np.full((2, 3), -6.9), rtol=1e-6)


def test_small_variant_strides_early_and_has_one_unit_a_stage():
  model = models.create("R14x0.5", num_classes=3)

  def apply(images):
    return model.init_with_output(
      jax.random.key(0), images, return_features=True
    )

  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  (_, features), variables = jax.eval_shape(apply, image)
  assert features["root"].shape == (1, 16, 16, 32)
  assert features["block4"].shape == (1, 2, 2, 1024)
  root = variables["params"]["root_block"]["conv_root"]["kernel"]
  assert root.shape == (3, 3, 3, 32)
  assert set(variables["params"]["block2"]) == {"unit01"}


@pytest.mark.parametrize(
  "variant",
  [
    "R51x1",
    "r50x1",
    "R50",
    "R50x0",
    "R50x",
    "R50x0.3",
    "R50x1 ",
    "R50x1.1",
    "R14x0.375",
  ],
)
def test_unknown_variants_are_refused(variant):
  with pytest.raises(InputError, match="model"):
    models.create(variant, num_classes=2)


def test_ablations_have_the_same_convolutions_and_their_own_norms():
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

  def shapes(**kw):
    model = models.create("R14x0.5", num_classes=3, **kw)
    return jax.eval_shape(model.init, jax.random.key(0), image)

  gn, bn = shapes(), shapes(norm="bn", weight_standardization=False)
  assert "batch_stats" not in gn
  renamed = {
    k.replace("/gn", "/bn"): v for k, v in paths.flatten(gn["params"]).items()
  }
  assert renamed == paths.flatten(bn["params"])
  assert len(jax.tree.leaves(bn["batch_stats"])) == 2 * (4 * 3 + 1)


def small_network(remat):
  """Returns a network of two stages; the first has two units."""
  return models.ResNetV2(
    3, units=(2, 1), width=0.25, small_images=True, remat=remat
  )


def kept_bytes(remat):
  """Returns the bytes that the forward pass leaves for the backward pass."""
  model = small_network(remat)

  def forward(params, images):
    def loss(params):
      return model.apply({"params": params}, images).sum()

    return jax.vjp(loss, params)[1]

  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  params = init.trace(model).shapes["params"]
  kept = jax.eval_shape(forward, params, images)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))


def test_each_kind_of_rematerialization_keeps_less():
  none, norm, unit, stage = map(kept_bytes, models.REMAT)
  assert none > 2 * norm
  assert norm > unit > stage


def test_rematerialization_changes_nothing():
  images = jnp.asarray(seeded_weights.images(2, 32, 32))
  results = {}
  for remat in models.REMAT:
    model = small_network(remat)
    if not results:
      params = init.init_variables(model, jax.random.key(0))["params"]
      params["head"]["kernel"] = jax.random.normal(jax.random.key(1), (128, 3))

    @jax.jit
    @jax.value_and_grad
    def loss(params, model=model):
      return jnp.square(model.apply({"params": params}, images)).mean()

    results[remat] = loss(params)
  for remat in models.REMAT[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4),
      results["none"],
      results[remat],
    )


def test_folding_gives_the_same_logits_without_standardization():
  images = seeded_weights.images(2, 32, 32)
  model = models.create("R14x0.0625", num_classes=3)
  params = init.init_variables(model, jax.random.key(0))["params"]
  params["head"]["kernel"] = jax.random.normal(jax.random.key(1), (128, 3))
  folded_model, folded = models.fold(model, params)
  assert not folded_model.weight_standardization
  kernel = folded["block2"]["unit01"]["conv2"]["kernel"]
  np.testing.assert_allclose(kernel.std((0, 1, 2)), 1, rtol=1e-4)
  assert folded["head"]["kernel"] is params["head"]["kernel"]
  got = jax.jit(folded_model.apply)({"params": folded}, images)
  want = jax.jit(model.apply)({"params": params}, images)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  again_model, again = models.fold(folded_model, folded)
  assert again_model is folded_model
  assert again["head"] is folded["head"]
