"""VTAB-1k: what each task reads and how, and the study of all of them."""

import dataclasses
import json
import os
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest

from bit_jax import train
from bit_jax.data import pipeline, source, split_text
from bit_jax.errors import InputError, UsageError
from bit_jax.recipe import resolve
from bit_jax.report import study
from bit_jax.run import sources, workdir_files
from bit_jax.tools import prepare
from bit_jax.tools.study import __main__ as driver
from configs import common, downstream, vtab
from tests import processes
from tests.data.tiny_vtab import SPLITS, write_tiny_vtab

CLASSES = {
  "caltech101": 102,
  "cifar100": 100,
  "dtd": 47,
  "oxford_flowers102": 102,
  "oxford_iiit_pet": 37,
  "sun397": 397,
  "svhn": 10,
  "patch_camelyon": 2,
  "eurosat": 10,
  "resisc45": 45,
  "diabetic_retinopathy": 5,
  "clevr_count": 8,
  "clevr_distance": 6,
  "dmlab": 6,
  "dsprites_orientation": 16,
  "dsprites_xpos": 16,
  "smallnorb_azimuth": 18,
  "smallnorb_elevation": 9,
  "kitti_distance": 4,
}
NO_FLIP = {"dsprites_orientation", "dsprites_xpos", "smallnorb_azimuth"}
NO_CROP = {
  "clevr_count",
  "clevr_distance",
  "dmlab",
  "dsprites_xpos",
  "kitti_distance",
}


def make_config(task, **overrides):
  config = vtab.get_config(f"task={task}")
  config.update_from_flattened_dict(overrides)
  return config


def test_classes_and_groups():
  assert {
    task: vtab.get_config(f"task={task}").num_classes for task in vtab.TASKS
  } == CLASSES
  groups = [task.group for task in vtab.TASKS.values()]
  assert [groups.count(group) for group in vtab.GROUPS] == [7, 4, 8]


def test_arguments():
  config = vtab.get_config(
    "task=clevr-count,preset=light,model=R101x3,data_dir=/no/such"
  )
  assert config.data.label_key == "clevr_count"
  assert config.data.dir == "/no/such"
  want = downstream.get_config("preset=light,model=R101x3")
  for key in ("hyperrule", "model", "optim", "schedule", "mixup_alpha"):
    assert config[key] == want[key]
  assert config.input.batch_size == 128
  assert set(vtab.get_config()) == set(common.get_config())
  with pytest.raises(UsageError, match="config argument 'dataset=x'"):
    vtab.get_config("dataset=x")
  with pytest.raises(UsageError, match="preset=tiny: expected one of paper"):
    vtab.get_config("preset=tiny")
  with pytest.raises(UsageError, match="eval=dev: expected one of train, val"):
    vtab.get_study("eval=dev")


def test_unknown_task():
  with pytest.raises(
    UsageError, match="task=mnist: expected one of caltech101"
  ):
    vtab.get_config("task=mnist")


# Task -> the sizes of its splits in TFDS, then the ranges that train, val and
# test are cut into.
_CUT = {
  "caltech101": (
    {"train": 3059, "test": 6084},
    (("train", 0, 2753), ("train", 2753, 3059), ("test", 0, 6084)),
  ),
  "cifar100": (
    {"train": 50_000, "test": 10_000},
    (("train", 0, 45_000), ("train", 45_000, 50_000), ("test", 0, 10_000)),
  ),
  "dtd": (
    {"train": 1880, "validation": 1880, "test": 1880},
    (("train", 0, 1880), ("validation", 0, 1880), ("test", 0, 1880)),
  ),
  "oxford_flowers102": (
    {"train": 1020, "validation": 1020, "test": 6149},
    (("train", 0, 1020), ("validation", 0, 1020), ("test", 0, 6149)),
  ),
  "oxford_iiit_pet": (
    {"train": 3680, "test": 3669},
    (("train", 0, 2944), ("train", 2944, 3680), ("test", 0, 3669)),
  ),
  "sun397": (
    {"train": 76_128, "validation": 10_875, "test": 21_750},
    (("train", 0, 76_128), ("validation", 0, 10_875), ("test", 0, 21_750)),
  ),
  "svhn": (
    {"train": 73_257, "test": 26_032, "extra": 531_131},
    (("train", 0, 65_931), ("train", 65_931, 73_257), ("test", 0, 26_032)),
  ),
  "patch_camelyon": (
    {"train": 262_144, "validation": 32_768, "test": 32_768},
    (("train", 0, 262_144), ("validation", 0, 32_768), ("test", 0, 32_768)),
  ),
  "eurosat": (
    {"train": 27_000},
    (
      ("train", 0, 16_200),
      ("train", 16_200, 21_600),
      ("train", 21_600, 27_000),
    ),
  ),
  "resisc45": (
    {"train": 31_500},
    (
      ("train", 0, 18_900),
      ("train", 18_900, 25_200),
      ("train", 25_200, 31_500),
    ),
  ),
  "diabetic_retinopathy": (
    {"train": 35_126, "validation": 10_906, "test": 42_670},
    (("train", 0, 35_126), ("validation", 0, 10_906), ("test", 0, 42_670)),
  ),
  "clevr_count": (
    {"train": 70_000, "validation": 15_000, "test": 15_000},
    (
      ("train", 0, 63_000),
      ("train", 63_000, 70_000),
      ("validation", 0, 15_000),
    ),
  ),
  "dmlab": (
    {"train": 65_550, "validation": 22_628, "test": 22_735},
    (("train", 0, 65_550), ("validation", 0, 22_628), ("test", 0, 22_735)),
  ),
  "dsprites_orientation": (
    {"train": 737_280},
    (
      ("train", 0, 589_824),
      ("train", 589_824, 663_552),
      ("train", 663_552, 737_280),
    ),
  ),
  # One less than there are, so that percentages that round down show.
  "smallnorb_azimuth": (
    {"train": 24_299, "test": 24_299},
    (("train", 0, 24_299), ("test", 0, 12_149), ("test", 12_149, 24_299)),
  ),
  "kitti_distance": (
    {"train": 6347, "validation": 423, "test": 711},
    (("train", 0, 6347), ("validation", 0, 423), ("test", 0, 711)),
  ),
}
for _task, _like in (
  ("clevr_distance", "clevr_count"),
  ("dsprites_xpos", "dsprites_orientation"),
  ("smallnorb_elevation", "smallnorb_azimuth"),
):
  _CUT[_task] = _CUT[_like]


@pytest.mark.parametrize("task", vtab.TASKS)
def test_splits(task):
  sizes, (train, val, test) = _CUT[task]

  def ranges(**splits):
    arg = ",".join(f"{key}={name}" for key, name in splits.items())
    data = vtab.get_config(f"task={task},{arg}").data
    return [
      [
        dataclasses.astuple(part)
        for part in split_text.parse(
          text, sizes, percent_floor=data.percent_floor
        )
      ]
      for text in (data.train_split, data.eval_splits)
    ]

  train800, val200 = (*train[:2], 800), (*val[:2], val[1] + 200)
  assert ranges() == [[train800, val200], [test]]
  assert ranges(train="train800", eval="val200") == [[train800], [val200]]
  assert ranges(train="train", eval="val") == [[train], [val]]
  assert ranges(train="test", eval="train800val200")[0] == [test]


@pytest.mark.parametrize("task", vtab.TASKS)
def test_hyperrule_crop_and_flip(task):
  info = source.DatasetInfo(1000, CLASSES[task], (300, 300))
  config = resolve.resolve(make_config(task), info)
  r = config.resolved
  assert (r.total_steps, r.decay_steps, r.mixup_alpha) == (
    500,
    (150, 300, 450),
    0.0,
  )
  made = resolve.train_preprocess(config)
  assert made.flip == (task not in NO_FLIP)
  assert made.crop == ("none" if task in NO_CROP else "random")
  assert made.crop_px == resolve.eval_preprocess(config).crop_px == 384


@pytest.mark.parametrize("name", SPLITS)
def test_every_task_reads_its_set_as_tfds_declares_it(tmp_path, name):
  write_tiny_vtab(tmp_path, name, 20)
  tasks = [
    task
    for task, about in vtab.TASKS.items()
    if about.dataset.partition(":")[0] == name
  ]
  assert tasks
  for task in tasks:
    splits = vtab.TASKS[task].splits
    few = f"{splits.train}[:8]+{splits.val}[:2]"
    config = make_config(task, **{"data.train_split": few})
    config.data.dir = str(tmp_path)
    data = sources.load(config.data, seed=0)
    assert data.train.num_classes == CLASSES[task]
    assert len(data.train) == 10
    assert [len(x) in (2, 4, 10, 20) for x in data.evals.values()] == [True]
    image, row = pipeline._read(data.train, 0)
    if not isinstance(image, np.ndarray):
      image = image.decode()
    assert 0 <= row["labels"] < CLASSES[task]
    # Stored as 0 and 1 in both grey sets here; only dSprites is scaled.
    stretched = task in ("dsprites_orientation", "dsprites_xpos")
    assert (set(np.unique(image)) == {0, 255}) == stretched


def test_what_is_missing(tmp_path):
  def message(task):
    config = make_config(task, **{"data.dir": str(tmp_path)})
    with pytest.raises(InputError) as error:
      sources.load(config.data, seed=0)
    return str(error.value)

  # The 1000 examples must be there.
  write_tiny_vtab(tmp_path, "dtd", 4)
  assert message("dtd") == (
    "dtd:3.*.*: split 'train[:800]+validation[:200]': 800 reaches beyond the 4 "
    "examples"
  )
  assert message("resisc45") == (
    f"dataset 'resisc45:3.*.*' is not in data_dir {tmp_path}, which holds "
    "dtd; prepare it with: python -m bit_jax.tools.prepare 'resisc45:3.*.*' "
    f"--data_dir={tmp_path}"
  )


@pytest.mark.parametrize(
  ("version", "note"),
  [
    ("3.2.0", ""),
    ("4.0.0", ""),
    ("4.0.1", "holds no version 3.*.* or 4.0.0, only 4.0.1, which is used"),
  ],
)
def test_pets_of_any_version(tmp_path, version, note, capsys):
  write_tiny_vtab(tmp_path, "oxford_iiit_pet", 10, version=version)
  config = vtab.get_config(
    f"task=oxford_iiit_pet,train=train,data_dir={tmp_path}"
  )
  for run in vtab.get_study(f"data_dir={tmp_path}").runs:
    assert bool(driver.missing_data(run)) == (run.name != "oxford_iiit_pet")
  assert len(sources.load(config.data, seed=0).train) == 8
  said = capsys.readouterr().err
  assert note in said
  assert said.count("\n") == bool(note)


def test_another_version_is_no_other_run():
  old = make_config("dmlab").to_dict()
  del old["data"]["any_version"]
  assert not workdir_files.differences(old, make_config("dmlab").to_dict())


def test_the_command_of_the_message_is_understood(tmp_path, capsys):
  # It stops where the files of a manual download are missing.
  with pytest.raises(InputError, match="cannot download resisc45 itself"):
    prepare.prepare("resisc45:3.*.*", str(tmp_path), dry_run=True)
  assert "Dataset can be downloaded" in capsys.readouterr().out
  for task in vtab.TASKS.values():
    name, _, version = task.dataset.partition(":")
    prepare._parse_name(f"{name}:{version.split('|')[-1]}")


def test_another_number_of_classes():
  info = source.DatasetInfo(1000, 101, (300, 300))
  with pytest.raises(InputError, match=r"num_classes=102, but .* 101 classes"):
    resolve.resolve(make_config("caltech101"), info)


# The study.


def means(accuracies):
  """Returns the rows of the study's table of means, without its header."""
  spec = vtab.get_study("model=R14x0.25")
  results = {k: {"eval/test/accuracy": v} for k, v in accuracies.items()}
  table = spec.tables[-1]
  text = study.markdown(table, study.cells(table, spec.runs, results))
  return text.splitlines()[4:]


def test_means_of_groups_and_of_all_tasks():
  accuracies = dict.fromkeys(vtab.TASKS, 0.5)
  for name in ("dtd", "svhn"):
    accuracies[name] = 0.85
  specialized = "| specialized | 50.00 (of 4) |"
  assert means(accuracies) == [
    "| natural | 60.00 (of 7) |",
    specialized,
    "| structured | 50.00 (of 8) |",
    # Of the tasks, not of the groups.
    "| all | 53.68 (of 19) |",
  ]
  del accuracies["dmlab"]
  assert means(accuracies) == [
    "| natural | 60.00 (of 7) |",
    specialized,
    "| structured | 50.00 (partial, 7 of 8) |",
    "| all | 53.89 (partial, 18 of 19) |",
  ]
  assert means({})[-1] == "| all | not run |"


@pytest.fixture
def fake_runs(monkeypatch):
  """Makes every run end at once; returns the list of their configs."""
  runs = []

  def train_and_evaluate(config, workdir, **_):
    workdir.mkdir(parents=True, exist_ok=True)
    runs.append((workdir.name, config))
    result = {"step": 1, "eval/test/accuracy": 0.1 * len(runs)}
    workdir_files.write_result(workdir, result)

  monkeypatch.setattr(train, "train_and_evaluate", train_and_evaluate)
  return runs


def test_the_study_makes_what_is_prepared(tmp_path, fake_runs, capsys):
  write_tiny_vtab(tmp_path / "sets", "dtd", 4)
  write_tiny_vtab(tmp_path / "sets", "clevr", 4)
  workdir = f"--workdir={tmp_path / 'out'}"
  spec = "--study=configs/vtab.py:model=R14x0.25,init=/weights.npz,"
  spec += f"data_dir={tmp_path / 'sets'}"
  args = (spec + ",preset=light", workdir, "--config.optim.lr=0.5")
  assert driver.main([*args, "--runs=dtd,clevr_count,svhn"]) == 0
  said, shown = capsys.readouterr()
  assert [name for name, _ in fake_runs] == ["dtd", "clevr_count"]
  for _, config in fake_runs:
    assert config.model.variant == "R14x0.25"
    assert config.init.checkpoint == "/weights.npz"
    assert config.optim.lr == 0.5
    assert config.input.batch_size == 128
  assert "skipped svhn: dataset 'svhn_cropped:3.*.*' is not in" in shown
  for line in (
    "| dtd, natural | 10.00 |",
    "| svhn, natural | not run |",
    "| natural | 10.00 (partial, 1 of 7) |",
    "| specialized | not run |",
    "| all | 15.00 (partial, 2 of 19) |",
  ):
    assert line in said.splitlines()

  # Other tasks are added; another model's table is not touched.
  assert driver.main([*args, "--runs=clevr_distance"]) == 0
  text = (tmp_path / "out/study.md").read_text()
  assert "| all | 20.00 (partial, 3 of 19) |" in text
  capsys.readouterr()
  assert driver.main([spec, workdir]) == 1
  assert (
    "study.json belongs to the study 'VTAB-1k: R14x0.25 from /weights.npz, "
    "preset light, train800val200 to test', not 'VTAB-1k: R14x0.25 from "
    "/weights.npz, preset paper, train800val200 to test'; use another --workdir"
  ) in capsys.readouterr().err
  assert (tmp_path / "out/study.md").read_text() == text
  assert len(fake_runs) == 3


def test_the_old_command_names_the_new_one(capsys):
  with pytest.raises(SystemExit) as error:
    runpy.run_module("scripts.vtab", run_name="__main__")
  assert error.value.code == 2
  said = capsys.readouterr().err
  assert said.startswith("error: scripts.vtab is now bit_jax study ")
  assert said.count("\n") == 1


@pytest.mark.slow
def test_all_tasks(tmp_path):
  for name in SPLITS:
    write_tiny_vtab(tmp_path / "sets", name, 20)

  def run_command():
    # Compiling 15 heads takes the time; how fast the code then runs does not
    # matter. The trunk is frozen because its backward pass compiles longest.
    env = os.environ | {
      "XLA_FLAGS": processes.COMPILE_SOON,
      "JAX_LOG_COMPILES": "1",
    }
    return subprocess.run(
      (
        *(sys.executable, "-m", "scripts.study"),
        "--study=configs/vtab.py:model=R14x0.25,preset=quick,"
        f"data_dir={tmp_path / 'sets'}",
        f"--workdir={tmp_path / 'out'}",
        "--config.data.train_split=train[:10]",
        "--config.input.batch_size=8",
        "--config.eval.batch_size=8",
        "--config.total_steps=2",
        "--config.optim.freeze=('root_block', 'block', 'norm-pre-head')",
      ),
      cwd=pathlib.Path(__file__).parents[1],
      env=env,
      capture_output=True,
      text=True,
    )

  done = run_command()
  assert done.returncode == 0, done.stderr[-2000:]
  compiled = done.stderr.count("Finished XLA compilation of jit(update_step)")
  assert compiled == len(set(CLASSES.values())) == 15
  stored = json.loads((tmp_path / "out/study.json").read_text())
  assert list(stored["runs"]) == list(CLASSES)
  tables = (tmp_path / "out/study.md").read_text()
  assert "(of 19)" in tables
  assert "partial" not in tables

  # Again: one task is not finished, the others are only read.
  (tmp_path / "out/kitti_distance/result.json").unlink()
  (tmp_path / "out/study.md").unlink()
  done = run_command()
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stderr.count("\nis finished\n") == len(CLASSES) - 1
  assert "jit(update_step)" not in done.stderr
  assert (tmp_path / "out/study.md").read_text() == tables
