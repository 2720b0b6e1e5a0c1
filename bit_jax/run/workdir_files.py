"""The files of a work directory, and whether a run may continue in it."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from bit_jax import models, weights
from bit_jax.data.preprocess import Preprocess
from bit_jax.errors import InputError, failure
from bit_jax.objectives import named
from bit_jax.recipe.load import GONE, Config, same_value
from bit_jax.run import longer
from bit_jax.storage import checkpoint, files, remote

CONFIG, _RESULT, _HELD_OUT = "config.json", "result.json", "held_out.json"
_SKIPPED = "skipped.txt"

# Keys that may differ when a run is resumed: they do not affect its numbers.
_FREE_KEYS = (
  "checkpoint.",
  *("data.dir", "data.class_list", "data.subset_file"),
  # The fingerprint identifies what they let in and leave out.
  *("data.any_version", "data.nested_classes", "data.skip_bad"),
  "eval.batch_size",
  "eval.every_steps",
  *("input.cache_mb", "input.num_threads"),
  "log_every_steps",
  "model.remat",
  # What comes of it is in resolved.accum_steps.
  "optim.accum_steps",
  "parallel.",
  "resume_changed",
  "watchdog_mins",
)

# Defaults for keys that older config.json files lack.
_MOMENTUM_DTYPE = "optim.momentum_dtype"
_ADDED = {
  _MOMENTUM_DTYPE: "float32",
  "eval.early_stop_evals": 0,
  "objective": "classify",
  "resolved.objective": "",
  "resolved.fixed_digest": "",
}
# With early stopping, where a run ends depends on these as well.
_DECIDES_THE_END = ("checkpoint.keep_best", "eval.every_steps")
_ABSENT = "absent"
_FINGERPRINT = "resolved.data_fingerprint"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat


def _compared(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the keys and values of a config that affect a run's numbers."""
  flat = _ADDED | _flat(tree)
  flat["resolved.accum_steps"] = _accum_steps(flat)
  for key, (neutral, _) in GONE.items():
    if flat.get(key) == neutral:
      del flat[key]
  for name, objective in named.OBJECTIVES.items():
    # Keys of other objectives do nothing. Fixed weights may lie elsewhere
    # later; their digest identifies them.
    unused = (f"{name}.",) if name != flat["objective"] else ()
    skipped = (*unused, *objective.fixed.values())
    flat = {k: v for k, v in flat.items() if not k.startswith(skipped)}
  if str(flat.get("data.name")).startswith("folder:"):
    # The path may differ later or on another host; the fingerprint identifies
    # the content.
    flat["data.name"] = "folder"
  kept = _DECIDES_THE_END if flat["eval.early_stop_evals"] else ()
  return {
    k: v for k, v in flat.items() if k in kept or not k.startswith(_FREE_KEYS)
  }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Returns the differences of two configs that affect a run's numbers.

  Args:
    old: The stored config as plain nested dicts.
    new: The config to compare it with.

  Returns:
    Lines such as `optim.lr: 0.003 -> 0.001`; empty if the run may continue.
  """
  a, b = _compared(old), _compared(new)
  changed = [
    key
    for key in sorted(a.keys() | b.keys())
    if not same_value(key, a.get(key, _ABSENT), b.get(key, _ABSENT))
  ]
  old, new = _ADDED | _flat(old), _ADDED | _flat(new)
  return [
    f"{key}: {old.get(key, _ABSENT)!r} -> {new.get(key, _ABSENT)!r}"
    + _in_words(key, old.get(key), new.get(key))
    for key in changed
  ]


def _in_words(key: str, old: Any, new: Any) -> str:
  """Returns ' (...)' for a change that its values do not explain, else ''."""
  if key in GONE:
    return f" ({GONE[key][1]})"
  if key == "resolved.train_examples" and old and new:
    return f" ({abs(new - old):,} {'more' if new > old else 'fewer'})"
  if key == _FINGERPRINT and old and new:
    old, new = _by_split(old), _by_split(new)
    changed = [k for k in old | new if old.get(k) != new.get(k)]
    return f" (other files, labels or splits in {', '.join(changed)})"
  return ""


def _by_split(fingerprint: str) -> dict[str, str]:
  """Returns {split: fingerprint} of what `sources.dataset_info` joined."""
  train, *evals = fingerprint.split(" ")
  parts = (part.rpartition("=") for part in evals)
  return {"train": train} | {name: text for name, _, text in parts}


class RunFiles:
  """The config of a run, and its files in a work directory.

  A work directory belongs to one run. A config that would give other numbers is
  refused there, with a message that lists the keys that differ.

  Attributes:
    workdir: The work directory; need not exist.
  """

  def __init__(self, workdir: epath.Path, config: Config):
    """Stores a resolved config; reads and writes no file."""
    self.workdir = workdir
    self._config = json.loads(config.to_json())
    self._model_options = models.non_default_options(config.model)

  def comparable(self) -> str:
    """Returns the part of the config that affects numbers, as text."""
    return json.dumps(_compared(self._config), sort_keys=True)

  def check_unchanged(self, but: Collection[str] = ()) -> list[str]:
    """Checks that workdir belongs to this config.

    Args:
      but: Keys that are not known yet, and not compared.

    Returns:
      The `differences` that resume_changed allows.

    Raises:
      InputError: workdir belongs to another config, or cannot be read.
    """
    path = self.workdir / CONFIG
    if not remote.exists(path):
      return []
    stored = files.read_json(path)
    if "model" not in stored:
      raise InputError(
        f"--workdir={self.workdir}: its config.json is none that a run wrote, "
        f"but that of another program; use another --workdir"
      )
    return self._check(self.workdir, stored, but)

  def check_checkpoint(
    self, path: epath.Path, metadata: Mapping[str, Any]
  ) -> list[str]:
    """Checks that a checkpoint was saved with this config.

    Returns:
      The `differences` that resume_changed allows.

    Raises:
      InputError: The checkpoint was saved with another config.
    """
    saved = metadata.get("config", {})
    for line in differences(saved, self._config):
      if line.startswith(_MOMENTUM_DTYPE):
        # Restored in another dtype, it would not have the bits that were saved.
        raise InputError(
          f"{path} cannot be gone on from with {line}; use another --workdir, "
          f"with --config.init.checkpoint={path}"
        )
    return self._check(path, saved)

  def _check(
    self, owner: object, old: Mapping[str, Any], but: Collection[str] = ()
  ) -> list[str]:
    changed = [
      line
      for line in differences(old, self._config)
      if line.partition(":")[0] not in but
    ]
    if changed and not self._config["resume_changed"]:
      raise InputError(
        f"{owner} belongs to a run with another config ({'; '.join(changed)}); "
        f"use another --workdir{self._way_on(owner, old, changed)}"
      )
    return changed

  def about_more_steps(self, old: Mapping[str, Any] | None = None) -> str:
    """Returns what more steps do to the learning rate, as `longer.about`.

    Args:
      old: The config that the run has; None for that of its work directory.
    """
    steps = checkpoint.steps(self.workdir / "checkpoints")
    old = old or read_config(self.workdir)
    return longer.about(old, self._config, steps[0]) if old and steps else ""

  def _way_on(
    self, owner: object, old: Mapping[str, Any], changed: Collection[str]
  ) -> str:
    """Returns what else a run of another config can do, for messages."""
    keys = {line.partition(":")[0] for line in changed}
    if "model.variant" in keys:  # Its weights fit no other model.
      return ""
    if "resolved.num_classes" in keys:
      return (
        f", with --config.init.checkpoint={owner} to start from its weights "
        f"with a new head"
      )
    way = ", or --config.resume_changed=true to go on with the changes"
    more = self.about_more_steps(old)
    return f"{way}; {more}" if more else way

  def write_config(
    self,
    held_out: Collection[str],
    skipped: Collection[str] = (),
    *,
    write: bool,
  ) -> None:
    """Writes config.json, which ties the work directory to this run.

    Args:
      held_out: Files of an image folder that are not trained on; see
        `read_held_out`.
      skipped: Files of an image folder that are left out, with the reasons.
      write: False on hosts that leave it to another one.

    Raises:
      InputError: workdir is not a folder or cannot be written to.
    """
    if not write:
      return
    try:
      self.workdir.mkdir(parents=True, exist_ok=True)
      _write_json(self.workdir / CONFIG, self._config)
      if held_out:
        _write_json(self.workdir / _HELD_OUT, list(held_out))
      if skipped or (self.workdir / _SKIPPED).exists():
        lines = "".join(f"{line}\n" for line in skipped)
        files.write_text(self.workdir / _SKIPPED, lines)
    except OSError as e:
      raise failure(f"--workdir={self.workdir} cannot be used: {e}", e) from e

  def metadata(
    self,
    class_names: Sequence[str],
    preprocess: Preprocess,
    heads: Sequence[str] = (),
  ) -> dict[str, Any]:
    """Returns what is saved with parameters to describe them, as JSON types.

    Args:
      class_names: One name for each output of the classifier.
      preprocess: The preprocessing of evaluation.
      heads: Names of parameters beside BiT's own, such as a second head.
    """
    return {
      "config": self._config,
      "variant": self._config["model"]["variant"],
      "class_names": list(class_names),
      "preprocess": dataclasses.asdict(preprocess),
      "model_options": self._model_options,
      "heads": list(heads),
    }

  def write_weights(
    self, params: Any, batch_stats: Any, metadata: Mapping[str, Any]
  ) -> None:
    """Writes params.npz.

    Args:
      params: Nested dict of np.ndarray.
      batch_stats: Running statistics; {} without BatchNorm.
      metadata: From `metadata`, and `trained_on` if it is known.
    """
    weights.save_npz(
      self.workdir / "params.npz",
      weights.Weights(
        params,
        batch_stats,
        metadata["variant"],
        tuple(metadata["class_names"]),
        metadata["preprocess"],
        metadata["model_options"],
        metadata.get("trained_on", {}),
      ),
    )


def _write_json(path: epath.Path, value: Any) -> None:
  files.write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_config(workdir: epath.Path) -> dict[str, Any] | None:
  """Returns the config of the run in workdir as nested dicts, if any."""
  path = workdir / CONFIG
  return files.read_json(path) if remote.exists(path) else None


def read_held_out(workdir: epath.Path) -> list[str]:
  """Returns the files that the run in workdir keeps for evaluation, if any.

  Raises:
    InputError: held_out.json is damaged.
  """
  path = workdir / _HELD_OUT
  names = files.read_json(path, list) if remote.exists(path) else []
  if not all(isinstance(name, str) for name in names):
    raise InputError(f"{path}: expected a JSON array of names of files")
  return names


def read_accum_steps(workdir: epath.Path, rows: int) -> int:
  """Returns in how many parts a run computes its steps; 0 if not known.

  Args:
    workdir: A work directory; need not exist.
    rows: Examples of a batch on one device. A number that does not divide it is
      that of another batch or machine, and counts as not known.
  """
  path = workdir / CONFIG
  if not remote.exists(path):
    return 0
  parts = _accum_steps(_flat(files.read_json(path)))
  return 0 if parts and rows % parts else parts


def _accum_steps(flat: Mapping[str, Any]) -> int:
  # Older runs have what their config said, which was 1 or more.
  return flat.get("resolved.accum_steps", flat.get("optim.accum_steps", 1))


def read_result(workdir: epath.Path) -> dict[str, Any] | None:
  """Returns the result of a run, or None if it is not finished.

  Raises:
    InputError: result.json is damaged.
  """
  path = workdir / _RESULT
  if not remote.exists(path):
    return None
  result = files.read_json(path)
  if not isinstance(result.get("step"), int):
    raise InputError(
      f"{path}: expected a JSON object with a step, as runs write it; remove "
      f"it to evaluate the last state again"
    )
  return result


def write_result(workdir: epath.Path, result: Mapping[str, Any]) -> None:
  """Writes result.json, which marks the run as finished.

  Raises:
    InputError: It cannot be written.
    UnavailableError: Likewise, for a reason that may pass.
  """
  with remote.writing(workdir / _RESULT):
    _write_json(workdir / _RESULT, result)
