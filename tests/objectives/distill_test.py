"""Distillation: its loss against float64, its teacher, and whole runs."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax import models, train, weights
from bit_jax.errors import InputError
from bit_jax.models import init
from bit_jax.objectives.distill import Distill, soft_loss
from bit_jax.preflight import aot
from bit_jax.run import fixed as fixed_weights
from bit_jax.run import start
from bit_jax.run.sources import RunData
from bit_jax.run.step import make_init, make_update_step
from bit_jax.storage import checkpoint
from bit_jax.writers import metrics_file
from tests import fakes
from tests.fakes import a_batch, make_config, resolved

CLASS_NAMES = tuple(f"class {i}" for i in range(4))


def random_params(network, seed):
  """Initial parameters with a head that tells classes apart at random."""
  params = init.init_variables(network, jax.random.key(seed))["params"]
  kernel = params["head"]["kernel"]
  params["head"]["kernel"] = jax.random.normal(
    jax.random.key(seed), kernel.shape
  )
  return jax.device_get(params)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  """The path of a teacher's weights."""
  network = models.create(fakes.MODEL, num_classes=4)
  path = tmp_path_factory.mktemp("teacher") / "params.npz"
  saved = weights.Weights(
    random_params(network, 7), {}, fakes.MODEL, CLASS_NAMES
  )
  weights.save_npz(path, saved)
  return str(path)


def distill_config(teacher, **overrides):
  return make_config(
    objective="distill", **{"distill.teacher": teacher, **overrides}
  )


def exact_soft_loss(student, teacher, t):
  """The formula of arXiv 1503.02531 in float64."""

  def softmax(x):
    e = np.exp(x / t - (x / t).max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)

  p, q = softmax(np.float64(teacher)), softmax(np.float64(student))
  return t**2 * (p * (np.log(p) - np.log(q))).sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_soft_loss_is_that_of_the_paper(temperature):
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(0, 3, (2, 5, 7)).astype("f")
  got = soft_loss(student, teacher, temperature)
  wanted = exact_soft_loss(student, teacher, temperature)
  np.testing.assert_allclose(got, wanted, rtol=1e-4)
  assert np.abs(wanted).min() > 0.01


def test_at_a_high_temperature_it_is_the_distance_of_centred_logits():
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(0, 1, (2, 5, 7)).astype("f")
  difference = student - teacher
  difference -= difference.mean(-1, keepdims=True)
  limit = np.square(difference).sum(-1) / (2 * 7)
  got = soft_loss(student, teacher, 100.0)
  np.testing.assert_allclose(got, limit, rtol=0.02)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(0, 3, (5, 7)), jnp.float32)
  value, grads = jax.value_and_grad(lambda x: soft_loss(x, logits, 2.0).mean())(
    logits
  )
  assert abs(value) < 1e-6
  assert np.abs(grads).max() < 1e-6


def test_no_gradient_reaches_the_teacher():
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(0, 3, (2, 5, 7)).astype("f")
  by_both = jax.grad(lambda s, t: soft_loss(s, t, 2.0).mean(), (0, 1))
  by_student, by_teacher = by_both(student, teacher)
  assert np.abs(by_student).max() > 0.01
  assert not by_teacher.any()


def test_the_step_mixes_both_losses_and_leaves_the_teacher_alone(teacher, mesh):
  config = resolved(
    distill_config(
      teacher,
      **{
        "distill.temperature": 2.0,
        "distill.label_weight": 0.25,
        "optim.accum_steps": 2,
      },
    )
  )
  loaded = fixed_weights.load(config, CLASS_NAMES)
  spec, fixed = fakes.spec(config, mesh), fixed_weights.place(loaded, mesh)
  before = jax.device_get(fixed)
  state = make_init(spec)(0)
  batch = a_batch(mesh)
  # The student's head is zero at first: it says the same of every image.
  images = np.asarray(batch["images"]) / np.float32(127.5) - 1
  network = models.create(fakes.MODEL, num_classes=4)
  logits = network.apply(
    {"params": weights.load(teacher).params}, jnp.asarray(images, jnp.float32)
  )
  soft = exact_soft_loss(np.zeros((8, 4)), logits, 2.0).mean()
  state, metrics = make_update_step(spec)(state, batch, fixed)
  np.testing.assert_allclose(metrics["soft_loss"], soft, rtol=1e-3)
  np.testing.assert_allclose(metrics["label_loss"], np.log(4), rtol=1e-5)
  np.testing.assert_allclose(
    metrics["loss"], 0.25 * np.log(4) + 0.75 * soft, rtol=1e-3
  )
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(fixed), before)
  make_update_step(spec)(state, batch, fixed)  # It was not donated either.


def test_other_teachers_share_a_compiled_step(teacher, mesh, tmp_path):
  other = dataclasses.replace(
    weights.load(teacher),
    params=random_params(models.create(fakes.MODEL, num_classes=4), 8),
  )
  weights.save_npz(tmp_path / "other.npz", other)
  (a, _), (b, _) = (
    start.make_spec(resolved(distill_config(path)), mesh)
    for path in (teacher, str(tmp_path / "other.npz"))
  )
  assert isinstance(a.objective, Distill)
  assert make_update_step(a) is make_update_step(b)


def test_a_run_learns_what_its_teacher_says(teacher, tmp_path):
  # The teacher's head is random: only what it said of these images is learned.
  data = RunData(fakes.array_source(), {"same": fakes.array_source()})
  config = distill_config(teacher, total_steps=90, **{"optim.lr": 0.05})
  result = train.train_and_evaluate(config, tmp_path, data=data)
  assert result["eval/same/agreement"] > 0.6  # By chance: 0.25.
  first, *_, last = metrics_file.read_metrics(tmp_path / "metrics.jsonl")
  assert last["eval/same/soft_loss"] < 0.5 * first["train/soft_loss"]
  # The teacher is no part of what is saved.
  path = checkpoint.find(tmp_path)
  assert path
  names = checkpoint.load_arrays(path)
  assert not [name for name in names if "teacher" in name]
  assert weights.load(tmp_path).class_names == CLASS_NAMES
  # Another teacher is another run.
  other = dataclasses.replace(
    weights.load(teacher),
    params=random_params(models.create(fakes.MODEL, num_classes=4), 8),
  )
  weights.save_npz(tmp_path / "other.npz", other)
  config.distill.teacher = str(tmp_path / "other.npz")
  with pytest.raises(InputError, match="resolved.fixed_digest: '"):
    train.train_and_evaluate(config, tmp_path, data=data)
  # The same one elsewhere is not, and a finished run can do without.
  shutil.copy(teacher, tmp_path / "moved.npz")
  config.distill.teacher = str(tmp_path / "moved.npz")
  assert train.train_and_evaluate(config, tmp_path, data=data) == result
  (tmp_path / "moved.npz").unlink()
  assert train.train_and_evaluate(config, tmp_path, data=data) == result


def test_a_run_resumes_and_knows_its_teacher_on_any_device(teacher, tmp_path):
  data = RunData(fakes.array_source(), {"same": fakes.array_source()})
  config = distill_config(teacher, **{"checkpoint.every_steps": 2})
  whole = train.train_and_evaluate(config, tmp_path, data=data)
  shutil.rmtree(tmp_path / "checkpoints" / "4")
  (tmp_path / "result.json").unlink()
  assert train.train_and_evaluate(config, tmp_path, data=data) == whole
  stored = json.loads((tmp_path / "config.json").read_text())
  # Of the file's own bits, not of what some device has computed of them.
  params = {"params": weights.load(teacher).params, "batch_stats": {}}
  wanted = fixed_weights.digest({"teacher": params})
  assert stored["resolved"]["fixed_digest"] == wanted


@pytest.mark.parametrize("shard_state", [False, True])
def test_the_number_of_devices_changes_nothing_but_rounding(
  teacher, mesh, one_device, shard_state
):
  def losses(mesh, shard_state):
    config = resolved(
      distill_config(teacher, **{"parallel.shard_state": shard_state})
    )
    loaded = fixed_weights.load(config)
    spec, placed = fakes.spec(config, mesh), fixed_weights.place(loaded, mesh)
    state, found = make_init(spec)(0), []
    for seed in range(3):
      batch = a_batch(mesh, seed)
      state, metrics = make_update_step(spec)(state, batch, placed)
      found.append(float(metrics["loss"]))
    return found

  np.testing.assert_allclose(
    losses(mesh, shard_state), losses(one_device, False), rtol=1e-4
  )


def test_the_teacher_computes_in_the_type_of_its_student(teacher, mesh):
  config = resolved(distill_config(teacher, **{"model.dtype": "bfloat16"}))
  objective = fakes.spec(config, mesh).objective
  assert objective.teacher.dtype == objective.network.dtype == jnp.bfloat16


def test_the_memory_of_a_step_counts_the_teacher(teacher, mesh):
  config = resolved(distill_config(teacher))
  plain = resolved(make_config())
  more = aot.argument_bytes(config, mesh) - aot.argument_bytes(plain, mesh)
  teacher_bytes = sum(
    x.nbytes for x in jax.tree.leaves(weights.load(teacher).params)
  )
  assert more == teacher_bytes


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"distill.teacher": ""}, "config.distill.teacher is empty: expected a"),
    (
      {"distill.teacher": "/no.npz"},
      "config.distill.teacher: weights /no.npz: no such",
    ),
    ({"distill.temperature": 0.0}, "config.distill.temperature=0.0: expected"),
    ({"distill.label_weight": 1.5}, "label_weight=1.5: expected 0 to 1"),
    ({"loss": "sigmoid"}, "config.loss='sigmoid': expected 'softmax' with"),
    ({"objective": "guess"}, "config.objective='guess': expected one of"),
  ],
)
def test_bad_values_are_named(teacher, tmp_path, change, message):
  data = RunData(fakes.array_source(), {})
  config = distill_config(teacher)
  config.update_from_flattened_dict(change)
  with pytest.raises(InputError, match=message):
    train.train_and_evaluate(config, tmp_path, data=data)
  assert not list(tmp_path.iterdir())


def test_a_teacher_of_other_classes_is_refused(teacher, tmp_path):
  config = distill_config(teacher)
  data = RunData(fakes.array_source(num_classes=5), {})
  with pytest.raises(
    InputError, match="have 4 classes, but the data set has 5"
  ):
    train.train_and_evaluate(config, tmp_path, data=data)
  names = ("class 0", "class 2", "class 1", "class 3")
  data = RunData(fakes.array_source(class_names=names), {})
  with pytest.raises(InputError, match="order: 'class 1' instead of 'class 2'"):
    train.train_and_evaluate(config, tmp_path, data=data)


def test_a_student_is_judged_by_its_teacher():
  student = Distill(None)
  text = student.shortcoming({"agreement": 0.5, "accuracy": 0.99})
  assert text.endswith("(the same first guess on 50 %)")
  assert student.shortcoming({"agreement": 0.95, "accuracy": 0.5}) == ""
