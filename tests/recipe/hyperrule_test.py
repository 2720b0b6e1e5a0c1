import json
import pathlib

import pytest

from bit_jax.errors import InputError
from bit_jax.recipe import hyperrule
from bit_jax.run import optim

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "goldens" / "hyperrule.json").read_text()
)


@pytest.mark.parametrize("num_examples", GOLDEN["rule"])
def test_code_preset_gives_what_the_official_code_gives(num_examples):
  golden = GOLDEN["rule"][num_examples]
  rule = hyperrule.rule(int(num_examples), "code")
  points = [rule.warmup_steps, *rule.decay_steps, rule.total_steps]
  assert points == golden["schedule"]
  assert rule.mixup_alpha == golden["mixup"]
  schedule = optim.step_schedule(
    0.003, rule.warmup_steps, rule.decay_steps, one_late=True
  )
  for finished, lr in golden["lr"].items():
    if lr is None:
      assert int(finished) >= rule.total_steps
    else:
      assert float(schedule(int(finished))) == pytest.approx(lr, rel=1e-5)


@pytest.mark.parametrize("size", GOLDEN["resolution"])
def test_code_preset_resolution(size):
  height, width = map(int, size.split("x"))
  expected = tuple(GOLDEN["resolution"][size])
  assert hyperrule.resolution(height, width, "code", "R50x1") == expected


@pytest.mark.parametrize(
  ("num_examples", "total", "decays", "alpha"),
  [
    (10, 500, (150, 300, 450), 0.0),
    (19_999, 500, (150, 300, 450), 0.0),
    (20_000, 10_000, (3_000, 6_000, 9_000), 0.1),
    (499_999, 10_000, (3_000, 6_000, 9_000), 0.1),
    (500_000, 20_000, (6_000, 12_000, 18_000), 0.1),
  ],
)
def test_paper_preset(num_examples, total, decays, alpha):
  rule = hyperrule.rule(num_examples, "paper")
  assert rule.total_steps == total
  assert rule.decay_steps == decays
  assert rule.mixup_alpha == alpha
  # 30, 60 and 90 %.
  assert rule.decay_steps == tuple(total * p // 100 for p in (30, 60, 90))


@pytest.mark.parametrize(
  ("size", "variant", "expected"),
  [
    ((95, 97), "R50x1", (160, 128)),  # 9215 pixels, just below 96 * 96.
    ((96, 96), "R50x1", (448, 384)),
    ((32, 32), "R152x4", (160, 128)),
    ((500, 375), "R152x2", (448, 384)),
    ((500, 375), "R152x4", (512, 480)),
  ],
)
def test_paper_preset_resolution(size, variant, expected):
  assert hyperrule.resolution(*size, "paper", variant) == expected


def test_unknown_preset():
  with pytest.raises(InputError, match="'papers': expected paper or code"):
    hyperrule.rule(100, "papers")
  with pytest.raises(InputError, match="hyperrule"):
    hyperrule.resolution(32, 32, "", "R50x1")
