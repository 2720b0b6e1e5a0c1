"""What one run trains and evaluates on, from its config."""

import dataclasses
from collections.abc import Collection, Mapping

from bit_jax import parallel
from bit_jax.data import sources
from bit_jax.data.source import Source
from bit_jax.recipe import Config


@dataclasses.dataclass(frozen=True)
class RunData:
  """The sources of a run.

  Attributes:
    train: the training examples, after slicing and few-shot selection.
    evals: evaluation splits by name; may be empty.
    held_out: files of an image folder that are not trained on, to be given to
      `load` when the run goes on; empty for everything else.
  """

  train: Source
  evals: Mapping[str, Source]
  held_out: Collection[str] = ()


def load(data: Config, *, seed: int, held_out: Collection[str] = ()) -> RunData:
  """Loads the sources that `config.data` describes.

  Args:
    data: `config.data`, see configs/common.py.
    seed: of the run; used where `data.subset_seed` is negative.
    held_out: of the run that goes on, see `RunData`.

  Raises:
    InputError: the data set, a split or enough examples are not there.
  """
  subset_seed = seed if data.subset_seed < 0 else data.subset_seed
  dataset = sources.open_dataset(
    data.name,
    data_dir=data.dir,
    label_key=data.label_key,
    seed=subset_seed,
    held_out=held_out,
    cache_dir=str(parallel.cache_dir("folders")),
  )
  train_split, eval_splits = data.train_split, data.eval_splits
  if not (train_split and eval_splits):
    default_train, default_eval = dataset.default_splits()
    train_split = train_split or default_train
    eval_splits = eval_splits or default_eval
  train = dataset.load(train_split)
  shots = data.examples_per_class
  if shots:
    indices = sources.few_shot_indices(
      train.read_labels(),
      shots,
      subset_seed,
      train.num_classes,
      train.class_names,
    )
    name = f"{train.name}, {shots} per class (seed {subset_seed})"
    train = sources.subset(train, indices, name)
  names = filter(None, (s.strip() for s in eval_splits.split(",")))
  return RunData(
    train, {name: dataset.load(name) for name in names}, dataset.held_out
  )
