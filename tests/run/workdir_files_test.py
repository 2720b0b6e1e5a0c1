import json

import jax
import pytest
from etils import epath

from bit_jax.data import source
from bit_jax.errors import InputError
from bit_jax.recipe import resolve
from bit_jax.run import describe, workdir_files
from bit_jax.run.sources import RunData
from bit_jax.run.workdir_files import RunFiles
from configs import common, downstream
from tests import fakes

FACTS = source.DatasetInfo(40, 4, (32, 32), native_px=32, fingerprint="abc")


def make(**overrides):
  config = downstream.get_config("dataset=folder:/photos")
  config.update_from_flattened_dict(overrides)
  return resolve.resolve(config, FACTS)


def claim(workdir, config, held_out=()):
  run_files = RunFiles(epath.Path(workdir), config)
  run_files.check_unchanged()
  run_files.write_config(held_out, write=True)


@pytest.mark.parametrize(
  "overrides",
  [
    {"log_every_steps": 7},
    {"checkpoint.every_steps": 7, "checkpoint.keep": 7},
    {"eval.batch_size": 64, "eval.every_steps": 10},
    {"input.num_threads": 3},
    {"data.dir": "/elsewhere"},
    {"data.nested_classes": True},
    {"data.skip_bad": True},
    {"data.name": "folder:/moved/photos"},
  ],
)
def test_what_changes_no_number_may_change(tmp_path, overrides):
  claim(tmp_path, make())
  claim(tmp_path, make(**overrides))


@pytest.mark.parametrize(
  "other", ["./x", "x/", "y/../x", "~/x", "{home}/x", "link"]
)
def test_the_spelling_of_a_path_may_change(tmp_path, monkeypatch, other):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  (tmp_path / "link").symlink_to("x")
  other = other.format(home=tmp_path)

  def config(path):
    return make(
      **{
        "init.checkpoint": path,
        "eval.fewshot": f"digits,folder:{path}",
      }
    )

  claim(tmp_path / "run", config("x"))
  claim(tmp_path / "run", config(other))
  with pytest.raises(InputError, match="init.checkpoint: .* -> 'z'"):
    claim(tmp_path / "run", config("z"))


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"seed": 1}, "seed: 0 -> 1"),
    ({"optim.lr": 0.1}, "optim.lr: 0.003 -> 0.1.*resolved.peak_lr"),
    ({"input.batch_size": 8}, "input.batch_size: 512 -> 8"),
    ({"data.name": "cifar10"}, "data.name: 'folder:/photos' -> 'cifar10'"),
    ({"model.dtype": "bfloat16"}, "model.dtype: 'float32' -> 'bfloat16'"),
    ({"total_steps": 9}, "resolved.total_steps: 500 -> 9"),
  ],
)
def test_what_changes_numbers_is_refused_key_by_key(
  tmp_path, overrides, message
):
  claim(tmp_path, make())
  before = (tmp_path / "config.json").read_text()
  with pytest.raises(InputError, match=message):
    claim(tmp_path, make(**overrides))
  assert (tmp_path / "config.json").read_text() == before
  claim(tmp_path, make(resume_changed=True, **overrides))
  assert (tmp_path / "config.json").read_text() != before


def test_more_steps_than_the_schedule_had(tmp_path):
  claim(tmp_path, make())
  longer = make(total_steps=1000)

  def refused():
    with pytest.raises(InputError, match="=true to go on with") as error:
      claim(tmp_path, longer)
    return str(error.value).partition("to go on with the changes")[2]

  assert refused() == ""  # Nothing is trained yet.
  (tmp_path / "checkpoints" / "120").mkdir(parents=True)
  assert refused() == ""  # The rate has its peak.
  (tmp_path / "checkpoints" / "500").mkdir()
  assert refused() == (
    "; the learning rate has already decayed, from 0.003 to 3e-06 at step 500 "
    "of 500, and the next one is 0.0003: going on is not the same as a "
    "schedule of 1000 steps; for that, start anew in another --workdir from "
    "random weights"
  )
  longer = make(total_steps=400)
  assert refused() == ""


def test_hosts_compare_data_but_not_where_it_is():
  here, there, other = make(), make(), make()
  there.data.name = "folder:/mnt/photos"
  other.resolved.data_fingerprint = "xyz"
  here, there, other = (
    RunFiles(epath.Path("/w"), config).comparable()
    for config in (here, there, other)
  )
  assert here == there != other


@pytest.mark.parametrize(("value", "is_refused"), [("", 0), ("a=train", 1)])
def test_a_key_that_is_gone_counts_if_it_did_something(
  tmp_path, value, is_refused
):
  claim(tmp_path, make())
  stored = json.loads((tmp_path / "config.json").read_text())
  stored["data"]["splits"] = value
  (tmp_path / "config.json").write_text(json.dumps(stored))
  if not is_refused:
    claim(tmp_path, make())
    return
  with pytest.raises(InputError) as error:
    claim(tmp_path, make())
  assert "(data.splits: 'a=train' -> 'absent' (split defin" in str(error.value)
  assert "slices of slices, such as train[90%:][:200], in" in str(error.value)
  assert "\n" not in str(error.value)


def test_changed_data_is_refused(tmp_path):
  claim(tmp_path, make())
  other = make()
  other.resolved.data_fingerprint = "xyz"
  with pytest.raises(InputError, match="data_fingerprint: 'abc' -> 'xyz'"):
    claim(tmp_path, other)


def test_held_out_files_are_remembered(tmp_path):
  workdir = epath.Path(tmp_path)
  assert workdir_files.read_held_out(workdir) == []
  claim(tmp_path, make(), ["a/1.jpg", "b/ü.jpg"])
  assert workdir_files.read_held_out(workdir) == ["a/1.jpg", "b/ü.jpg"]


def test_what_was_left_out_is_listed(tmp_path):
  workdir, config = epath.Path(tmp_path), make()
  run_files = RunFiles(workdir, config)
  run_files.write_config([], write=True)
  assert not (tmp_path / "skipped.txt").exists()
  for skipped in (["a/1.jpg: empty", "b/ü.jpg: HEIC"], []):
    run_files.write_config([], skipped, write=True)
    lines = (tmp_path / "skipped.txt").read_text().splitlines()
    assert lines == skipped


def test_unusable_work_directories(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="--workdir=.*file cannot be used"):
    claim(tmp_path / "file", make())
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(InputError, match=r"config\.json cannot be read"):
    claim(tmp_path, make())


def test_the_config_of_another_program_is_never_replaced(tmp_path):
  theirs = '{"model_type": "bit", "id2label": {"0": "cat"}}'
  (tmp_path / "config.json").write_text(theirs)
  with pytest.raises(InputError, match="config.json is none that a run wrote"):
    claim(tmp_path, make(resume_changed=True))


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "{}", "\x00\xff"])
@pytest.mark.parametrize(
  "name", ["config.json", "result.json", "held_out.json"]
)
def test_damaged_files_are_named(tmp_path, name, text):
  (tmp_path / name).write_text(text, encoding="latin1")
  workdir = epath.Path(tmp_path)
  read = {
    "config.json": RunFiles(workdir, make()).check_unchanged,
    "result.json": lambda: workdir_files.read_result(workdir),
    "held_out.json": lambda: workdir_files.read_held_out(workdir),
  }[name]
  if (name, text) == ("held_out.json", "[]"):
    assert read() == []
    return
  with pytest.raises(InputError, match=name):
    read()


def test_a_checkpoint_of_another_config_is_refused():
  workdir = epath.Path("/w")
  own = RunFiles(workdir, make())
  saved = own.metadata((), resolve.eval_preprocess(make()))
  path = workdir / "checkpoints" / "5"
  own.check_checkpoint(path, saved)
  with pytest.raises(InputError, match="/w/checkpoints/5 .*seed: 0 -> 1"):
    RunFiles(workdir, make(seed=1)).check_checkpoint(path, saved)


def test_result_and_summary(tmp_path):
  workdir = epath.Path(tmp_path)
  assert workdir_files.read_result(workdir) is None
  result = {"step": 3, "eval/test/accuracy": 0.51234, "eval/test/examples": 8}
  workdir_files.write_result(workdir, result)
  assert workdir_files.read_result(workdir) == result
  assert describe.summary(result) == "step 3, test/accuracy 51.2 %"


def test_description_says_what_will_happen(mesh):
  source = fakes.array_source()
  text = describe.describe(make(), RunData(source, {"test": source}), mesh)
  assert "R50x1 on 4 x" in text
  assert "learns: classify\n" in text
  assert "40 examples, 4 classes" in text
  assert "evaluate: arrays (40)" in text
  assert "learning rate 0.003 after 100 steps of warm-up" in text
  assert "x 0.1 after 150, 300, 450" in text
  params = {"a": {"x": jax.numpy.zeros((3, 4))}, "b": jax.numpy.zeros(2000)}
  assert describe.describe_params(params) == (
    "parameters: 2,012 (a 12, b 2,000)"
  )


def test_description_says_what_is_learned(mesh):
  source = fakes.array_source()
  data = RunData(source, {"test": source})
  taught = make(objective="distill", **{"distill.teacher": "/t.npz"})
  text = describe.describe(taught, data, mesh)
  assert "learns: distill, teacher /t.npz\n" in text
  taught.resolved.objective = "Mine, 01234567"
  assert "learns: Mine, 01234567\n" in describe.describe(taught, data, mesh)


def test_checkpoint_metadata_is_json():
  config = make()
  metadata = RunFiles(epath.Path("/w"), config).metadata(
    ("a", "ü"), resolve.eval_preprocess(config)
  )
  assert json.loads(json.dumps(metadata)) == metadata
  assert metadata["class_names"] == ["a", "ü"]
  assert metadata["preprocess"]["crop_px"] == 32
  assert metadata["model_options"] == {}


@pytest.mark.parametrize(
  ("total", "warmup", "warned"), [(10, 10, True), (10, 9, False), (1, 1, False)]
)
def test_a_warm_up_as_long_as_the_run_is_told(total, warmup, warned):
  resolved = common.get_config().resolved
  resolved.total_steps, resolved.warmup_steps = total, warmup
  text = describe._schedule_warning(resolved)
  assert ("warning: the warm-up" in text) is warned


def test_keys_that_came_later_do_not_stop_older_runs():
  new = {"optim": {"lr": 0.1, "momentum_dtype": "float32"}}
  old = {"optim": {"lr": 0.1}}
  assert workdir_files.differences(old, new) == []
  new["optim"]["momentum_dtype"] = "bfloat16"
  assert workdir_files.differences(old, new) == [
    "optim.momentum_dtype: 'float32' -> 'bfloat16'"
  ]


def test_momentum_of_another_type_is_refused_whatever_is_asked():
  config = make(**{"optim.momentum_dtype": "bfloat16", "resume_changed": True})
  run_files = RunFiles(epath.Path("/w"), config)
  saved = {"config": json.loads(config.to_json())}
  saved["config"]["optim"]["momentum_dtype"] = "float32"
  with pytest.raises(
    InputError, match="momentum_dtype: 'float32' -> 'bfloat16'"
  ):
    run_files.check_checkpoint(epath.Path("saved"), saved)
