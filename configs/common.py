"""Every config key there is, with its unit and its neutral value.

A config holds rules ("divide by 10 after 30 epochs"), not their products (steps
of this run). `bit_jax.recipe.resolve` makes the products once at start, when
the data set is known, and stores them under `config.resolved`. No default is
None, so each key can be overridden from the command line.

Durations are strings: a number and a unit, `90 epochs`, `5000 steps` or `30 %`
(of the whole run). Overriding `config.total_steps` keeps their proportions.
"""

import ml_collections

from bit_jax.errors import UsageError


def parse_arg(arg: str | None, **defaults: str | int | float) -> dict:
  """Parses `key=value,key=value` as it follows a config file's name.

  Args:
    arg: the text after the colon; None or '' for nothing.
    **defaults: the keys that may be given, with their values otherwise; a
      value is converted to its default's type.

  Returns:
    {key: value} for all keys of defaults.

  Raises:
    UsageError: a key is unknown, given twice, or its value has the wrong type.
  """
  values, given = dict(defaults), set()
  for item in filter(None, (arg or "").split(",")):
    key, _, text = item.partition("=")
    if key not in defaults or "=" not in item or key in given:
      expected = ", ".join(f"{k}=..." for k in defaults)
      raise UsageError(
        f"config argument {item!r}: expected one each of {expected}"
      )
    given.add(key)
    kind = type(defaults[key])
    try:
      values[key] = kind(text)
    except ValueError as e:
      raise UsageError(
        f"config argument {item!r}: expected {key}=<{kind.__name__}>"
      ) from e
  return values


def get_config() -> ml_collections.ConfigDict:
  """Returns all keys with neutral values; recipes fill in theirs."""
  c = ml_collections.ConfigDict()
  c.seed = 0  # Of initial weights, order, augmentation, mixup and subsets.
  c.num_classes = 0  # 0: as the data set says; else it must agree.
  c.objective = "classify"  # What is learned: classify or distill.
  c.loss = "softmax"  # softmax, or sigmoid (sum over classes).
  c.mixup_alpha = 0.0  # 0: none; < 0: what the HyperRule says.
  c.hyperrule = ""  # paper or code: gives what schedule and input leave open.
  c.total_steps = 0  # > 0 overrides schedule.total, all else in proportion.
  c.log_every_steps = 50
  c.watchdog_mins = 30.0  # Without a step before stacks are shown; 0: never.
  c.resume_changed = False  # Go on although config or data have changed.

  c.data = d = ml_collections.ConfigDict()
  d.name = ""  # A TFDS name, folder:PATH, glyphs or digits.
  d.dir = ""  # Where TFDS sets are; '': TFDS's own default.
  d.label_key = "label"  # The TFDS feature with the labels, or a name of
  # bit_jax.data.sets.derived_labels.DERIVED.
  d.image_scale = 1  # Stored pixel values (TFDS) are multiplied with it.
  d.percent_floor = False  # Percentages round down; False: to the closest.
  d.train_split = ""  # E.g. train[:98%] or train[90%:][:200]; '': train.
  d.eval_splits = ""  # Separated by ','; '': test, else validation, if any.
  d.class_list = ""  # A file, one name a line: the classes and their order
  # that the data set must have, e.g. the wnids of ImageNet-21k.
  d.examples_per_class = 0  # > 0: a balanced subset drawn with subset_seed.
  d.subset_seed = -1  # < 0: config.seed.
  d.subset_file = ""  # JSON that keeps the subset: read if it is there, else
  # written; without examples_per_class, any subset that is there.

  c.input = i = ml_collections.ConfigDict()
  i.batch_size = 512  # Global.
  i.train = "hyperrule"  # hyperrule (square resize, random crop), inception
  # (random box), or none (square resize to crop_px).
  i.eval = "square"  # square (resize to crop_px) or central (224 of 256).
  i.resize_px = 0  # Side before the crop; 0: by the rule.
  i.crop_px = 0  # Side the network sees; 0: by the rule.
  i.flip = True  # False: never; True: where the data set allows it.
  i.num_threads = 0  # That decode; 0: one for each core.
  i.cache_mb = 2048  # Of memory for decoded images, in each process: sets that
  # fit and are read more than once are decoded once; 0: none.

  c.model = m = ml_collections.ConfigDict()
  m.variant = "R50x1"
  m.dtype = "float32"  # Of the convolutions: float32 or bfloat16.
  m.head_bias = 0.0  # Initial value.
  m.norm = "gn"  # gn, or bn for the paper's ablation.
  m.weight_standardization = True  # False for the ablation.
  m.batch_group = 0  # With bn: examples that share statistics; 0: all.
  m.remat = "none"  # Computed again instead of kept for the backward pass:
  # none, norm (no convolution), unit or stage; each takes less memory.

  c.init = ml_collections.ConfigDict()
  c.init.checkpoint = ""  # A .npz, work directory or checkpoint; '': random.
  c.init.keep_head = False  # False: a new head of zeros.

  c.distill = ml_collections.ConfigDict()
  c.distill.teacher = ""  # Its weights: a .npz, work directory or checkpoint.
  c.distill.temperature = 1.0  # Softens the outputs of teacher and student.
  c.distill.label_weight = 0.0  # Share of the labels' own loss, 0 to 1.

  c.schedule = s = ml_collections.ConfigDict()
  s.total = ""  # Duration; '': by the HyperRule.
  s.warmup = ""  # Duration; '': by the HyperRule.
  s.decay_at = ""  # Durations separated by ','; '': by the HyperRule.
  s.decay_factor = 0.1

  c.optim = o = ml_collections.ConfigDict()
  o.lr = 0.003
  o.lr_batch_size = 0  # > 0: lr is for this batch and scales with it.
  o.momentum = 0.9
  o.momentum_dtype = "float32"  # That it is kept in: float32 or bfloat16.
  o.weight_decay = 0.0  # Coupled L2, on kernels only.
  o.decoupled = False  # True: the decay's equivalent outside the momentum.
  o.accum_steps = 1  # Parts the batch is computed in, one after the other.
  o.freeze = ()  # Patterns of parameter paths, e.g. ('root_block', 'block1/').

  c.parallel = ml_collections.ConfigDict()
  c.parallel.shard_state = False  # Parameters and momentum split over devices.

  c.eval = e = ml_collections.ConfigDict()
  e.every_steps = 0  # 0: at the end only.
  e.batch_size = 0  # Global; 0: at most 64 a device.
  e.fewshot = ""  # Sets for few-shot linear evaluation, separated by ','.
  e.fewshot_shots = (1, 5, 10, 25)  # Examples per class.

  c.checkpoint = k = ml_collections.ConfigDict()
  k.every_steps = 1000  # 0: at the end only.
  k.keep = 2  # The newest: one to fall back on if the other is damaged.
  k.keep_every_steps = 0  # > 0: those of its multiples stay as well.

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
  r.fixed_digest = ""  # Changes with any bit of the objective's fixed arrays.
  return c


def set_data(
  c: ml_collections.ConfigDict, args: dict, *, default_dataset: str
) -> None:
  """Fills `c.data` from the arguments that all recipes share."""
  c.data.name = args["dataset"] or default_dataset
  c.data.dir = args["data_dir"]
  c.data.examples_per_class = args["examples_per_class"]
