import pytest

from bit_jax.writers import metric_text


@pytest.mark.parametrize(
  ("name", "value", "text"),
  [
    ("eval/test/accuracy", 0.65714, "65.7 %"),
    ("eval/test/top5_accuracy", 1.0, "100.0 %"),
    ("train/mixed_accuracy", 0.5, "50.0 %"),
    ("5shot_accuracy", 0.0312, "3.1 %"),
    ("train/agreement", 0.25, "25.0 %"),
    ("train/input_wait", 0.003, "0.3 %"),
    ("eval/test/loss", 0.912345, "0.91234"),
    ("train/learning_rate", 3e-5, "3e-05"),
    ("eval/test/examples", 21, "21"),
  ],
)
def test_shares_are_in_per_cent(name, value, text):
  assert metric_text.number(name, value) == text


def test_hashes_are_for_programs():
  assert not metric_text.is_for_people("train/example_hash")
  assert metric_text.is_for_people("train/loss")
