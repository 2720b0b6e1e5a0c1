"""Loads the data sets that a run trains and evaluates on."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence

import jax
from etils import epath

from bit_jax.data import class_names, datasets, in_memory, subset
from bit_jax.data.source import DatasetInfo, Source
from bit_jax.errors import InputError
from bit_jax.recipe.load import Config
from bit_jax.storage import cache


@dataclasses.dataclass(frozen=True)
class FewshotSet:
  """A data set for few-shot linear evaluation."""

  train: Source
  test: Source


@dataclasses.dataclass(frozen=True)
class RunData:
  """The sources of a run.

  Attributes:
    train: The training examples, after slicing and few-shot selection.
    evals: The evaluation splits by name; may be empty.
    held_out: The files of an image folder that are not trained on, for `load`
      when the run is resumed; empty for everything else.
    skipped: The files of image folders that are left out, with the reasons.
  """

  train: Source
  evals: Mapping[str, Source]
  held_out: Collection[str] = ()
  skipped: Collection[str] = ()


def load(data: Config, *, seed: int, held_out: Collection[str] = ()) -> RunData:
  """Loads the sources that `config.data` describes.

  Args:
    data: The value of `config.data`; configs/common.py explains its keys.
    seed: The seed of the run; used if `data.subset_seed` is negative.
    held_out: The `RunData.held_out` of a run that is resumed.

  Raises:
    InputError: The data set or a split does not exist, or has too few examples.
  """
  subset_seed = seed if data.subset_seed < 0 else data.subset_seed
  dataset = datasets.open_dataset(
    data.name,
    data_dir=data.dir,
    label_key=data.label_key,
    image_scale=data.image_scale,
    percent_floor=data.percent_floor,
    # Not the run's seed: all runs on a folder hold out the same images.
    seed=max(0, data.subset_seed),
    held_out=held_out,
    cache_dir=str(cache.folder("folders")),
    nested_classes=data.nested_classes,
    skip_bad=data.skip_bad,
    any_version=data.any_version,
  )
  train_split, eval_splits = data.train_split, data.eval_splits
  if not (train_split and eval_splits):
    default_train, default_eval = dataset.default_splits()
    train_split = train_split or default_train
    eval_splits = eval_splits or default_eval
  train = dataset.load(train_split)
  if data.class_list:
    class_names.check(
      train.class_names,
      class_names.read(data.class_list, "config.data.class_list"),
      f"{train.name} and {data.class_list}",
    )
  train = _chosen(train, data, subset_seed)
  names = filter(None, (s.strip() for s in eval_splits.split(",")))
  return RunData(
    train,
    {name: dataset.load(name) for name in names},
    dataset.held_out,
    dataset.skipped,
  )


def _chosen(train: Source, data: Config, seed: int) -> Source:
  """Returns the subset that a config asks for, or the source itself."""
  shots, path = data.examples_per_class, data.subset_file
  if not (shots or path):
    return train
  if path and epath.Path(path).exists():
    indices = subset.read(path, train)
    if shots:
      subset.check_balanced(path, train, indices, shots)
    name = f"{train.name}, {len(indices)} of {path}"
  elif shots:
    indices = subset.balanced(train, shots, seed)
    if path and jax.process_index() == 0:
      subset.write(path, train, indices)
    name = f"{train.name}, {shots} per class (seed {seed})"
  else:
    raise InputError(
      f"config.data.subset_file={path} is not there; with "
      f"config.data.examples_per_class it is made"
    )
  return subset.take(train, indices, name)


def load_fewshot_sets(
  names: str,
  data_dir: str,
  *,
  nested_classes: bool = False,
  skip_bad: bool = False,
) -> dict[str, FewshotSet]:
  """Loads the data sets of `config.eval.fewshot`.

  Args:
    names: The names of the sets, separated by commas; '' for none.
    data_dir: The folder of the TFDS sets.
    nested_classes, skip_bad: As in `datasets.open_dataset`.

  Raises:
    InputError: A set does not exist, or has no split to evaluate on.
  """
  return {
    name: load_fewshot_set(
      name,
      data_dir,
      "config.eval.fewshot",
      nested_classes=nested_classes,
      skip_bad=skip_bad,
    )
    for name in filter(None, (n.strip() for n in names.split(",")))
  }


def load_fewshot_set(
  name: str,
  data_dir: str,
  key: str,
  *,
  nested_classes: bool = False,
  skip_bad: bool = False,
) -> FewshotSet:
  """Loads a data set for few-shot linear evaluation.

  Args:
    name: Name of the set; may have commas in it.
    data_dir: The folder of the TFDS sets.
    key: The flag or config key that names the set, for messages.
    nested_classes, skip_bad: As in `datasets.open_dataset`.

  Raises:
    InputError: The set does not exist, or has no split to evaluate on.
  """
  dataset = datasets.open_dataset(
    name,
    data_dir=data_dir,
    nested_classes=nested_classes,
    skip_bad=skip_bad,
  )
  train_split, test_split = dataset.default_splits()
  if not test_split:
    raise InputError(f"{key}: {name} has no evaluation split")
  train = dataset.load(train_split)
  # They are needed for each evaluation, and of a large set take long to read.
  labels = functools.cache(train.read_labels)
  train = dataclasses.replace(train, read_labels=labels)
  return FewshotSet(train, dataset.load(test_split))


def check_shots(sets: Mapping[str, FewshotSet], shots: Sequence[int]) -> None:
  """Raises InputError if a set has too few examples of a class."""
  for name, few_shot in sets.items():
    train = few_shot.train
    # With fewer shots there are enough as well, if there is one at all.
    for k in {min(shots), max(shots)} if shots else {0}:
      try:
        subset.few_shot_indices(
          train.read_labels(), k, 0, train.num_classes, train.class_names
        )
      except InputError as error:
        raise InputError(
          f"config.eval.fewshot={name} with "
          f"config.eval.fewshot_shots={tuple(shots)}: {error}"
        ) from error


def cache_in_memory(
  data: RunData, fewshot_sets: Mapping[str, FewshotSet], config: Config
) -> tuple[RunData, dict[str, FewshotSet]]:
  """Caches decoded images of every source that is read more than once.

  All caches share a budget of `config.input.cache_mb`. The training set comes
  first, then the evaluation splits in their order.

  Args:
    data: The sources of the run.
    fewshot_sets: The sets for few-shot evaluation, by name.
    config: The resolved config.

  Returns:
    The sources and the few-shot sets, with the same examples as before.
  """
  memory = in_memory.Memory(config.input.cache_mb)

  def choose(source, again):
    return in_memory.cache_in_memory(source, memory) if again else source

  total_steps, every = config.resolved.total_steps, config.eval.every_steps
  rows = total_steps * config.input.batch_size
  train = choose(data.train, rows > len(data.train))
  # The last step is always evaluated, so evaluation repeats only if it also
  # happens before that.
  again = 0 < every < total_steps
  evals = {name: choose(source, again) for name, source in data.evals.items()}
  return dataclasses.replace(data, train=train, evals=evals), {
    name: FewshotSet(choose(sets.train, again), choose(sets.test, again))
    for name, sets in fewshot_sets.items()
  }


def check_classes(data: RunData) -> None:
  """Raises InputError if a class has another number in an evaluation split."""
  ours = data.train.class_names
  for name, source in data.evals.items():
    theirs = source.class_names
    if theirs != ours and sorted(theirs) == sorted(ours):
      class_names.check(theirs, ours, f"{name} and {data.train.name}")


def dataset_info(data: RunData) -> DatasetInfo:
  """Returns the facts for the rules; the fingerprint covers all splits."""
  prints = [data.train.fingerprint]
  prints += [f"{k}={v.fingerprint}" for k, v in data.evals.items()]
  return dataclasses.replace(
    DatasetInfo.of(data.train), fingerprint=" ".join(prints)
  )
