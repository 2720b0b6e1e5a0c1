import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bit_jax.errors import InputError, UsageError
from scripts.benchmark import mfu, steps
from scripts.benchmark.flags import Case

TINY = Case("train", "R14x0.25", 32, 4, classes=10)


class Clock:
  """A clock that advances by the duration of the subjects' steps."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


class Fake:
  compile_secs = 0.0

  def __init__(self, name, clock, secs, log):
    self.name, self._clock, self._secs, self._log = name, clock, secs, log

  def run(self, steps):
    self._log.append((self.name, steps))
    self._clock.now += steps * self._secs

  def memory(self):
    return {}


def test_subjects_are_timed_in_turns():
  clock, log = Clock(), []
  subjects = [Fake("a", clock, 0.25, log), Fake("b", clock, 2.0, log)]
  secs = steps.interleave(subjects, rounds=3, round_secs=1.0, clock=clock)
  assert secs == {"a": [0.25] * 3, "b": [2.0] * 3}
  assert log == [("a", 1), ("b", 1), *[("a", 4), ("b", 1)] * 3]


def test_report_compares_neighbouring_rounds():
  subjects = [Fake(name, None, 0, None) for name in ("ours", "theirs")]
  secs = {"ours": [1.0, 2.0, 5.0], "theirs": [2.0, 3.0, 5.0]}
  ours, theirs = steps.report(subjects, secs, batch=8)
  assert "first_is_faster" not in ours
  assert ours["images_per_sec"] == 4.0
  assert ours["step_secs"] == {
    **{"median": 2.0, "min": 1.0, "max": 5.0},
    "rounds": [1.0, 2.0, 5.0],
  }
  ratio = theirs["first_is_faster"]
  assert ratio["rounds"] == [2.0, 1.5, 1.0]
  assert (ratio["median"], ratio["min"], ratio["max"]) == (1.5, 1.0, 2.0)


def test_config_is_the_case(one_device):
  case = Case(
    *("train", "R14x0.25", 64, 8, "bfloat16", ("optim.accum_steps=2",)),
    classes=7,
  )
  config = steps.make_config(case, one_device)
  assert config.model.variant == "R14x0.25"
  assert config.model.dtype == "bfloat16"
  assert config.input.batch_size == 8
  assert config.optim.accum_steps == 2
  r = config.resolved
  assert (r.crop_px, r.resize_px, r.num_classes) == (64, 73, 7)


@pytest.mark.parametrize(
  ("case", "error", "message"),
  [
    (Case("train", "R7x1"), InputError, "R7x1"),
    (Case("train", batch=6), InputError, "devices, 4"),
    (Case("train", overrides=("optim.x=1",)), UsageError, "key optim.x"),
    (Case("train", config="no.py"), UsageError, "no.py"),
  ],
)
def test_bad_cases(case, error, message, mesh):
  with pytest.raises(error, match=message):
    steps.make_config(case, mesh)


def test_batches_are_full_and_always_the_same(mesh):
  config = steps.make_config(TINY, mesh)
  batch = steps.make_batch(config, mesh)
  images, labels = np.asarray(batch["images"]), np.asarray(batch["labels"])
  assert images.shape == (4, 32, 32, 3)
  assert images.dtype == np.uint8
  assert images.std() > 60
  assert labels.max() < 10
  again = steps.make_batch(config, mesh)
  np.testing.assert_array_equal(images, np.asarray(again["images"]))


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_our_steps_run_and_are_measured(mode, mesh, monkeypatch):
  monkeypatch.setattr(
    mfu, "find_peak", lambda *args, **kw: mfu.Peak(1e9, "fake")
  )
  case = dataclasses.replace(TINY, mode=mode)
  found = steps.run(
    case,
    mesh,
    lambda *args: ([], ["no peers"]),
    rounds=2,
    round_secs=0.0,
    clock=time.perf_counter,
    tf32=True,
  )
  (ours,) = found["subjects"]
  assert ours["name"] == "bit_jax"
  assert len(ours["step_secs"]["rounds"]) == 2
  secs = ours["step_secs"]["median"]
  assert ours["images_per_sec"] == pytest.approx(4 / secs)
  flops = steps.forward_flops(steps.make_config(case, mesh))
  assert found["flops_per_step"] == flops * (3 if mode == "train" else 1)
  # The virtual devices of a CPU share one machine's peak.
  assert ours["mfu"] == pytest.approx(found["flops_per_step"] / secs / 1e9)
  memory = ours["memory"]
  assert memory["rss_bytes"] > memory["compiler_bytes"] > 2**20
  assert memory["compiler_bytes"] > found["needs"]["temp_bytes"]
  assert ours["compile_secs"] > 0
  assert found["notes"] == ["no peers"]


def test_training_goes_on_from_step_to_step(one_device):
  config = steps.make_config(TINY, one_device)
  ours = steps.Ours(config, one_device, train=True)
  ours.run(3)
  assert int(ours._state.step) == 5  # Two to warm up.


def test_inference_gives_logits(mesh):
  config = steps.make_config(TINY, mesh)
  state = steps.step.make_init(steps.make_spec(config, mesh))(0)
  # The head starts with zeros, which would make all logits equal.
  kernel = jnp.sin(jnp.arange(5120.0)).reshape(512, 10)
  state.params["head"]["kernel"] = kernel
  infer = steps.make_infer_step(config, mesh)
  batch = steps.make_batch(config, mesh)
  prepared = infer.prepare(state.variables)
  logits = infer.run(prepared, batch)
  images = np.asarray(batch["images"]) / 127.5 - 1
  model = steps.make_spec(config, mesh).objective.network
  expected = model.apply(state.variables, images.astype(np.float32))
  np.testing.assert_allclose(logits, expected, atol=1e-4)
  assert np.abs(expected).max() > 0.1
  # Compilation ahead of time uses these shapes.
  for x, y in zip(
    jax.tree.leaves(steps.make_abstract_prepared(config, mesh)),
    jax.tree.leaves(prepared),
    strict=True,
  ):
    assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)


def test_inference_keeps_no_optimizer_and_folds(one_device):
  config = steps.make_config(TINY, one_device)
  ours = steps.Ours(config, one_device, train=False)
  assert ours._state.keys() == {"params", "batch_stats"}
  kernel = ours._state["params"]["root_block"]["conv_root"]["kernel"]
  np.testing.assert_allclose(kernel.std((0, 1, 2)), 1, atol=1e-3)
