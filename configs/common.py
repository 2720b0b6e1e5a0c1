"""All config keys, with their units and neutral values.

A config holds rules ("divide by 10 after 30 epochs"), not their products (steps
of this run). `bit_jax.recipe.resolve` computes the products once at start, when
the data set is known, and stores them under `config.resolved`. No default is
None, so that each key can be overridden from the command line.

Durations are strings: a number and a unit, `90 epochs`, `5000 steps` or `30 %`
(of the whole run). Overriding `config.total_steps` keeps their proportions.
"""

from collections.abc import Collection, Iterable

import ml_collections

from bit_jax.errors import UsageError, did_you_mean, nearest
from bit_jax.recipe import words


def parse_arg(arg: str | None, **defaults: str | int | float) -> dict:
  """Parses the text `key=value,key=value` after a config file's name.

  Args:
    arg: The text after the colon; None or '' if there is none.
    **defaults: The allowed keys, with their default values; a value is
      converted to its default's type.

  Returns:
    {key: value} for all keys of defaults.

  Raises:
    UsageError: A key is unknown or given twice, or a value has the wrong type.
  """
  values, given = dict(defaults), set()
  last = ""
  for item in filter(None, (arg or "").split(",")):
    key, _, text = item.partition("=")
    if key not in defaults or "=" not in item or key in given:
      expected = ", ".join(f"{k}=..." for k in defaults)
      raise UsageError(
        f"config argument {item!r}: expected one each of {expected}"
        + _meant(last, item, given, defaults)
      )
    last = item
    given.add(key)
    kind = type(defaults[key])
    try:
      values[key] = kind(text)
    except ValueError as e:
      raise UsageError(
        f"config argument {item!r}: expected {key}=<{kind.__name__}>"
      ) from e
  return values


def choose(key: str, value: str, allowed: Iterable[str]) -> str:
  """Returns the value of a config argument if it is one of those allowed.

  Raises:
    UsageError: It is none; the message says which are, and the nearest.
  """
  allowed = tuple(allowed)
  if value not in allowed:
    raise UsageError(
      f"{key}={value}: expected one of {', '.join(allowed)}"
      + did_you_mean(f"{key}={near}" for near in nearest(value, allowed))
    )
  return value


def _meant(last: str, item: str, given: Collection[str], known: dict) -> str:
  """Returns what an argument may mean that cannot be used."""
  if (about := _about_comma(last, item)) or item.partition("=")[0] in given:
    return about
  return words.unknown_argument(item, tuple(known))


def _about_comma(last: str, item: str) -> str:
  """Returns what to do if an argument is the rest of a path with a comma."""
  key, _, text = last.partition("=")
  flag = {
    "dataset": "--config.data.name",
    "data_dir": "--config.data.dir",
    "init": "--config.init.checkpoint",
    "teacher": "--config.distill.teacher",
  }.get(key)
  if not flag:
    return ""
  return (
    f"; if the comma is part of {key}, write {flag}='{text},{item}' instead, "
    "or give a link to it whose path has no comma"
  )


def get_config() -> ml_collections.ConfigDict:
  """Returns all keys with neutral values; recipes fill in theirs."""
  c = ml_collections.ConfigDict()
  # Seeds initial weights, shuffling, augmentation, mixup and subsets.
  c.seed = 0
  # 0: taken from the data set; any other number must agree with it.
  c.num_classes = 0
  c.objective = "classify"  # What is learned: classify or distill.
  c.loss = "softmax"  # softmax, or sigmoid (summed over classes).
  c.mixup_alpha = 0.0  # 0: no mixup; < 0: by the HyperRule.
  # paper or code: the version of the BiT-HyperRule that fills in what schedule
  # and input leave open; '': no rule.
  c.hyperrule = ""
  # > 0: replaces schedule.total and scales warm-up and decay in proportion.
  c.total_steps = 0
  # Steps between two lines of training metrics; 0: about 100 lines a run, and
  # at least one every 50 steps.
  c.log_every_steps = 0
  # Minutes without a finished step before all stacks are printed; 0: never.
  c.watchdog_mins = 30.0
  # True: a run is resumed although its config or data have changed.
  c.resume_changed = False

  c.data = d = ml_collections.ConfigDict()
  d.name = ""  # A TFDS name, folder:PATH, glyphs or digits.
  d.dir = ""  # Folder of the TFDS sets; '': TFDS's own default.
  # True: if the version in the name is not there, another one that is there is
  # used as it is, with a note; False: that ends the run.
  d.any_version = False
  # The TFDS feature that holds the labels, or a name of
  # bit_jax.data.sets.derived_labels.DERIVED.
  d.label_key = "label"
  # Factor for stored pixel values (TFDS); 255 for sets that store 0 and 1.
  d.image_scale = 1
  # True: in a folder of images, a class folder may hold its images in several
  # folders and none of its own; False: that is refused, as they may be classes.
  d.nested_classes = False
  # True: percentages in splits round down; False: to the closest count.
  d.percent_floor = False
  d.train_split = ""  # E.g. train[:98%] or train[90%:][:200]; '': train.
  # Splits separated by ','; '': test, else validation, if there is one.
  d.eval_splits = ""
  # A file with one class name a line, e.g. the wnids of ImageNet-21k. The data
  # set must have these classes in this order.
  d.class_list = ""
  # > 0: trains on a balanced subset, drawn with subset_seed.
  d.examples_per_class = 0
  d.subset_seed = -1  # < 0: config.seed.
  # A JSON file that keeps the subset. It is read if it exists and written
  # otherwise. Without examples_per_class it must exist, with any subset.
  d.subset_file = ""
  # True: files of an image folder that are no sound images are left out, and
  # listed in skipped.txt in the work directory; False: they end the run before
  # it starts. TFDS sets are not checked at start: bit_jax.tools.pack does it,
  # with --skip_bad.
  d.skip_bad = False

  c.input = i = ml_collections.ConfigDict()
  i.batch_size = 512  # Of all devices together.
  # hyperrule (square resize, random crop), inception (random box), or none
  # (square resize to crop_px).
  i.train = "hyperrule"
  i.eval = "square"  # square (resize to crop_px) or central (224 of 256).
  i.resize_px = 0  # Side of the image before the crop; 0: by the rule.
  i.crop_px = 0  # Side of the image that the network sees; 0: by the rule.
  # True: random flips where the data set allows them; False: never.
  i.flip = True
  i.num_threads = 0  # Decoding threads; 0: one per core.
  # Memory for decoded images in each process, in MB; 0: none. Sets that fit and
  # are read more than once are decoded once.
  i.cache_mb = 2048

  c.model = m = ml_collections.ConfigDict()
  # E.g. R50x1; '': that of the weights in init.checkpoint, or R50x1 without.
  m.variant = ""
  m.dtype = "float32"  # Dtype of the convolutions: float32 or bfloat16.
  m.head_bias = 0.0  # Initial value of the head's bias.
  # gn, or bn for the paper's ablation; '': this and weight_standardization are
  # those of the weights, or gn and True without.
  m.norm = ""
  m.weight_standardization = True  # False for the ablation.
  # With bn: the number of examples that share statistics; 0: the whole batch.
  m.batch_group = 0
  # What the backward pass computes again instead of keeping it: none, norm (no
  # convolution), unit or stage. Each takes less memory than the one before.
  m.remat = "none"

  c.init = ml_collections.ConfigDict()
  # The initial weights: a .npz, work directory or checkpoint; '': random.
  c.init.checkpoint = ""
  c.init.keep_head = False  # False: a new head of zeros.

  c.distill = ml_collections.ConfigDict()
  # The teacher's weights: a .npz, work directory or checkpoint.
  c.distill.teacher = ""
  # Divides the logits of teacher and student, which softens their outputs.
  c.distill.temperature = 1.0
  # Weight of the loss on the labels, 0 to 1; the teacher's has the rest.
  c.distill.label_weight = 0.0

  c.schedule = s = ml_collections.ConfigDict()
  s.total = ""  # Duration; '': by the HyperRule.
  s.warmup = ""  # Duration; '': by the HyperRule.
  s.decay_at = ""  # Durations separated by ','; '': by the HyperRule.
  s.decay_factor = 0.1  # Factor for the learning rate at each of decay_at.

  c.optim = o = ml_collections.ConfigDict()
  o.lr = 0.003
  # > 0: lr is meant for this batch size and scales with the actual one.
  o.lr_batch_size = 0
  o.momentum = 0.9
  # Dtype of the stored momentum: float32 or bfloat16.
  o.momentum_dtype = "float32"
  o.weight_decay = 0.0  # Coupled L2, on kernels only.
  # True: the equivalent decay is applied outside the momentum instead.
  o.decoupled = False
  # Parts that the batch is split into and that are computed one after another;
  # 0: as few as fit in the memory of a device. The updates are the same.
  o.accum_steps = 0
  # Patterns of the paths of parameters that are not trained, e.g.
  # ('root_block', 'block1/').
  o.freeze = ()

  c.parallel = ml_collections.ConfigDict()
  # True: parameters and momentum are split over the devices.
  c.parallel.shard_state = False

  c.eval = e = ml_collections.ConfigDict()
  e.every_steps = 0  # 0: at the end only.
  e.batch_size = 0  # Of all devices together; 0: at most 64 a device.
  # > 0: the run ends after this number of evaluations without a better value of
  # checkpoint.keep_best; 0: it makes all its steps.
  e.early_stop_evals = 0
  # Data sets for few-shot linear evaluation, separated by ','.
  e.fewshot = ""
  e.fewshot_shots = (1, 5, 10, 25)  # Examples per class.

  c.checkpoint = k = ml_collections.ConfigDict()
  k.every_steps = 1000  # 0: at the end only.
  # Newest checkpoints to keep; two, so that a damaged one costs only one
  # interval.
  k.keep = 2
  # > 0: checkpoints at multiples of this number of steps are kept as well.
  k.keep_every_steps = 0
  # A metric of an evaluation split that is no test split, such as
  # validation/accuracy: the best state by it is kept as well; '': none.
  k.keep_best = ""
  # True: params.npz and result.json are of that state, not of the last one.
  k.best_params = False

  # Products of the rules for this run, filled in at start; not to be set.
  c.resolved = r = ml_collections.ConfigDict()
  r.num_classes = 0
  r.train_examples = 0
  r.data_fingerprint = ""  # Changes when examples, order or labels do.
  r.total_steps = 0
  r.peak_lr = 0.0
  r.warmup_steps = 0
  r.decay_steps = ()
  r.mixup_alpha = 0.0
  r.resize_px = 0
  r.crop_px = 0
  r.flip = False
  r.objective = ""  # An objective that was passed in Python, as text.
  r.accum_steps = 0  # Chosen once; kept when the run is resumed.
  r.fixed_digest = ""  # Changes with any bit of the objective's fixed arrays.
  return c


def set_data(
  c: ml_collections.ConfigDict, args: dict, *, default_dataset: str
) -> None:
  """Fills `c.data` from the arguments that all recipes share."""
  c.data.name = args["dataset"] or default_dataset
  c.data.dir = args["data_dir"]
  c.data.examples_per_class = args["examples_per_class"]
