"""Other implementations to compare with, if they are installed.

Their packages are imported only on demand. Each does the same work as bit_jax:
uint8 images are on the device and scaled there; batch, classes, input size and
precision are equal; SGD with momentum 0.9 and weight decay 1e-4, and softmax
cross-entropy. bit_jax also computes the norms of gradient and update.
"""

import importlib
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bit_jax.errors import one_line
from bit_jax.recipe.load import Config
from scripts.benchmark.flags import TF_DATA, TIMM, Case
from scripts.benchmark.steps import Subject


def timm_name(variant: str) -> str:
  """Returns timm's name of a variant, e.g. resnetv2_50x1_bit; '' if none."""
  depth_and_width = re.fullmatch(r"R(\d+)x(\d+)", variant)
  return f"resnetv2_{variant[1:]}_bit" if depth_and_width else ""


class Timm:
  """timm's network in PyTorch, in channels_last, with autocast for bfloat16."""

  def __init__(
    self,
    name: str,
    case: Case,
    config: Config,
    *,
    platform: str,
    tf32: bool,
  ):
    """Builds the model, compiles it if asked to, and runs three steps.

    Args:
      name: A key of TIMM.
      case: The case, for its mode and variant.
      config: The resolved config of the case.
      platform: Platform of JAX's devices, cpu or gpu; PyTorch uses the same.
      tf32: Allows float32 to be multiplied as TF32.

    Raises:
      ImportError: PyTorch or timm is not installed.
      RuntimeError: Memory does not suffice, there is no such device, or PyTorch
        fails in another way.
    """
    self._torch: Any = importlib.import_module("torch")
    timm: Any = importlib.import_module("timm")
    torch, self.name = self._torch, name
    self._device = {"gpu": "cuda"}.get(platform, platform)
    if self._device == "cuda":
      torch.backends.cudnn.benchmark = True
      torch.backends.cudnn.allow_tf32 = tf32
      torch.backends.cuda.matmul.allow_tf32 = tf32
      torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    classes = config.resolved.num_classes
    model = timm.create_model(timm_name(case.variant), num_classes=classes)
    self._model = model.to(self._device, memory_format=torch.channels_last)
    self._train = case.mode != "infer"
    self._model.train(self._train)
    self._optimizer = torch.optim.SGD(
      self._model.parameters(),
      lr=config.resolved.peak_lr,
      momentum=config.optim.momentum,
      weight_decay=config.optim.weight_decay,
    )
    self._parts = config.optim.accum_steps if self._train else 1
    self._bfloat16 = config.model.dtype == "bfloat16"
    rng, rows = np.random.default_rng(0), config.input.batch_size
    px = config.resolved.crop_px
    images = rng.integers(0, 256, (rows, px, px, 3)).astype(np.uint8)
    self._images = torch.from_numpy(images).to(self._device)
    labels = rng.integers(0, classes, rows)
    self._labels = torch.from_numpy(labels).to(self._device)
    mode = TIMM[name]
    # PyTorch compiles in the first steps, which are therefore run here.
    self._forward = torch.compile(self._model, mode=mode) if mode else model
    start = time.perf_counter()
    self.run(3)
    self.compile_secs = time.perf_counter() - start if mode else 0.0

  def _logits(self, images):
    torch = self._torch
    # A permuted view of [N, H, W, 3] as [N, 3, H, W] has the memory layout of
    # channels_last.
    images = images.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
    with torch.autocast(
      self._device, dtype=torch.bfloat16, enabled=self._bfloat16
    ):
      return self._forward(images).float()

  def _train_step(self):
    self._optimizer.zero_grad(set_to_none=True)
    parts = zip(
      self._images.chunk(self._parts),
      self._labels.chunk(self._parts),
      strict=True,
    )
    for images, labels in parts:
      loss = self._torch.nn.functional.cross_entropy(
        self._logits(images), labels
      )
      (loss / self._parts).backward()
    self._optimizer.step()

  def run(self, steps: int) -> None:
    """Runs some steps and waits until they are done."""
    for _ in range(steps):
      if self._train:
        self._train_step()
      else:
        with self._torch.inference_mode():
          self._logits(self._images)
    if self._device == "cuda":
      self._torch.cuda.synchronize()

  def memory(self) -> dict[str, Any]:
    """Returns the peaks in bytes that PyTorch reports on a GPU; {} on a CPU."""
    if self._device != "cuda":
      return {}
    cuda = self._torch.cuda
    return {
      "peak_bytes": cuda.max_memory_allocated(),
      "reserved_bytes": cuda.max_memory_reserved(),
    }


def make(
  names: Sequence[str],
  case: Case,
  config: Config,
  *,
  platform: str,
  num_devices: int,
  tf32: bool,
) -> tuple[list[Subject], list[str]]:
  """Builds the peers that can be compared.

  Args:
    names: Keys of TIMM.
    case: The case to measure.
    config: The resolved config of the case.
    platform: Platform of JAX's devices.
    num_devices: Number of devices that bit_jax uses.
    tf32: Allows float32 to be multiplied as TF32.

  Returns:
    (peers, notes): the peers, warmed up, and a line about each missing one.
  """
  peers: list[Subject] = []
  notes = []
  for name in names:
    if not timm_name(case.variant):
      notes.append(f"{name} is not compared: it has no {case.variant}")
    elif platform not in ("cpu", "gpu"):
      notes.append(f"{name} is not compared: it runs on CPUs and GPUs")
    elif num_devices > 1:
      notes.append(
        f"{name} is not compared: it uses one device, we {num_devices}; "
        f"--devices=1 compares"
      )
    else:
      try:
        peers.append(Timm(name, case, config, platform=platform, tf32=tf32))
      except ImportError as e:
        notes.append(f"{name} is not compared: {one_line(e)}")
      # Whatever error a peer raises, bit_jax is still measured.
      except Exception as e:
        notes.append(f"{name} fails: {one_line(e)[:300]}")
  if peers:
    torch: Any = importlib.import_module("torch")
    notes.append(f"torch uses {torch.get_num_threads()} CPU threads")
  return peers, notes


class TfData:
  """tf.data with fused decode and crop, as in TensorFlow's ImageNet code."""

  name = TF_DATA
  compile_secs = 0.0

  def __init__(self, images: Sequence[bytes], px: int, batch: int):
    """Builds the pipeline over JPEGs in memory.

    Args:
      images: Encoded JPEGs.
      px: Side of the output images.
      batch: Images per batch.

    Raises:
      ImportError: TensorFlow is not installed.
    """
    self._tf: Any = importlib.import_module("tensorflow")
    self._px, data = px, self._tf.data
    ds = data.Dataset.from_tensor_slices(list(images)).repeat()
    ds = ds.map(self._crop, num_parallel_calls=data.AUTOTUNE)
    self._batches = ds.batch(batch).prefetch(2)

  def _crop(self, data):
    tf = self._tf
    start, size, _ = tf.image.sample_distorted_bounding_box(
      tf.io.extract_jpeg_shape(data),
      tf.zeros((1, 0, 4)),
      area_range=(0.05, 1.0),
      aspect_ratio_range=(3 / 4, 4 / 3),
      min_object_covered=0.0,
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat((start[:2], size[:2]), 0)
    image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
    image = tf.image.resize(image, (self._px, self._px))
    return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

  def run(self, steps: int) -> None:
    """Reads some batches uint8[batch, px, px, 3], each time from the start."""
    for _ in zip(range(steps), self._batches.as_numpy_iterator(), strict=False):
      pass

  def memory(self) -> dict[str, Any]:
    """Returns {}: its share of the process's memory is unknown."""
    return {}
