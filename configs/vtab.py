r"""VTAB-1k: 19 tasks of 1000 training examples each (paper appendices A, F).

The BiT-HyperRule of configs/downstream.py on the Visual Task Adaptation
Benchmark (arXiv 1910.04867). 1000 examples are a small set to the rule: 500
steps at batch 512, no mixup. Presets are those of downstream.

  bit_jax train --workdir=/tmp/dtd \
      --config=vtab:task=dtd,data_dir=/data/tfds \
      --config.init.checkpoint=BiT-M-R50x1

All tasks that are prepared, one folder each, with the mean of each group and of
the 19 (marked as partial while a task has no result; --runs=dtd,svhn makes some
of them). Tasks of the same head and image size share one compiled step:

  bit_jax study --workdir=/tmp/vtab \
      --study=vtab:init=BiT-M-R50x1,data_dir=/data/tfds

To choose settings by validation, train on 800 examples and evaluate on the
other 200 (`train=train800,eval=val200`); the default trains on both,
train800val200, and reports the full test split. `Splits.named` has all names.
The sets are TFDS ones, prepared with `bit_jax prepare`;
resisc45 and diabetic_retinopathy_detection need a manual download first.

Work directories of commits that had config.data.splits name the same examples
in another way. They are refused, finished ones too, unless
--config.resume_changed=true is given. Their weights can still be loaded.
Metrics are named by the split text: eval/train[80%:]/accuracy where test is cut
from train.

Hardware and time: any accelerator that holds batch 512 of the model; 19 x 500
steps. Expected, R152x4, mean of the 19 accuracies in %:

| weights | mean  |                                             |
|---------|-------|---------------------------------------------|
| BiT-L   | 76.29 | paper; the weights were never released      |
| BiT-M   | 70.64 | paper; 73.51 in the release's own re-runs   |
| BiT-S   | 66.87 | paper                                       |

R101x3 BiT-M: 72.65 in the release's re-runs. None of it was run here: neither
the released weights nor the data sets can be downloaded on our machines.
"""

import dataclasses
import functools

import ml_collections

from bit_jax.configs import common, downstream
from bit_jax.report.study import Run, Study, Table

GROUPS = ("natural", "specialized", "structured")


@dataclasses.dataclass(frozen=True)
class Splits:
  """The split texts of a task's training, validation and test examples."""

  train: str
  val: str
  test: str = "test"

  def named(self) -> dict[str, str]:
    """Returns the benchmark's splits by name."""
    train800, val200 = f"{self.train}[:800]", f"{self.val}[:200]"
    return dataclasses.asdict(self) | {
      "train800": train800,
      "val200": val200,
      "train800val200": f"{train800}+{val200}",
    }


# Validation and test as google-research/task_adaptation (data/*.py) cuts them
# out of the splits of TFDS, with percentages rounded down.
_OFFICIAL = Splits("train", "validation")
_LAST_10 = Splits("train[:90%]", "train[90%:]")
_LAST_20 = Splits("train[:80%]", "train[80%:]")
_IN_ORDER = Splits("train[:60%]", "train[60%:80%]", "train[80%:]")
_DSPRITES = Splits("train[:80%]", "train[80%:90%]", "train[90%:]")
_CLEVR = Splits("train[:90%]", "train[90%:]", "validation")
_SMALLNORB = Splits("train", "test[:50%]", "test[50%:]")


@dataclasses.dataclass(frozen=True)
class Task:
  """One of the 19 tasks.

  Attributes:
    group: One of GROUPS.
    dataset: TFDS name, config and the versions the benchmark accepts. Where
      only another one is prepared, it is used, and a note says so.
    num_classes: The number of labels.
    splits: The benchmark's splits, as split texts of the data set.
    label_key: A feature, or a derivation of data/sets/derived_labels.py.
    crop: False where a crop may cut off or rescale what the label is about.
    flip: False where mirroring changes the class.
    image_scale: Factor for stored pixel values; 255 where they are 0 and 1.
  """

  group: str
  dataset: str
  num_classes: int
  splits: Splits
  label_key: str = "label"
  crop: bool = True
  flip: bool = True
  image_scale: int = 1


# The sets that have two tasks.
_clevr_task = functools.partial(
  Task, "structured", "clevr:3.*.*", splits=_CLEVR, crop=False
)
_dsprites_task = functools.partial(
  Task,
  "structured",
  "dsprites:2.*.*",
  splits=_DSPRITES,
  flip=False,
  image_scale=255,
)
_smallnorb_task = functools.partial(
  Task, "structured", "smallnorb:2.*.*", splits=_SMALLNORB
)

# Released checkpoints spell these names with a hyphen for the underscore where
# a set has two tasks, and kitti-distance; get_config understands both.
TASKS = {
  "caltech101": Task("natural", "caltech101:3.*.*", 102, _LAST_10),
  "cifar100": Task("natural", "cifar100:3.*.*", 100, _LAST_10),
  "dtd": Task("natural", "dtd:3.*.*", 47, _OFFICIAL),
  "oxford_flowers102": Task(
    "natural", "oxford_flowers102:2.*.*", 102, _OFFICIAL
  ),
  # The benchmark's 3.* is no longer in TFDS; 4.0.0 repaired corrupt images.
  "oxford_iiit_pet": Task(
    "natural", "oxford_iiit_pet:3.*.*|4.0.0", 37, _LAST_20
  ),
  "sun397": Task("natural", "sun397/tfds:4.*.*", 397, _OFFICIAL),
  "svhn": Task("natural", "svhn_cropped:3.*.*", 10, _LAST_10),
  "patch_camelyon": Task("specialized", "patch_camelyon:2.*.*", 2, _OFFICIAL),
  "eurosat": Task("specialized", "eurosat/rgb:2.*.*", 10, _IN_ORDER),
  "resisc45": Task("specialized", "resisc45:3.*.*", 45, _IN_ORDER),
  "diabetic_retinopathy": Task(
    "specialized",
    "diabetic_retinopathy_detection/btgraham-300:3.*.*",
    5,
    _OFFICIAL,
  ),
  "clevr_count": _clevr_task(8, label_key="clevr_count"),
  "clevr_distance": _clevr_task(6, label_key="clevr_distance"),
  "dmlab": Task("structured", "dmlab:2.0.1", 6, _OFFICIAL, crop=False),
  "dsprites_orientation": _dsprites_task(16, label_key="dsprites_orientation"),
  "dsprites_xpos": _dsprites_task(16, label_key="dsprites_xpos", crop=False),
  "smallnorb_azimuth": _smallnorb_task(
    18, label_key="label_azimuth", flip=False
  ),
  "smallnorb_elevation": _smallnorb_task(9, label_key="label_elevation"),
  "kitti_distance": Task(
    "structured", "kitti:3.*.*", 4, _OFFICIAL, "kitti_distance", crop=False
  ),
}


# The arguments of get_config and get_study, with their defaults.
_SHARED = {
  "preset": "paper",
  "model": "",  # That of the weights, or R50x1 without.
  "data_dir": "",
  "train": "train800val200",
  "eval": "test",
}


def task_name(text: str) -> str:
  """Returns the key of TASKS for a task name with `_` or `-`.

  Raises:
    UsageError: There is no such task.
  """
  return common.choose("task", text.replace("-", "_"), TASKS)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config of one task.

  Args:
    arg: `task=,preset=,model=,data_dir=,train=,eval=`, all of them optional.

  Raises:
    UsageError: A task, a preset or a split is unknown.
  """
  args = common.parse_arg(arg, task="caltech101", **_SHARED)
  task = TASKS[task_name(args["task"])]
  splits = task.splits.named()
  for key in ("train", "eval"):
    common.choose(key, args[key], splits)
  c = downstream.get_config(f"preset={args['preset']},model={args['model']}")
  c.num_classes = task.num_classes
  c.data.name = task.dataset
  c.data.dir = args["data_dir"]
  c.data.any_version = True
  c.data.label_key = task.label_key
  c.data.image_scale = task.image_scale
  c.data.percent_floor = True
  c.data.train_split = splits[args["train"]]
  c.data.eval_splits = splits[args["eval"]]
  c.input.flip = task.flip
  if not task.crop:
    c.input.train = "none"
  return c


def get_study(arg: str | None = None) -> Study:
  """Returns the study of all tasks.

  Args:
    arg: `init=`, the initial weights, and the keys of get_config but `task=`.
  """
  from bit_jax.recipe import network  # With JAX, which takes a second.

  args = common.parse_arg(arg, init="", **_SHARED)
  variant = network.variant(args["model"], args["init"])
  shared = ",".join(f"{key}={args[key]}" for key in _SHARED)
  runs = []
  for name, task in TASKS.items():
    config = get_config(f"task={name},{shared}")
    config.init.checkpoint = args["init"]
    factors = {"group": task.group, "task": name, "network": variant}
    runs.append(Run(name, config, factors))
  return Study(
    title=f"VTAB-1k: {variant} from {args['init'] or 'random weights'}, "
    f"preset {args['preset']}, {args['train']} to {args['eval']}",
    notes=[],
    runs=runs,
    tables=[
      Table("Accuracy", ["task", "group"], ["network"], decimals=2),
      Table(
        "Mean accuracy of the tasks",
        ["group"],
        ["network"],
        statistic="mean",
        total="all",
        decimals=2,
      ),
    ],
  )
