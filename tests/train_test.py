import contextlib
import dataclasses
import json
import signal
import threading

import jax
import numpy as np
import pytest

from bit_jax import train, weights
from bit_jax.data import pipeline
from bit_jax.errors import InputError, StoppedError
from bit_jax.evaluate import metrics
from bit_jax.parallel import sharding
from bit_jax.run import (
  first_state,
  sources,
  start,
  stopping,
  upkeep,
  watchdog,
)
from bit_jax.run.sources import RunData
from bit_jax.storage import checkpoint
from bit_jax.writers import metrics_file
from configs import upstream
from tests import fakes
from tests.fakes import make_config, resolved

MODEL = fakes.MODEL


@pytest.fixture
def arrays(monkeypatch):
  """Makes every run train and evaluate on seeded arrays."""
  data = RunData(fakes.array_source(), {"test": fakes.array_source(21, seed=1)})
  monkeypatch.setattr(sources, "load", lambda *_, **__: data)
  return data


def read_lines(workdir):
  return metrics_file.read_metrics(workdir / "metrics.jsonl")


def trained(workdir):
  """Returns (step, loss, hash of the examples) of each logged update."""
  return [
    (line["step"], line["train/loss"], line["train/example_hash"])
    for line in read_lines(workdir)
    if "train/loss" in line
  ]


def send(number):
  """Sends this process a signal; its handler runs before this returns."""
  signal.raise_signal(number)


@contextlib.contextmanager
def signal_at(monkeypatch, step, number=signal.SIGTERM):
  """Sends a signal while the batch of a step is being made."""
  real = pipeline.train_batches

  @contextlib.contextmanager
  def train_batches(*args, start_step, **kw):
    with real(*args, start_step=start_step, **kw) as iterator:

      def batches():
        for i, batch in enumerate(iterator, start_step + 1):
          if i == step:
            send(number)
          yield batch

      yield batches()

  with monkeypatch.context() as patch:
    patch.setattr(pipeline, "train_batches", train_batches)
    yield


def test_a_run_from_its_config_to_its_result(arrays, tmp_path, capsys):
  config = make_config()
  result = train.train_and_evaluate(config, tmp_path)
  assert result["step"] == 4
  assert result["eval/test/examples"] == 21
  assert json.loads((tmp_path / "result.json").read_text()) == result
  lines = read_lines(tmp_path)
  assert [line["step"] for line in lines] == [1, 2, 3, 4, 4, 4]
  # A head of zeros predicts four classes uniformly: ln(4).
  assert lines[0]["train/loss"] == pytest.approx(np.log(4), rel=1e-5)
  assert {"train/learning_rate", "train/grad_norm", "train/input_wait"} <= set(
    lines[0]
  )
  assert lines[4]["checkpoint/stall_secs"] > 0
  assert lines[5]["eval/test/accuracy"] == result["eval/test/accuracy"]
  saved = json.loads((tmp_path / "config.json").read_text())
  assert saved["resolved"]["total_steps"] == 4
  assert saved["resolved"]["num_classes"] == 4
  loaded = weights.load(tmp_path / "params.npz")
  assert loaded.class_names == arrays.train.class_names
  assert loaded.preprocess["crop_px"] == 32
  newest = weights.load(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, newest.params)
  assert newest.class_names == loaded.class_names
  assert "block4" in (tmp_path / "parameters.txt").read_text()
  assert any(tmp_path.glob("events.out.tfevents*"))
  shown = capsys.readouterr()
  assert not shown.out
  assert "first step after" in shown.err
  # What was shown is kept, in its order, to the last line.
  log = (tmp_path / "log.txt").read_text()
  assert log == shown.err
  assert log.splitlines()[-1] == (
    f"{tmp_path}: step 4, test/loss {result['eval/test/loss']:.4g}, "
    f"test/accuracy {100 * result['eval/test/accuracy']:.1f} %"
  )


def test_the_same_command_again_changes_nothing(arrays, tmp_path):
  result = train.train_and_evaluate(make_config(), tmp_path)
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
  config_json = tmp_path / "config.json"
  assert train.train_and_evaluate(make_config(), tmp_path) == result
  after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
  assert before.pop(config_json)
  assert after.pop(config_json)
  assert after == before


def test_resuming_gives_what_an_uninterrupted_run_gives(
  arrays, tmp_path, monkeypatch
):
  config = make_config(**{"checkpoint.every_steps": 2})
  whole = train.train_and_evaluate(config, tmp_path / "whole")
  real = pipeline.train_batches

  def dies(*args, **kw):
    @contextlib.contextmanager
    def batches():
      with real(*args, **kw) as iterator:

        def until_step_4():
          for _ in range(3):
            yield next(iterator)
          raise KeyboardInterrupt

        yield until_step_4()

    return batches()

  with monkeypatch.context() as patch:
    patch.setattr(pipeline, "train_batches", dies)
    with pytest.raises(KeyboardInterrupt):
      train.train_and_evaluate(config, tmp_path / "cut")
  assert checkpoint.find(tmp_path / "cut").name == "2"
  resumed = train.train_and_evaluate(config, tmp_path / "cut")
  assert resumed == whole
  a, b = (weights.load(tmp_path / d).params for d in ("whole", "cut"))
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert trained(tmp_path / "cut") == trained(tmp_path / "whole")


def test_a_step_that_is_late_is_reported_by_the_watchdog(
  arrays, tmp_path, monkeypatch, capfd
):
  reported, watchdogs = threading.Event(), []

  class RecordingWatchdog(watchdog.Watchdog):
    def progress(self, step):
      super().progress(step)
      if step == 1:  # The run stands still until there is a report.
        watchdogs.append(self)
        assert reported.wait(timeout=60)

    def check(self):
      text = super().check()
      if "after step 1" in text:
        reported.set()
      return text

  monkeypatch.setattr(watchdog, "Watchdog", RecordingWatchdog)
  train.train_and_evaluate(make_config(watchdog_mins=2e-3), tmp_path)
  (stall_monitor,) = watchdogs
  stall_monitor._thread.join()  # It ends with the run.
  shown = capfd.readouterr().err
  assert (
    "watchdog: host 0: nothing has finished for 0.0 minutes, after" in shown
  )
  assert "train_and_evaluate" in shown


def test_evaluation_during_training(arrays, tmp_path):
  config = make_config(**{"eval.every_steps": 2})
  train.train_and_evaluate(config, tmp_path)
  steps = [
    line["step"]
    for line in read_lines(tmp_path)
    if "eval/test/accuracy" in line
  ]
  assert steps == [2, 4]


def test_learns_what_there_is_to_learn(arrays, tmp_path):
  config = make_config(**{"optim.lr": 0.1, "total_steps": 60})
  result = train.train_and_evaluate(config, tmp_path)
  assert result["eval/test/accuracy"] > 0.6  # By chance: 0.25.


def test_weights_are_carried_over_with_a_new_head(arrays, tmp_path):
  train.train_and_evaluate(make_config(), tmp_path / "up")
  old = weights.load(tmp_path / "up").params
  config = resolved(
    make_config(**{"init.checkpoint": str(tmp_path / "up")}), num_classes=7
  )
  mesh = sharding.make_mesh()
  state = first_state.init_state(fakes.spec(config, mesh), config)
  params = jax.device_get(state.params)
  assert params["head"]["kernel"].shape[-1] == 7
  assert not params["head"]["kernel"].any()
  del params["head"], old["head"]
  jax.tree.map(np.testing.assert_array_equal, params, old)


def test_keeping_a_head_of_another_size_is_refused(arrays, tmp_path):
  train.train_and_evaluate(make_config(), tmp_path / "up")
  config = resolved(
    make_config(
      **{"init.checkpoint": str(tmp_path / "up"), "init.keep_head": True}
    ),
    num_classes=7,
  )
  with pytest.raises(InputError, match=r"4 classes.*expected \(7,\)"):
    first_state.init_state(fakes.spec(config, sharding.make_mesh()), config)


def test_home_folders_in_a_config(arrays, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  config = make_config(**{"init.checkpoint": "~/x", "model.norm": "gn"})
  # The weights, which are not there, need not be read.
  inputs = start.load(config, "~/run", own_network=True)
  assert inputs.config.init.checkpoint == f"{tmp_path}/x"
  assert str(inputs.workdir) == f"{tmp_path}/run"


def test_a_kept_head_follows_the_names_of_the_classes(arrays, tmp_path):
  train.train_and_evaluate(make_config(), tmp_path / "up")
  old = weights.load(tmp_path / "up")
  config = resolved(
    make_config(
      **{"init.checkpoint": str(tmp_path / "up"), "init.keep_head": True}
    )
  )
  spec = fakes.spec(config, sharding.make_mesh())
  for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
    names = [old.class_names[i] for i in order]
    state = first_state.init_state(spec, config, names)
    head = jax.device_get(state.params["head"])
    for key, array in old.params["head"].items():
      np.testing.assert_array_equal(head[key], array[..., order])
  names = ("class 0", "class 1", "class 2", "cat")
  with pytest.raises(
    InputError,
    match="keep_head=true.*'class 3' only in the weights; 'cat' only in the "
    "data set; use config.init.keep_head=false .*convert",
  ):
    train.train_and_evaluate(
      make_config(
        **{"init.checkpoint": str(tmp_path / "up"), "init.keep_head": True}
      ),
      tmp_path / "down",
      data=RunData(fakes.array_source(class_names=names), {}),
    )


def test_splits_with_classes_in_another_order_are_refused(tmp_path):
  names = ("class 1", "class 0", "class 2", "class 3")
  data = RunData(
    fakes.array_source(), {"test": fakes.array_source(class_names=names)}
  )
  with pytest.raises(InputError, match="the same classes in another order"):
    train.train_and_evaluate(make_config(), tmp_path, data=data)


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_state(
  arrays, tmp_path
):
  config = make_config(**{"optim.lr": 1e17, "checkpoint.every_steps": 1})
  with pytest.raises(InputError, match=r"is (nan|inf) at step \d") as error:
    train.train_and_evaluate(config, tmp_path)
  last = checkpoint.find(tmp_path)
  assert str(last) in str(error.value)
  params = weights.load(last).params
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"input.batch_size": 6}, "batch_size=6: .* number of devices, 4"),
    ({"init.checkpoint": "/no/such.npz"}, "/no/such.npz: no such file"),
    ({"optim.freeze": ("blok",)}, "'blok' matches no parameter"),
    ({"num_classes": 5}, "has 4 classes"),
    ({"init.checkpoint": "broken.npz"}, "broken.npz"),
  ],
)
def test_bad_values_end_in_one_line_and_write_nothing(
  arrays, tmp_path, monkeypatch, overrides, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "broken.npz").write_bytes(b"not a zip file")
  with pytest.raises(InputError, match=message) as error:
    train.train_and_evaluate(make_config(**overrides), tmp_path / "w")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "w").exists()


def test_fewer_steps_than_the_checkpoint_has(arrays, tmp_path):
  train.train_and_evaluate(make_config(), tmp_path)
  before = (tmp_path / "config.json").read_text()
  shorter = make_config(total_steps=2, resume_changed=True)
  with pytest.raises(InputError, match="is at step 4, further than the 2"):
    train.train_and_evaluate(shorter, tmp_path)
  assert (tmp_path / "config.json").read_text() == before


def test_more_steps_than_the_schedule_had_are_explained(
  arrays, tmp_path, capsys
):
  train.train_and_evaluate(make_config(), tmp_path)
  longer = make_config(total_steps=6, resume_changed=True)
  start.load_objective(start.load(longer, tmp_path))
  printed = capsys.readouterr().err
  assert "changed since the run began: resolved.decay_steps" in printed
  assert "the learning rate has already decayed, from 0.01 to 0.0001" in printed
  assert "start anew in another --workdir from random weights" in printed


def test_changes_are_refused_by_the_checkpoint_too(arrays, tmp_path):
  config = make_config()
  train.train_and_evaluate(config, tmp_path)
  (tmp_path / "config.json").unlink()
  (tmp_path / "result.json").unlink()
  with pytest.raises(InputError, match=r"checkpoints/4 belongs.*optim\.lr"):
    train.train_and_evaluate(make_config(**{"optim.lr": 0.5}), tmp_path)


def test_killed_before_the_result_was_written(arrays, tmp_path):
  whole = train.train_and_evaluate(make_config(), tmp_path)
  lines = read_lines(tmp_path)
  (tmp_path / "result.json").unlink()
  assert train.train_and_evaluate(make_config(), tmp_path) == whole
  assert read_lines(tmp_path) == lines


def test_an_update_that_overflows_is_not_saved(arrays, tmp_path):
  config = make_config(**{"optim.lr": 3e38, "total_steps": 1})
  with pytest.raises(InputError, match="update_norm is (nan|inf) at step 1"):
    train.train_and_evaluate(config, tmp_path)
  assert checkpoint.find(tmp_path) is None
  assert not (tmp_path / "params.npz").exists()


def test_at_most_two_steps_are_in_flight(arrays, tmp_path, monkeypatch):
  unread, most = set(), []
  real_step, real_get = train.make_update_step, jax.device_get

  def make_step(*args):
    step = real_step(*args)

    def counted(*inputs):
      state, metrics = step(*inputs)
      unread.add(id(metrics["loss"]))
      most.append(len(unread))
      return state, metrics

    return counted

  def get(tree):
    if isinstance(tree, dict) and "loss" in tree:
      unread.discard(id(tree["loss"]))
    return real_get(tree)

  monkeypatch.setattr(train, "make_update_step", make_step)
  monkeypatch.setattr(jax, "device_get", get)
  train.train_and_evaluate(make_config(), tmp_path)
  assert max(most) == 2


def test_a_work_directory_of_another_config_is_left_alone(arrays, tmp_path):
  train.train_and_evaluate(make_config(), tmp_path)
  before = (tmp_path / "config.json").read_text()
  with pytest.raises(InputError, match="optim.lr: 0.01 -> 0.02"):
    train.train_and_evaluate(make_config(**{"optim.lr": 0.02}), tmp_path)
  assert (tmp_path / "config.json").read_text() == before


def test_a_work_directory_among_the_images_is_refused_at_once(tmp_path):
  (tmp_path / "cat").mkdir()
  (tmp_path / "cat/1.jpg").write_bytes(b"")
  config = make_config(**{"data.name": f"folder:{tmp_path}"})
  for workdir in (tmp_path, tmp_path / "cat"):
    with pytest.raises(InputError, match=f"^--workdir={workdir} is .* folder"):
      train.train_and_evaluate(config, workdir)


def test_a_work_directory_of_other_data_is_left_alone(
  arrays, tmp_path, monkeypatch
):
  train.train_and_evaluate(make_config(), tmp_path)
  other = RunData(dataclasses.replace(arrays.train, fingerprint="else"), {})
  monkeypatch.setattr(sources, "load", lambda *_, **__: other)
  with pytest.raises(InputError, match="data_fingerprint: 'arrays.* -> 'else'"):
    train.train_and_evaluate(make_config(), tmp_path)


def test_few_shot_evaluation_attached_to_a_run(arrays, tmp_path):
  config = make_config(**{"eval.fewshot": "digits", "eval.fewshot_shots": (2,)})
  result = train.train_and_evaluate(config, tmp_path)
  assert 0.2 < result["eval/fewshot_digits/2shot_accuracy"] < 0.9


def test_batch_norm_runs_resume_and_keep_their_statistics(arrays, tmp_path):
  config = make_config(
    **{
      "model.norm": "bn",
      "model.batch_group": 2,
      "model.weight_standardization": False,
    }
  )
  result = train.train_and_evaluate(config, tmp_path)
  assert np.isfinite(result["eval/test/loss"])
  saved, newest = weights.load(tmp_path / "params.npz"), weights.load(tmp_path)
  assert saved.batch_stats["block1"]["unit01"]["bn1"]["mean"].any()
  jax.tree.map(
    np.testing.assert_array_equal, saved.batch_stats, newest.batch_stats
  )
  options = {"norm": "bn", "weight_standardization": False}
  assert saved.model_options == newest.model_options == options
  # A second run starts from these statistics.
  second = make_config(
    **{
      "init.checkpoint": str(tmp_path),
      "model.norm": "bn",
      "model.weight_standardization": False,
    }
  )
  state = first_state.init_state(
    fakes.spec(resolved(second), sharding.make_mesh()), resolved(second)
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get(state.carried["batch_stats"]),
    saved.batch_stats,
  )


def test_weights_of_plain_convolutions_do_not_become_standardized(
  arrays, tmp_path, monkeypatch
):
  plain = make_config(**{"model.weight_standardization": False})
  train.train_and_evaluate(plain, tmp_path / "up")
  second = make_config(
    **{"init.checkpoint": str(tmp_path / "up"), "model.norm": "gn"}
  )
  with pytest.raises(
    InputError,
    match="with weight_standardization=False, but config.model has "
    "weight_standardization=True$",
  ):
    train.train_and_evaluate(second, tmp_path / "down")
  assert not (tmp_path / "down").exists()
  # Without words it is the network of the weights, also of a checkpoint.
  step = checkpoint.find(tmp_path / "up")
  monkeypatch.setattr(checkpoint, "load_weights", pytest.fail)
  for path in (tmp_path / "up", step, tmp_path / "up/params.npz"):
    taken = make_config(**{"init.checkpoint": str(path), "model.variant": ""})
    model = start.load(taken, tmp_path / "down").config.model
    found = model.variant, model.norm, model.weight_standardization
    assert found == (fakes.MODEL, "gn", False)


def test_multi_label_upstream(tmp_path, monkeypatch):
  source = fakes.array_source(16, 4, multi_label=True)
  examples = [
    {"image": image, "label": [int(label), 3]}
    for image, label in zip(
      source.examples.images, source.examples.labels, strict=True
    )
  ]
  source = dataclasses.replace(source, examples=examples)
  data = RunData(source, {"train": source})
  monkeypatch.setattr(sources, "load", lambda *_, **__: data)
  config = upstream.get_config(f"preset=bit_m,model={MODEL}")
  config.total_steps, config.input.batch_size = 2, 8
  result = train.train_and_evaluate(config, tmp_path)
  # Four sigmoids of zero have the loss 4 ln 2; two steps change it little.
  assert result["eval/train/loss"] == pytest.approx(4 * np.log(2), rel=0.2)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_saves_after_the_step_and_the_run_goes_on(
  arrays, tmp_path, monkeypatch, number, capfd
):
  config = make_config()
  whole = train.train_and_evaluate(config, tmp_path / "whole")
  name = signal.Signals(number).name
  handler = signal.getsignal(number)
  with (
    signal_at(monkeypatch, 2, number),
    pytest.raises(StoppedError, match=f"stopped by {name} after step 3, which"),
  ):
    train.train_and_evaluate(config, tmp_path / "cut")
  assert signal.getsignal(number) is handler
  assert f"{name}: finishing the step and saving" in capfd.readouterr().err
  assert checkpoint.steps(tmp_path / "cut" / "checkpoints") == [3]
  assert not (tmp_path / "cut" / "result.json").exists()
  assert train.train_and_evaluate(config, tmp_path / "cut") == whole
  assert trained(tmp_path / "cut") == trained(tmp_path / "whole")


def test_a_signal_during_evaluation_saves_and_evaluates_again(
  arrays, tmp_path, monkeypatch
):
  config = make_config(**{"eval.every_steps": 2, "eval.batch_size": 4})
  real = metrics.make_score_step

  batches = []

  def make_score_step(*args):
    step = real(*args)

    def run(*batch):
      batches.append(batch)
      if len(batches) == 1:  # A second signal would end this process.
        send(signal.SIGTERM)
      return step.run(*batch)

    return dataclasses.replace(step, run=run)

  with monkeypatch.context() as patch:
    patch.setattr(metrics, "make_score_step", make_score_step)
    with pytest.raises(StoppedError, match="after step 2, which is saved"):
      train.train_and_evaluate(config, tmp_path)
  assert len(batches) == 2  # There would be six.
  assert [line["step"] for line in read_lines(tmp_path)] == [1, 2, 2]
  train.train_and_evaluate(config, tmp_path)
  evaluated = [
    line["step"] for line in read_lines(tmp_path) if "eval/test/loss" in line
  ]
  assert evaluated == [2, 4]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
  arrays, tmp_path, monkeypatch, capsys
):
  config = make_config(**{"checkpoint.every_steps": 2})
  whole = train.train_and_evaluate(config, tmp_path / "whole")
  with signal_at(monkeypatch, 3), pytest.raises(StoppedError):
    train.train_and_evaluate(config, tmp_path / "cut")
  folder = tmp_path / "cut" / "checkpoints"
  assert checkpoint.steps(folder) == [4, 2]
  for path in (folder / "4").rglob("*"):
    if path.is_file() and path.stat().st_size > 10_000:
      path.write_bytes(path.read_bytes()[:-1000])
  assert train.train_and_evaluate(config, tmp_path / "cut") == whole
  printed = capsys.readouterr().err
  assert f"checkpoint {folder}/4 cannot be read" in printed
  assert f"it is now {folder}/4.damaged, going back to step 2" in printed
  assert trained(tmp_path / "cut") == trained(tmp_path / "whole")


@pytest.mark.parametrize("marker", ["_CHECKPOINT_METADATA", "none"])
def test_nothing_is_started_anew_where_all_checkpoints_are_damaged(
  arrays, tmp_path, marker
):
  config = make_config()
  train.train_and_evaluate(config, tmp_path)
  (tmp_path / "result.json").unlink()
  before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
  for path in (tmp_path / "checkpoints" / "4").rglob("*"):
    if path.is_file():
      path.unlink() if path.name == marker else path.write_bytes(b"")
  with pytest.raises(InputError, match="no other checkpoint is whole"):
    train.train_and_evaluate(config, tmp_path)
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before


def test_a_split_state_resumes_a_whole_one(arrays, tmp_path, monkeypatch):
  config = make_config()
  whole = train.train_and_evaluate(config, tmp_path / "whole")
  with signal_at(monkeypatch, 1), pytest.raises(StoppedError):
    train.train_and_evaluate(config, tmp_path / "cut")
  config.parallel.shard_state = True
  resumed = train.train_and_evaluate(config, tmp_path / "cut")
  assert resumed["eval/test/loss"] == pytest.approx(whole["eval/test/loss"])
  a, b = (weights.load(tmp_path / d).params for d in ("whole", "cut"))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


BEST = {
  "checkpoint.keep_best": "val/accuracy",
  "checkpoint.keep": 1,
  "checkpoint.every_steps": 4,
  "eval.every_steps": 2,
  "total_steps": 10,
}


@pytest.fixture
def judged(monkeypatch):
  """Makes evaluations give chosen accuracies on val, by their number."""
  data = RunData(fakes.array_source(), {"val": fakes.array_source(8, seed=1)})
  monkeypatch.setattr(sources, "load", lambda *_, **__: data)

  def choose(by_step):
    def evaluate(self, step, state, *, saved):
      del self.evaluations["val"]
      self.evaluations["val"] = lambda *_: {"accuracy": by_step[step]}
      return real(self, step, state, saved=saved)

    monkeypatch.setattr(upkeep.Upkeep, "evaluate", evaluate)

  real = upkeep.Upkeep.evaluate
  return choose


def test_the_best_state_is_kept_beside_the_last(judged, tmp_path):
  judged({2: 0.1, 4: 0.2, 6: 0.9, 8: 0.3, 10: 0.4})
  plain = make_config(**BEST | {"checkpoint.keep_best": ""})
  train.train_and_evaluate(plain, tmp_path / "plain")
  last = weights.load(tmp_path / "plain").params
  result = train.train_and_evaluate(make_config(**BEST), tmp_path / "run")
  assert result == {
    "step": 10,
    "best_step": 6,
    "best_value": 0.9,
    "eval/val/accuracy": 0.4,
  }
  folder = tmp_path / "run" / "checkpoints"
  assert checkpoint.steps(folder) == [10, 6]
  # Keeping another state changes no number.
  for path in (tmp_path / "run", tmp_path / "run" / "params.npz"):
    jax.tree.map(np.testing.assert_array_equal, weights.load(path).params, last)
  # Asked for, params.npz and result.json are of the best.
  config = make_config(**BEST, **{"checkpoint.best_params": True})
  result = train.train_and_evaluate(config, tmp_path / "best")
  assert (result["step"], result["best_step"]) == (10, 6)
  assert result["eval/val/accuracy"] == 0.9
  jax.tree.map(
    np.testing.assert_array_equal,
    weights.load(tmp_path / "best" / "params.npz").params,
    weights.load(folder / "6").params,
  )


@pytest.mark.parametrize("step", [3, 4, 5, 6, 7, 8])
def test_a_run_that_was_stopped_knows_its_best(
  judged, tmp_path, monkeypatch, step
):
  judged({2: 0.1, 4: 0.5, 6: 0.3, 8: 0.2, 10: 0.4})
  config = make_config(**BEST, **{"eval.early_stop_evals": 2})
  whole = train.train_and_evaluate(config, tmp_path / "whole")
  assert whole == {
    "step": 8,
    "stopped_early": True,
    "best_step": 4,
    "best_value": 0.5,
    "eval/val/accuracy": 0.2,
  }
  with signal_at(monkeypatch, step), pytest.raises(StoppedError):
    train.train_and_evaluate(config, tmp_path / "cut")
  assert train.train_and_evaluate(config, tmp_path / "cut") == whole
  assert checkpoint.steps(tmp_path / "cut" / "checkpoints") == [8, 4]
  a, b = (weights.load(tmp_path / d).params for d in ("whole", "cut"))
  jax.tree.map(np.testing.assert_array_equal, a, b)
  # It is finished, although it did not make all its steps.
  before = (tmp_path / "cut" / "log.txt").read_text()
  assert train.train_and_evaluate(config, tmp_path / "cut") == whole
  assert (tmp_path / "cut" / "log.txt").read_text() == before


def test_killed_after_the_decision_to_end_early(judged, tmp_path):
  judged({2: 0.5, 4: 0.4, 6: 0.3, 8: 0.9, 10: 0.9})
  config = make_config(**BEST, **{"eval.early_stop_evals": 2})
  whole = train.train_and_evaluate(config, tmp_path)
  assert (whole["step"], whole["best_step"]) == (6, 2)
  (tmp_path / "result.json").unlink()
  assert train.train_and_evaluate(config, tmp_path) == whole


def test_a_test_split_chooses_nothing(arrays, tmp_path):
  config = make_config(**BEST | {"checkpoint.keep_best": "test/accuracy"})
  with pytest.raises(InputError, match="choose by a part of train"):
    train.train_and_evaluate(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_a_run_that_has_not_learned_says_so(arrays, tmp_path, capsys):
  train.train_and_evaluate(make_config(), tmp_path)
  error = capsys.readouterr().err
  assert (
    "%); more steps may help: --config.total_steps=12, in another --workdir"
  ) in error
  assert error in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
  ("given", "total_steps", "every"),
  [(0, 40, 1), (0, 150, 1), (0, 500, 5), (0, 10**6, 50), (7, 10**6, 7)],
)
def test_short_runs_are_logged_densely(given, total_steps, every):
  config = make_config(log_every_steps=given, total_steps=total_steps)
  assert upkeep.log_every_steps(resolved(config)) == every
