"""Tests of the peers, with fakes in place of their packages."""

import sys
from unittest import mock

import pytest

from scripts.benchmark import peers, steps
from scripts.benchmark.flags import Case


class Tensor(mock.MagicMock):
  """A tensor whose conversions return itself, and which chunk splits."""

  def _same(self, *args):
    return self

  to = permute = float = div = sub = _same

  def chunk(self, parts):
    return [self] * parts


@pytest.fixture
def torch(monkeypatch):
  fake = mock.MagicMock()
  fake.from_numpy.side_effect = lambda x: Tensor(shape=x.shape, dtype=x.dtype)
  fake.get_num_threads.return_value = 2
  monkeypatch.setitem(sys.modules, "torch", fake)
  return fake


@pytest.fixture
def timm(monkeypatch):
  fake = mock.MagicMock()
  model = fake.create_model.return_value
  model.to.return_value = model
  monkeypatch.setitem(sys.modules, "timm", fake)
  return fake


def make(names, mesh, *, mode="train", platform="cpu", tf32=True, **kwargs):
  case = Case(mode, "R50x1", 32, 4, classes=10, **kwargs)
  return peers.make(
    names,
    case,
    steps.make_config(case, mesh),
    platform=platform,
    num_devices=mesh.size,
    tf32=tf32,
  )


def test_names():
  assert peers.timm_name("R152x4") == "resnetv2_152x4_bit"
  assert peers.timm_name("R14x0.5") == ""


@pytest.mark.parametrize("package", ["torch", "timm"])
def test_a_missing_package_is_one_line(
  package, torch, timm, one_device, monkeypatch
):
  monkeypatch.setitem(sys.modules, package, None)
  found, notes = make(["timm", "timm_compiled"], one_device)
  assert found == []
  assert len(notes) == 2
  assert notes[0].startswith("timm is not compared: ")
  assert package in notes[0]
  assert "\n" not in notes[0]


def test_what_cannot_be_compared_is_not_loaded(mesh, monkeypatch):
  monkeypatch.setattr(peers, "Timm", mock.Mock(side_effect=AssertionError))
  _, notes = make(["timm"], mesh)
  assert "it uses one device, we 4" in notes[0]
  case = Case("train", "R14x0.5", 32, 4, classes=10)
  _, notes = peers.make(
    *(["timm"], case, steps.make_config(case, mesh)),
    **{"platform": "cpu", "num_devices": 1, "tf32": True},
  )
  assert notes == ["timm is not compared: it has no R14x0.5"]
  _, notes = peers.make(
    *(["timm"], Case("train"), steps.make_config(case, mesh)),
    **{"platform": "tpu", "num_devices": 1, "tf32": True},
  )
  assert notes == ["timm is not compared: it runs on CPUs and GPUs"]


def test_a_peer_that_fails_is_one_line(torch, timm, one_device):
  timm.create_model.side_effect = RuntimeError("CUDA out of memory.\nTried")
  found, notes = make(["timm"], one_device)
  assert found == []
  assert notes == ["timm fails: CUDA out of memory. Tried"]


def test_training_is_that_of_the_config(torch, timm, one_device):
  (peer,), notes = make(
    ["timm"], one_device, overrides=("optim.accum_steps=2",)
  )
  assert notes == ["torch uses 2 CPU threads"]
  timm.create_model.assert_called_once_with("resnetv2_50x1_bit", num_classes=10)
  model = timm.create_model.return_value
  model.to.assert_called_once_with("cpu", memory_format=torch.channels_last)
  model.train.assert_called_once_with(True)
  sgd = torch.optim.SGD
  assert sgd.call_args.kwargs == {
    "lr": pytest.approx(0.03 * 4 / 256),
    "momentum": 0.9,
    "weight_decay": 1e-4,
  }
  images, labels = (c.args[0] for c in torch.from_numpy.call_args_list)
  assert images.shape == (4, 32, 32, 3)
  assert labels.shape == (4,)
  torch.autocast.assert_called_with("cpu", dtype=torch.bfloat16, enabled=False)
  torch.compile.assert_not_called()
  assert peer.compile_secs == 0
  loss = torch.nn.functional.cross_entropy
  before = loss.call_count
  assert sgd.return_value.step.call_count == 3  # To warm up.
  peer.run(2)
  assert sgd.return_value.step.call_count == 5
  assert sgd.return_value.zero_grad.call_count == 5
  assert loss.call_count == before + 4  # Two parts a step.
  assert peer.memory() == {}


@pytest.mark.parametrize("tf32", [True, False])
def test_on_a_gpu_precision_is_ours(tf32, torch, timm, one_device):
  torch.cuda.max_memory_allocated.return_value = 7
  torch.cuda.max_memory_reserved.return_value = 8
  (peer,), _ = make(["timm"], one_device, platform="gpu", tf32=tf32)
  assert torch.backends.cudnn.benchmark is True
  assert torch.backends.cudnn.allow_tf32 is tf32
  assert torch.backends.cuda.matmul.allow_tf32 is tf32
  assert timm.create_model.return_value.to.call_args.args == ("cuda",)
  before = torch.cuda.synchronize.call_count
  peer.run(5)
  assert torch.cuda.synchronize.call_count == before + 1
  assert peer.memory() == {"peak_bytes": 7, "reserved_bytes": 8}


@pytest.mark.parametrize(
  ("name", "mode"),
  [("timm_compiled", "default"), ("timm_max_autotune", "max-autotune")],
)
def test_compiled_inference_in_bfloat16(name, mode, torch, timm, one_device):
  (peer,), _ = make([name], one_device, mode="infer", dtype="bfloat16")
  model = timm.create_model.return_value
  torch.compile.assert_called_once_with(model, mode=mode)
  model.train.assert_called_once_with(False)
  torch.autocast.assert_called_with("cpu", dtype=torch.bfloat16, enabled=True)
  torch.inference_mode.assert_called()
  torch.optim.SGD.return_value.step.assert_not_called()
  assert torch.compile.return_value.call_count == 3
  model.assert_not_called()
  assert peer.compile_secs > 0


def test_tf_data_reads_batches(monkeypatch):
  fake = mock.MagicMock()
  monkeypatch.setitem(sys.modules, "tensorflow", fake)
  peer = peers.TfData([b"a", b"b"], 32, 4)
  ds = fake.data.Dataset.from_tensor_slices
  ds.assert_called_once_with([b"a", b"b"])
  mapped = ds.return_value.repeat.return_value.map
  batched = mapped.return_value.batch
  batched.assert_called_once_with(4)
  read = []
  iterator = batched.return_value.prefetch.return_value.as_numpy_iterator
  iterator.side_effect = lambda: map(read.append, range(100))
  peer.run(3)
  assert read == [0, 1, 2]
  box = fake.image.sample_distorted_bounding_box
  box.return_value = [1, 2, 3], [4, 5, -1], None
  peer._crop(b"a")
  fake.concat.assert_called_once_with(([1, 2], [4, 5]), 0)
  assert box.call_args.kwargs["area_range"] == (0.05, 1.0)
  assert peer.memory() == {}
