"""Writes images as array_record shards; continues after an interruption."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bit_jax import progress
from bit_jax.errors import InputError, one_line
from bit_jax.storage import files
from bit_jax.tools.pack.images import Images, checked

# Many threads hide the latency of a network file system. Processes would gain
# little: a JPEG of 150 kB takes 0.4 ms of CPU time (measured), half of it in
# the kernel.
_NUM_THREADS = 32
_SIZE_SAMPLE = 1000
# Images are compressed already, and random access reads one at a time.
_RECORD_OPTIONS = "group_size:1,uncompressed"
_MAX_SHARDS = 99_999
STATE = "pack.json"


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of examples.

  Attributes:
    file: Name of the file.
    split: Name of the split.
    indices: int64[N], indices of the split's images in the order of the file.
  """

  file: str
  split: str
  indices: np.ndarray


@dataclasses.dataclass(frozen=True)
class Plan:
  """The shards to write.

  Attributes:
    shards: The shards of all splits.
    num_bytes: Estimated size of all images.
    fingerprint: A hash of the classes, shards, image names and labels, but not
      of the bytes of the images.
  """

  shards: Sequence[Shard]
  num_bytes: int
  fingerprint: str


def _order(images: Images) -> np.ndarray:
  """Returns int64[N], indices of the images in the order of a name hash."""
  hashes = (
    hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    for name in images.names
  )
  keys = (int.from_bytes(digest, "big") for digest in hashes)
  return np.argsort(np.fromiter(keys, np.uint64, len(images)), kind="stable")


def plan(
  name: str,
  class_names: Sequence[str],
  splits: Mapping[str, Images],
  shard_mib: float,
) -> Plan:
  """Divides the images of each split, in random order, into shards.

  Args:
    name: Name of the set, for the file names.
    class_names: The class names in order.
    splits: {split: images}.
    shard_mib: Approximate size of a shard in MiB.

  Raises:
    InputError: An image is missing.
  """
  shards, num_bytes = [], 0
  for split, images in splits.items():
    order = _order(images)
    # The order is random, so the first images are a random sample of the sizes.
    sizes = [images.num_bytes(int(i)) for i in order[:_SIZE_SAMPLE]]
    split_bytes = int(np.mean(sizes) * len(images))
    num_bytes += split_bytes
    count = round(split_bytes / (shard_mib * 2**20))
    count = min(max(count, 1), len(images), _MAX_SHARDS)
    for i, indices in enumerate(np.array_split(order, count)):
      file = f"{name}-{split}.array_record-{i:05}-of-{count:05}"
      shards.append(Shard(file, split, indices))
  identity = [list(class_names), [shard.file for shard in shards]]
  digest = hashlib.sha256(json.dumps(identity).encode())
  for images in splits.values():
    for image, label in zip(images.names, images.labels, strict=True):
      digest.update(os.fsencode(f"{image}\0{label}\n"))
  return Plan(shards, num_bytes, digest.hexdigest())


def finished(folder: pathlib.Path, plan: Plan) -> dict[str, dict[str, Any]]:
  """Reads which shards an interrupted `write` finished in a folder.

  Args:
    folder: The folder of the shards.
    plan: The plan to continue.

  Returns:
    {file: {"examples": count, "bytes": size, "skipped": messages}}.

  Raises:
    InputError: The folder belongs to another plan or cannot be read.
  """
  path = folder / STATE
  if not path.exists():
    return {}
  try:
    state = json.loads(path.read_text())
    same, shards = state["plan"] == plan.fingerprint, state["shards"]
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise InputError(
      f"{path}: cannot be read ({one_line(e)}); remove {folder}"
    ) from e
  if not same:
    raise InputError(
      f"{folder} is an unfinished pack of other images, classes or shards; "
      "remove it or choose another --version"
    )
  return shards


def write(
  folder: pathlib.Path,
  plan: Plan,
  splits: Mapping[str, Images],
  features: Any,
  skip_bad: bool = False,
) -> dict[str, dict[str, Any]]:
  """Writes the shards that are not finished yet.

  Args:
    folder: The folder of the shards; created if missing.
    plan: The result of `plan` for these splits.
    splits: {split: images}.
    features: A tfds.features.FeaturesDict of file_name, image and label.
    skip_bad: Leaves out images that cannot be used.

  Returns:
    {file: {"examples": count, "bytes": size, "skipped": messages}} for all
    shards.

  Raises:
    InputError: An image cannot be read or used, or a file cannot be written.
  """
  done = finished(folder, plan)
  todo = [shard for shard in plan.shards if shard.file not in done]
  doing = progress.Activity(
    f"packing into {folder}",
    sum(len(shard.indices) for shard in todo),
    "images",
  )
  stopped = threading.Event()
  _save(folder, plan, done)
  pool = concurrent.futures.ThreadPoolExecutor(_NUM_THREADS)
  running = {
    pool.submit(
      _write_shard,
      folder / shard.file,
      splits[shard.split],
      shard.indices,
      features,
      skip_bad,
      doing,
      stopped,
    ): shard.file
    for shard in todo
  }
  doing.start()
  try:
    while running:
      ready, _ = concurrent.futures.wait(
        running, 1.0, concurrent.futures.FIRST_COMPLETED
      )
      failed = [future for future in ready if future.exception()]
      done |= {running.pop(f): f.result() for f in ready.difference(failed)}
      if ready:
        _save(folder, plan, done)
      for future in failed:
        future.result()
  finally:
    stopped.set()
    pool.shutdown(cancel_futures=True)
    doing.stop()
  return done


def _save(
  folder: pathlib.Path, plan: Plan, done: dict[str, dict[str, Any]]
) -> None:
  state = {"plan": plan.fingerprint, "shards": done}
  try:
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / STATE, json.dumps(state))
  except OSError as e:
    raise InputError(f"{folder} cannot be written: {e.strerror}") from e


def _write_shard(
  path: pathlib.Path,
  images: Images,
  indices: np.ndarray,
  features: Any,
  skip_bad: bool,
  doing: progress.Activity,
  stopped: threading.Event,
) -> dict[str, Any]:
  """Writes one shard and returns its record for the state file."""
  from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
  )

  part = path.with_name(path.name + ".part")
  num_bytes, skipped = 0, []
  try:
    with contextlib.closing(
      array_record_module.ArrayRecordWriter(str(part), _RECORD_OPTIONS)
    ) as writer:
      for i in map(int, indices):
        if stopped.is_set():
          return {}
        data = images.read(i)
        try:
          data = checked(data, images.where(i))
        except InputError as e:
          if not skip_bad:
            raise InputError(f"{e}; --skip_bad leaves such images out") from e
          skipped.append(one_line(e))
        else:
          example = features.serialize_example(
            features.encode_example(
              {
                "file_name": os.fsencode(images.names[i]),
                "image": io.BytesIO(data),
                "label": images.labels[i],
              }
            )
          )
          writer.write(example)
          num_bytes += len(example)
        doing.add()
    part.replace(path)
  # The writer reports its errors as RuntimeError when it is closed.
  except (RuntimeError, OSError) as e:
    raise InputError(f"{part}: cannot be written ({one_line(e)})") from e
  count = len(indices) - len(skipped)
  return {"examples": count, "bytes": num_bytes, "skipped": skipped}
