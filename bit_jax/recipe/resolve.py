"""Resolves the rules of a config into plain numbers for one data set."""

import re

from bit_jax.data import preprocess
from bit_jax.data.source import DatasetInfo
from bit_jax.errors import InputError
from bit_jax.recipe import hyperrule, network
from bit_jax.recipe.load import Config

# Values of config.input.train and config.input.eval.
TRAIN_CROPS = ("hyperrule", "inception", "none")
EVAL_CROPS = ("square", "central")


def parse_duration(
  text: str, key: str, *, steps_per_epoch: float, total_steps: float = 0.0
) -> float:
  """Returns a duration such as `90 epochs`, `5000 steps` or `30 %` in steps.

  Args:
    text: A number and a unit.
    key: The config key that holds the text, for the error message.
    steps_per_epoch: The number of examples divided by the batch size.
    total_steps: The length of 100 %; 0 where percentages are not allowed.

  Raises:
    InputError: The text has another form.
  """
  match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|steps?|%)\s*", text)
  units = {"e": steps_per_epoch, "s": 1.0, "%": total_steps / 100}
  if not match or not units[match[2][0]]:
    shares = ", or e.g. '30 %'" if total_steps else ""
    raise InputError(
      f"{key}={text!r}: expected e.g. '90 epochs' or '5000 steps'{shares}"
    )
  return float(match[1]) * units[match[2][0]]


def _schedule(config, info: DatasetInfo) -> tuple[int, int, tuple[int, ...]]:
  """Returns (total_steps, warmup_steps, decay_steps)."""
  s, rule = config.schedule, None
  if config.hyperrule:
    rule = hyperrule.rule(info.num_examples, config.hyperrule)
  per_epoch = info.num_examples / config.input.batch_size

  def steps(text, key, total):
    return parse_duration(
      text, key, steps_per_epoch=per_epoch, total_steps=total
    )

  def need_rule(key):
    if rule is None:
      raise InputError(
        f"config.schedule.{key} is empty and config.hyperrule too: one of them "
        f"must say it"
      )
    return rule

  if s.total:
    total = steps(s.total, "config.schedule.total", 0.0)
  else:
    total = need_rule("total").total_steps
  if not total:
    raise InputError(f"config.schedule.total={s.total!r}: expected more than 0")
  # The rule's warm-up and decay points are those of its own total_steps.
  scale = total / rule.total_steps if rule else 1.0
  if s.warmup:
    warmup = steps(s.warmup, "config.schedule.warmup", total)
  else:
    warmup = need_rule("warmup").warmup_steps * scale
  if s.decay_at:
    decays = [
      steps(text, "config.schedule.decay_at", total)
      for text in s.decay_at.split(",")
    ]
  else:
    decays = [d * scale for d in need_rule("decay_at").decay_steps]
  override = config.total_steps / total if config.total_steps else 1.0
  return (
    max(1, round(total * override)),
    round(warmup * override),
    tuple(round(d * override) for d in decays),
  )


def _resolution(config, info: DatasetInfo) -> tuple[int, int]:
  """Returns (resize_px, crop_px)."""
  if info.native_px:
    crop = config.input.crop_px or info.native_px
    return crop, crop
  if config.hyperrule:
    resize, crop = hyperrule.resolution(
      *info.image_px, config.hyperrule, config.model.variant
    )
  else:
    # Upstream: 224 (paper section 3.3), or the image size where it is smaller.
    crop = min(224, *info.image_px)
    resize = round(crop * 8 / 7)
  given_resize, given_crop = config.input.resize_px, config.input.crop_px
  resize, crop = given_resize or resize, given_crop or crop
  if crop <= resize:
    return resize, crop
  if not given_resize and config.input.train != "hyperrule":
    return crop, crop  # The other crops do not resize to a size in between.
  # Only what the config gives is a value of a key.
  rule = f"config.hyperrule={config.hyperrule!r}" if config.hyperrule else ""
  rule = f"that {rule or 'the rule for pre-training'} gives for "
  rule += "images of {} x {} px".format(*info.image_px)
  if given_resize and given_crop:
    raise InputError(
      f"config.input.crop_px={crop} is larger than config.input.resize_px="
      f"{resize}"
    )
  if given_resize:
    raise InputError(
      f"config.input.resize_px={resize}, yours or of the preset, is "
      f"smaller than the crop of {crop} px {rule}, as config.input.crop_px=0; "
      f"expected both sizes, or 0 for both"
    )
  raise InputError(
    f"config.input.crop_px={crop} is larger than the resize_px={resize} "
    f"{rule}, as config.input.resize_px=0; expected both sizes, or 0 for both"
  )


def resolve(config: Config, info: DatasetInfo) -> Config:
  """Returns a copy of config with the resolved numbers in `config.resolved`.

  The network too, for callers that have not resolved it before.

  Raises:
    InputError: A rule is missing or malformed, or contradicts the data.
  """
  config = config.copy_and_resolve_references()
  if not network.is_resolved(config):
    config = network.assume(config)
  wanted = config.num_classes
  if wanted and wanted != info.num_classes:
    raise InputError(
      f"config.num_classes={wanted}, but the data set "
      f"{config.data.name!r} has {info.num_classes} classes"
    )
  r, rule = config.resolved, config.hyperrule
  r.num_classes, r.train_examples = info.num_classes, info.num_examples
  r.data_fingerprint = info.fingerprint
  r.total_steps, r.warmup_steps, r.decay_steps = _schedule(config, info)
  reference = config.optim.lr_batch_size
  scale = config.input.batch_size / reference if reference else 1.0
  r.peak_lr = config.optim.lr * scale
  r.mixup_alpha = config.mixup_alpha
  if config.mixup_alpha < 0:
    if not rule:
      raise InputError(
        f"config.mixup_alpha={config.mixup_alpha:g} stands for the rule's, and "
        f"config.hyperrule is empty: expected 0 or more, or a rule"
      )
    r.mixup_alpha = hyperrule.rule(info.num_examples, rule).mixup_alpha
  r.resize_px, r.crop_px = _resolution(config, info)
  r.accum_steps = config.optim.accum_steps
  r.flip = bool(config.input.flip and info.flip)
  if info.native_px:
    config.input.train, config.input.eval = "none", "square"
  return config


def train_preprocess(config: Config) -> preprocess.Preprocess:
  """Returns the training preprocessing of a resolved config."""
  r = config.resolved
  match config.input.train:
    case "inception":
      return preprocess.upstream_train(r.crop_px, flip=r.flip)
    case "hyperrule":
      return preprocess.hyperrule_train(r.resize_px, r.crop_px, flip=r.flip)
    case _:
      return preprocess.Preprocess("none", r.crop_px, flip=r.flip)


def eval_preprocess(config: Config) -> preprocess.Preprocess:
  """Returns the evaluation preprocessing of a resolved config."""
  px = config.resolved.crop_px
  if config.input.eval == "square":
    return preprocess.hyperrule_test(px)
  # A 224 px crop of a short side of 256, in proportion for other sizes.
  return preprocess.central(round(px * 8 / 7), px)
