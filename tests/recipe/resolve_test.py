import pytest

from bit_jax.data import preprocess, source
from bit_jax.errors import InputError
from bit_jax.recipe import resolve
from configs import common, downstream, upstream

IMAGENET = source.DatasetInfo(1_281_167, 1000, (375, 500))
CIFAR = source.DatasetInfo(50_000, 10, (32, 32))
DIGITS = source.DatasetInfo(50, 10, (32, 32), native_px=32, flip=False)


def resolved(config, info):
  return resolve.resolve(config, info).resolved


@pytest.mark.parametrize(
  ("text", "steps"),
  [
    ("90 epochs", 9000),
    ("1 epoch", 100),
    ("0.5epochs", 50),
    ("5000 steps", 5000),
    ("17.8 %", 178),
  ],
)
def test_durations(text, steps):
  got = resolve.parse_duration(
    text, "key", steps_per_epoch=100, total_steps=1000
  )
  assert got == pytest.approx(steps)


@pytest.mark.parametrize("text", ["", "90", "epochs", "-1 epochs", "9 hours"])
def test_bad_durations(text):
  with pytest.raises(InputError, match=r"config\.x=.*expected e\.g\."):
    resolve.parse_duration(text, "config.x", steps_per_epoch=1, total_steps=1)


def test_total_must_be_something():
  config = upstream.get_config()
  config.schedule.total, config.total_steps = "0 steps", 5
  with pytest.raises(InputError, match="total='0 steps': expected more than 0"):
    resolve.resolve(config, IMAGENET)


def test_total_cannot_be_a_share_of_itself():
  config = upstream.get_config()
  config.schedule.total = "50 %"
  with pytest.raises(InputError, match=r"config\.schedule\.total='50 %'"):
    resolve.resolve(config, IMAGENET)


@pytest.mark.parametrize(
  ("preset", "num_examples", "total", "decays", "loss"),
  [
    ("bit_s", 1_281_167, 28_151, (9_384, 18_767, 25_023), "softmax"),
    ("bit_m", 14_197_122, 311_948, (103_983, 207_966, 277_288), "sigmoid"),
    (
      "bit_l",
      300_000_000,
      2_929_688,
      (732_422, 1_684_570, 2_197_266, 2_709_961),
      "sigmoid",
    ),
  ],
)
def test_upstream_is_the_papers(preset, num_examples, total, decays, loss):
  config = upstream.get_config(f"preset={preset}")
  info = source.DatasetInfo(num_examples, 1000, (375, 500))
  r = resolved(config, info)
  assert (r.total_steps, r.decay_steps) == (total, decays)
  assert r.warmup_steps == 5000
  assert r.peak_lr == pytest.approx(0.48)
  assert (config.loss, config.input.batch_size) == (loss, 4096)
  assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 1e-4)
  assert r.mixup_alpha == 0
  way = resolve.train_preprocess(resolve.resolve(config, info))
  assert way == preprocess.upstream_train(224)


def test_learning_rate_follows_the_batch():
  config = upstream.get_config()
  config.input.batch_size = 512
  assert resolved(config, IMAGENET).peak_lr == pytest.approx(0.06)


def test_small_upstream_keeps_bit_s_proportions():
  big = resolved(upstream.get_config(), IMAGENET)
  small = resolved(upstream.get_config("preset=small"), CIFAR)
  for key in ("warmup_steps",):
    assert small[key] / small.total_steps == pytest.approx(
      big[key] / big.total_steps, abs=1e-3
    )
  for a, b in zip(small.decay_steps, big.decay_steps, strict=True):
    assert a / small.total_steps == pytest.approx(b / big.total_steps, abs=1e-3)


@pytest.mark.parametrize("preset", ["bit_s", "bit_m", "bit_l", "small"])
def test_upstream_on_small_images_keeps_their_size(preset):
  config = upstream.get_config(f"preset={preset}")
  assert resolved(config, CIFAR).crop_px == 32
  assert resolved(config, IMAGENET).crop_px == 224
  config = resolve.resolve(config, DIGITS)
  assert resolve.train_preprocess(config) == preprocess.Preprocess("none", 32)
  assert resolve.eval_preprocess(config) == preprocess.Preprocess("none", 32)


@pytest.mark.parametrize(
  ("make", "train", "evaluation"),
  [
    (
      upstream.get_config,
      preprocess.upstream_train(224, flip=False),
      preprocess.central(256, 224),
    ),
    (
      downstream.get_config,
      preprocess.hyperrule_train(448, 384, flip=False),
      preprocess.hyperrule_test(384),
    ),
  ],
)
def test_preprocessing_of_recipes(make, train, evaluation):
  config = make()
  config.input.flip = False
  config = resolve.resolve(config, IMAGENET)
  assert resolve.train_preprocess(config) == train
  assert resolve.eval_preprocess(config) == evaluation


@pytest.mark.parametrize(
  ("preset", "batch", "lr", "decays", "imagenet_px"),
  [
    ("paper", 512, 0.003, (150, 300, 450), (448, 384)),
    ("code", 512, 0.003, (200, 300, 400), (512, 480)),
    ("light", 128, 0.001, (200, 300, 400), (512, 480)),
    ("quick", 32, 0.01, (45, 90, 135), (40, 32)),
  ],
)
def test_downstream_presets(preset, batch, lr, decays, imagenet_px):
  config = downstream.get_config(f"preset={preset}")
  assert (config.input.batch_size, config.optim.lr) == (batch, lr)
  assert config.optim.weight_decay == 0
  assert not config.init.keep_head
  few = resolved(config, source.DatasetInfo(1000, 10, (32, 32)))
  assert few.decay_steps == decays
  assert few.mixup_alpha == 0
  large = resolved(config, IMAGENET)
  assert (large.resize_px, large.crop_px) == imagenet_px
  assert large.mixup_alpha == 0.1
  if preset != "quick":
    assert (large.total_steps, large.warmup_steps) == (20_000, 500)
    assert resolved(config, CIFAR).crop_px == 128


def test_overriding_total_steps_scales_everything():
  config = downstream.get_config()
  config.total_steps = 50
  r = resolved(config, source.DatasetInfo(1000, 10, (32, 32)))
  assert (r.total_steps, r.warmup_steps) == (50, 10)
  assert r.decay_steps == (15, 30, 45)
  config = upstream.get_config()
  config.total_steps = 2815
  r = resolved(config, IMAGENET)
  assert (r.total_steps, r.warmup_steps) == (2815, 500)


def test_overrides_beat_rules():
  config = downstream.get_config()
  config.input.resize_px, config.input.crop_px = 72, 64
  config.schedule.warmup, config.mixup_alpha = "7 steps", 0.3
  config.schedule.decay_at = "10 steps, 50 %"
  r = resolved(config, CIFAR)
  assert (r.resize_px, r.crop_px) == (72, 64)
  assert (r.warmup_steps, r.mixup_alpha) == (7, 0.3)
  assert r.decay_steps == (10, 5000)


def test_no_flip_where_it_changes_the_class():
  config = downstream.get_config()
  assert resolved(config, CIFAR).flip
  assert not resolved(config, DIGITS).flip
  config.input.flip = False
  assert not resolved(config, CIFAR).flip


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("num_classes", 11, "num_classes=11, but .* has 10 classes"),
    ("hyperrule", "", "config.schedule.total is empty"),
    ("hyperrule", "x", "'x': expected paper or code"),
  ],
)
def test_contradictions(key, value, message):
  config = downstream.get_config()
  config[key] = value
  with pytest.raises(InputError, match=message):
    resolve.resolve(config, CIFAR)


def test_crop_larger_than_resize():
  config = downstream.get_config()
  config.input.crop_px = 200
  with pytest.raises(InputError, match=r"crop_px=200 .*resize_px=160"):
    resolve.resolve(config, CIFAR)


def test_resolving_leaves_the_config_as_it_was():
  config = downstream.get_config()
  before = config.to_json()
  resolve.resolve(config, CIFAR)
  assert config.to_json() == before


def test_no_default_is_none_so_that_every_key_can_be_overridden():
  def values(tree):
    for value in tree.values():
      yield from values(value) if hasattr(value, "values") else [value]

  assert None not in list(values(common.get_config()))


@pytest.mark.parametrize(
  ("resize_px", "crop_px", "message"),
  [
    (
      *(40, 0),
      "config.input.resize_px=40, yours or of the preset, is smaller than "
      "the crop of 128 px that "
      "config.hyperrule='paper' gives for images of 32 x 32 px, as "
      "config.input.crop_px=0; expected both sizes",
    ),
    (
      *(0, 200),
      "config.input.crop_px=200 is larger than the resize_px=160 that "
      "config.hyperrule='paper' gives for images of 32 x 32 px, as "
      "config.input.resize_px=0; expected both sizes",
    ),
    (
      40,
      50,
      "config.input.crop_px=50 is larger than config.input.resize_px=4",
    ),
  ],
)
def test_sizes_that_contradict_each_other_name_who_gave_them(
  resize_px, crop_px, message
):
  config = downstream.get_config("preset=quick")
  config.input.resize_px, config.input.crop_px = resize_px, crop_px
  with pytest.raises(InputError, match=f"^{message}"):
    resolve.resolve(config, CIFAR)


def test_a_larger_crop_of_pre_training_needs_no_other_size():
  config = upstream.get_config("preset=bit_s")
  config.input.crop_px = 384
  assert resolved(config, IMAGENET).crop_px == 384


def test_mixup_of_a_rule_that_is_not_there():
  config = downstream.get_config("preset=quick")
  config.hyperrule, config.schedule.warmup = "", "10 %"
  config.schedule.decay_at = "50 %"
  with pytest.raises(InputError, match=r"mixup_alpha=-1 stands for the rule's"):
    resolve.resolve(config, CIFAR)
