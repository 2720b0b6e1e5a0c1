"""Words for unknown config keys, arguments, flags and values: what was meant?

People bring the names of PyTorch, timm and Hugging Face.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bit_jax.errors import did_you_mean, nearest

_LR = ("learning_rate", "base_lr", "max_lr", "peak_lr", "init_lr", "lr0")
_STEPS = ("max_steps", "num_steps", "train_steps", "num_train_steps")
_OUT = ("output", "output_dir", "out_dir", "out", "log_dir", "logdir")
# {key of config or `--flag`: names it has elsewhere}.
_ELSEWHERE: Mapping[str, Sequence[str]] = {
  "optim.lr": (*_LR, "learningrate", "eta"),
  "optim.weight_decay": ("wd", "l2", "decay"),
  "optim.momentum": ("beta", "beta1"),
  "optim.accum_steps": (
    *("gradient_accumulation_steps", "grad_accum_steps", "grad_accum"),
    *("accumulate_grad_batches", "gradient_accumulation"),
  ),
  "optim.freeze": ("frozen", "freeze_layers", "freeze_backbone", "trainable"),
  "input.batch_size": (
    *("bs", "batch", "batchsize", "per_device_train_batch_size"),
    *("train_batch_size", "per_device_batch_size", "global_batch_size"),
    "batch_size",
  ),
  "eval.batch_size": (
    *("per_device_eval_batch_size", "eval_batch_size", "val_batch_size"),
    *("validation_batch_size", "test_batch_size"),
  ),
  "total_steps": (*_STEPS, "steps", "iterations", "iters", "max_iter"),
  "schedule.total": ("epochs", "num_epochs", "max_epochs", "num_train_epochs"),
  "schedule.warmup": (
    *("warmup_steps", "warmup_epochs", "warmup_ratio", "num_warmup_steps"),
    *("warm_up", "warmup_lr"),
  ),
  "schedule.decay_at": (
    *("milestones", "step_size", "decay_epochs", "decay_steps", "lr_schedule"),
    *("lr_scheduler", "lr_scheduler_type", "scheduler", "sched", "decay_rate"),
  ),
  "schedule.decay_factor": ("gamma", "lr_decay", "lr_gamma"),
  "input.crop_px": (
    *("img_size", "image_size", "input_size", "resolution", "crop_size"),
    *("crop", "size", "imgsz", "image_px", "px"),
  ),
  "input.resize_px": ("resize", "resize_size"),
  "input.flip": ("hflip", "horizontal_flip", "random_flip"),
  "input.train": ("augmentation", "augment", "aug", "train_crop"),
  "input.num_threads": ("workers", "num_workers", "dataloader_num_workers"),
  "input.cache_mb": ("cache", "cache_dataset"),
  "data.name": ("dataset", "dataset_name", "data_set", "train_data", "data"),
  "data.dir": ("data_dir", "data_path", "dataset_dir", "root", "tfds_dir"),
  "data.eval_splits": ("val_split", "test_split", "split", "validation_split"),
  "data.examples_per_class": ("shots", "num_shots", "few_shot", "k_shot"),
  "model.variant": (
    *("model", "arch", "architecture", "backbone", "model_name", "network"),
    *("model.name", "encoder"),
  ),
  "model.dtype": (
    *("precision", "amp", "fp16", "bf16", "mixed_precision", "half"),
    "torch_dtype",
  ),
  "model.remat": ("gradient_checkpointing", "grad_checkpointing"),
  "init.checkpoint": (
    *("pretrained", "checkpoint", "weights", "init", "initial_checkpoint"),
    *("init_checkpoint", "model_name_or_path", "pretrained_weights", "ckpt"),
    *("checkpoint_path", "load_from", "finetune"),
  ),
  "seed": ("random_seed", "manual_seed", "random_state", "rng_seed"),
  "loss": ("criterion", "loss_fn", "loss_name"),
  "mixup_alpha": ("mixup",),
  "num_classes": ("n_classes", "classes", "num_labels"),
  "log_every_steps": (
    *("log_interval", "logging_steps", "print_freq", "log_freq", "log_every"),
    *("log_every_n_steps", "log_steps"),
  ),
  "eval.every_steps": (
    *("eval_steps", "eval_interval", "eval_every", "eval_freq"),
    *("evaluation_strategy", "eval_strategy", "val_interval"),
  ),
  "checkpoint.every_steps": (
    *("save_steps", "save_interval", "save_every", "save_freq"),
    *("checkpoint_every", "checkpoint_interval", "save_strategy"),
  ),
  "checkpoint.keep": ("save_total_limit", "max_to_keep", "checkpoint_hist"),
  "parallel.shard_state": ("fsdp", "zero", "sharding", "shard"),
  "distill.teacher": ("teacher_model", "teacher_path"),
  "distill.temperature": ("kd_temperature", "temp"),
  "--workdir": (
    *(*_OUT, "save_dir", "model_dir", "experiment_dir", "run_dir"),
    *(
      "workdir",
      "work_dir",
      "resume",
      "resume_from_checkpoint",
      "default_root_dir",
    ),
  ),
  "--config": ("cfg", "conf", "config_file", "config_path", "recipe"),
}
_MEANT = {name: key for key, names in _ELSEWHERE.items() for name in names}
# What the value of a key looks like, where its name does not tell.
_LIKE = {
  "schedule.total": "'10 epochs'",
  "schedule.warmup": "'10 %'",
  "schedule.decay_at": "'30 %,60 %,90 %'",
}
# What does not exist, and why.
_NONE = {
  **dict.fromkeys(
    ("optimizer", "opt", "optimiser", "optim_type"),
    "the optimiser is SGD with momentum, with the keys of config.optim",
  ),
  "label_smoothing": "there is no label smoothing; config.mixup_alpha mixes",
  "dropout": "the networks have no dropout",
}
# Values as others call them.
_VALUES = {
  "softmax": ("cross_entropy", "crossentropy", "ce", "categorical", "nll"),
  "sigmoid": ("bce", "binary_cross_entropy", "bce_with_logits", "binary"),
  "bfloat16": ("bf16", "float16", "fp16", "half", "mixed"),
  "float32": ("fp32", "float", "f32", "full", "tf32"),
  "gn": ("group", "groupnorm", "group_norm"),
  "bn": ("batch", "batchnorm", "batch_norm", "batchnorm2d"),
  "distill": ("distillation", "kd", "knowledge_distillation", "teacher"),
  "classify": ("classification", "classifier", "supervised", "finetune"),
  "inception": ("random_resized_crop", "randomresizedcrop"),
  "central": ("center", "centre", "center_crop", "resize_crop"),
  "square": ("resize", "squash"),
}
_SAID = {name: value for value, names in _VALUES.items() for name in names}
# The arguments that most configs take.
ARGUMENTS = ("preset", "model", "dataset", "data_dir", "examples_per_class")


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[str]:
  """Returns the keys of a config and its sections, such as `optim.lr`."""
  keys = []
  for name, value in section.items():
    if isinstance(value, Mapping) or hasattr(value, "items"):
      keys += _flat(value, f"{prefix}{name}.")
    else:
      keys.append(prefix + name)
  # Nobody sets what the rules give.
  return [key for key in keys if not key.startswith("resolved.")]


def meant_keys(name: str, config: Mapping[str, Any]) -> list[str]:
  """Returns the keys of a config that an unknown one may mean.

  Args:
    name: The unknown key, with or without sections.
    config: The config, as nested mappings.
  """
  keys = _flat(config)
  name = name.lower().replace("-", "_")
  section, _, last = name.rpartition(".")
  for text in (name, name.replace(".", "_"), last):
    if _MEANT.get(text) in keys:
      return [_MEANT[text]]
  if same := [key for key in keys if key.rpartition(".")[2] == last]:
    return nearest(name, same, 1) if len(same) > 3 else same
  inside = {key.rpartition(".")[2]: key for key in keys if section}
  inside = {k: v for k, v in inside.items() if v.startswith(f"{section}.")}
  if close := nearest(last, inside):
    return [inside[k] for k in close]
  # A section that is right makes all of its keys look alike.
  if close := [] if inside else nearest(name, keys):
    return close
  ends = {key.rpartition(".")[2]: key for key in reversed(keys)}
  return [ends[k] for k in nearest(last, ends)]


def unknown_key(key: str, config: Mapping[str, Any]) -> str:
  """Returns the message for a config key that does not exist.

  Args:
    key: The key, such as `optim.learning_rate`.
    config: The config, as nested mappings.
  """
  message = f"unknown config key {key}"
  last = key.lower().rpartition(".")[2].replace("-", "_")
  if last in _NONE:
    return f"{message}: {_NONE[last]}"
  if _MEANT.get(last, "").startswith("--"):
    return f"{message}; did you mean the flag {_MEANT[last]}?"
  meant = meant_keys(key, config)
  like = f", e.g. {_LIKE[meant[0]]}" if meant and meant[0] in _LIKE else ""
  message += did_you_mean(meant).removesuffix("?")
  message += f"{like}?" if meant else ""
  section = (meant[0] if meant else key).rpartition(".")[0]
  return f"{message}{' ' if meant else '; '}{keys_of(section, config)}"


def keys_of(section: str, config: Mapping[str, Any]) -> str:
  """Returns a sentence with the keys of a section; '' for the whole config."""
  inside: Any = config
  for part in filter(None, section.split(".")):
    inside = inside.get(part) if hasattr(inside, "get") else None
  if not hasattr(inside, "items"):
    section, inside = "", config
  names = [
    f"{name}.*" if hasattr(value, "items") else name
    for name, value in inside.items()
    if name != "resolved"
  ]
  where = f"config.{section}" if section else "config"
  return f"{where} has {', '.join(sorted(names))}"


def unknown_flag(
  name: str, flags: Iterable[str], config: Mapping[str, Any]
) -> str:
  """Returns the message for a flag that does not exist.

  Args:
    name: The flag without dashes, such as `work_dir`.
    flags: The names of the flags that exist.
    config: The config, whose keys are flags as well; {} if it is not known.
  """
  message = f"unknown flag --{name}"
  plain = name.lower().replace("-", "_")
  known = [f for f in flags if "." not in f]
  meant = _MEANT.get(plain, "")
  if plain in ARGUMENTS:
    return f"{message}; did you mean --config=FILE:{plain}=...?"
  if meant.startswith("--"):
    return f"{message}; did you mean {meant}?"
  if plain in _NONE:
    return f"{message}: {_NONE[plain]}"
  keys = [f"config.{key}" for key in meant_keys(plain, config)]
  # A key of that very name goes before a flag of a similar one.
  exact = meant or any(key.rpartition(".")[2] == plain for key in keys)
  close = keys if exact and keys else nearest(plain, known) or keys
  hint = did_you_mean(f"--{key}" for key in close)
  return f"{message}{hint or '; see --help'}"


def unknown_argument(item: str, allowed: Sequence[str]) -> str:
  """Returns what a config argument may mean, for the end of a message.

  Args:
    item: Such as `modle=R50x1`.
    allowed: The arguments that the config takes.
  """
  name, equals, value = item.partition("=")
  plain = name.lower().replace("-", "_")
  if not equals:
    if re.fullmatch(r"[Rr]\d+(x[\d.]+)?", name) and "model" in allowed:
      return did_you_mean([f"model={name}"])
    if name.startswith("folder:") and "dataset" in allowed:
      return did_you_mean([f"dataset={name}"])
    near = nearest(name, allowed)
    return did_you_mean(f"{key}=..." for key in near)
  if plain in _NONE:
    return f"; {_NONE[plain]}"
  meant = _MEANT.get(plain, "")
  as_argument = {
    "model.variant": "model",
    "data.name": "dataset",
    "data.dir": "data_dir",
    "data.examples_per_class": "examples_per_class",
    "init.checkpoint": "init",
    "distill.teacher": "teacher",
  }.get(meant)
  if as_argument in allowed:
    return did_you_mean([f"{as_argument}={value}"])
  if meant.startswith("--"):
    return did_you_mean([f"{meant}={value}"])
  if meant:
    return f"; {name} is set with --config.{meant}={_LIKE.get(meant, value)}"
  ends = {key.rpartition(".")[2]: key for key in _ELSEWHERE}
  if near := nearest(plain, allowed):
    return did_you_mean(f"{key}={value}" for key in near)
  if key := ends.get(plain):
    return f"; {name} is set with --config.{key}={_LIKE.get(key, value)}"
  return ""


def meant_value(value: object, allowed: Iterable[str]) -> str:
  """Returns which of the allowed values was meant, for the end of a message."""
  text, allowed = str(value), [a for a in allowed if a]
  said = _SAID.get(text.lower().replace("-", "_"))
  if said in allowed:
    return did_you_mean([repr(said)])
  return did_you_mean(map(repr, nearest(text, allowed)))
