from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from scripts.benchmark import mfu, steps
from scripts.benchmark.flags import Case


def count(function, *shapes):
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return mfu.matmul_flops(function, *arrays)


def conv(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def test_flops_of_one_operation():
  # Three outputs of four products each; other operations do not count.
  assert count(lambda x, w: jax.nn.relu(x @ w) * 2, (3, 4), (4, 5)) == 120
  # 2 x 3 x 3 x 8 outputs of 3 x 3 x 4 products.
  expected = 2 * (2 * 3 * 3 * 8) * (3 * 3 * 4)
  assert count(conv, (2, 6, 6, 4), (3, 3, 4, 8)) == expected


def test_flops_within_functions_and_loops():
  def loop(x, w):
    return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), 0), x, None, 7)

  assert count(loop, (3, 4), (4, 4)) == 7 * 2 * 3 * 4 * 4
  both = jax.checkpoint(lambda x, w: x @ w @ w)
  assert count(both, (3, 4), (4, 4)) == 2 * 2 * 3 * 4 * 4


def test_flops_of_r50x1_are_those_of_its_layers(one_device):
  macs, side, inputs = 112**2 * 64 * 7 * 7 * 3, 56, 64
  for stage, units in enumerate((3, 4, 6, 3)):
    inner = 64 * 2**stage
    for unit in range(units):
      macs += side**2 * inputs * inner
      if unit == 0:
        side //= 1 if stage == 0 else 2
        macs += side**2 * inputs * 4 * inner
      macs += side**2 * inner * inner * 9 + side**2 * inner * 4 * inner
      inputs = 4 * inner
  macs += 2048 * 1000
  config = steps.make_config(Case("train", batch=3), one_device)
  assert steps.forward_flops(config) == 3 * 2 * macs
  assert 4.0e9 < macs < 4.2e9


def test_mfu():
  peak = mfu.Peak(1e12, "")
  assert mfu.mfu(3e12, 2.0, peak, 3) == pytest.approx(0.5)


@pytest.mark.parametrize(
  ("kind", "dtype", "tf32", "teraflops"),
  [
    ("NVIDIA H200", "bfloat16", True, 989.4),
    ("NVIDIA H200", "float32", True, 494.7),
    ("NVIDIA H200", "float32", False, 66.9),
    ("NVIDIA H100 80GB HBM3", "bfloat16", True, 989.4),
    ("NVIDIA H100 PCIe", "bfloat16", True, 756.5),
    ("NVIDIA A100-SXM4-40GB", "bfloat16", True, 312.0),
    ("NVIDIA A100-SXM4-40GB", "float32", True, 156.0),
    ("Tesla V100-SXM2-16GB", "float32", True, 15.7),
    ("Tesla V100-PCIE-16GB", "float32", True, 14.0),
    ("TPU v2", "bfloat16", True, 22.5),
    ("TPU v3", "float32", True, 61.5),
    ("TPU v4", "bfloat16", True, 275.0),
    ("TPU v5 lite", "bfloat16", True, 197.0),
    ("TPU v5", "bfloat16", True, 459.0),
    ("TPU v6 lite", "bfloat16", True, 918.0),
  ],
)
def test_known_peaks(kind, dtype, tf32, teraflops):
  peak = mfu.known_peak(kind, dtype, tf32=tf32)
  assert peak is not None
  assert peak.flops_per_sec == teraflops * 1e12
  assert not peak.measured


@pytest.mark.parametrize(
  ("kind", "dtype"),
  [("cpu", "float32"), ("Tesla V100-SXM2-16GB", "bfloat16"), ("TPU v9", "")],
)
def test_unknown_peaks(kind, dtype):
  assert mfu.known_peak(kind, dtype, tf32=True) is None


def test_peak_is_measured_where_it_is_not_known():
  device = jax.devices()[0]
  # Every matmul takes one second on this clock.
  clock = mock.Mock(side_effect=range(100))
  peak = mfu.measure_peak(device, "bfloat16", clock=clock, size=16, rounds=2)
  assert peak.flops_per_sec == 2 * 16**3
  assert peak.measured
  assert "16^3" in peak.what
  measured = mfu.Peak(1.0, "", measured=True)
  with mock.patch.object(mfu, "measure_peak", return_value=measured):
    found = mfu.find_peak(device, "float32", tf32=True, clock=clock)
    assert found is measured
    gpu = mock.Mock(device_kind="NVIDIA H200")
    found = mfu.find_peak(gpu, "float32", tf32=True, clock=clock)
    assert not found.measured
