import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from bit_jax.errors import InputError
from bit_jax.weights import array_files, recognize

BOTH = pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])


def some_arrays():
  x = np.random.default_rng(0).normal(size=(30, 20, 10))
  arrays = {dtype: x.astype(dtype) for dtype in array_files.FLOATS}
  # Not contiguous, not little-endian, and no dimension.
  return arrays | {"t": x.T, "big": x.astype(">f8"), "0": x[0, 0, 0]}


def read(path):
  with array_files.open_arrays(epath.Path(path)) as arrays:
    return {key: np.asarray(array) for key, array in arrays.items()}


@BOTH
def test_arrays_come_back(name, tmp_path):
  arrays = some_arrays()
  array_files.write_arrays(tmp_path / name, arrays)
  with array_files.open_arrays(epath.Path(tmp_path / name)) as opened:
    assert opened.keys() == arrays.keys()
    for key, array in arrays.items():
      assert opened[key].shape == array.shape
      assert opened[key].dtype == np.asarray(opened[key]).dtype
      np.testing.assert_array_equal(np.asarray(opened[key]), array)
    for dtype in array_files.FLOATS:
      assert opened[dtype].dtype == dtype
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_the_libraries_read_our_files(tmp_path):
  arrays = some_arrays()
  array_files.write_arrays(tmp_path / "x.npz", arrays)
  with np.load(tmp_path / "x.npz", allow_pickle=False) as npz:
    np.testing.assert_array_equal(npz["t"], arrays["t"])
  path = tmp_path / "x.safetensors"
  array_files.write_arrays(path, arrays)
  back = safetensors.numpy.load_file(path)
  for key, array in arrays.items():
    np.testing.assert_array_equal(back[key], array)
  with safetensors.safe_open(path, framework="numpy") as f:
    # transformers refuses files without it.
    assert f.metadata() == {"format": "pt"}
  length = int.from_bytes(path.read_bytes()[:8], "little")
  assert length % 8 == 0


def test_a_lazy_array_is_read_when_used_and_each_time_anew():
  reads = []

  def read_it():
    reads.append(1)
    return np.arange(6.0).reshape(2, 3)

  array = array_files.LazyArray([2, 3], "float64", read_it)
  turned = array_files.rearrange(array, np.transpose)
  assert (array.shape, turned.shape) == ((2, 3), (3, 2))
  assert turned.dtype == array.dtype
  assert not reads
  np.testing.assert_array_equal(np.asarray(turned), read_it().T)
  np.testing.assert_array_equal(np.asarray(array), read_it())
  assert len(reads) == 4
  with pytest.raises(ValueError, match="axes"):
    array_files.rearrange(array, lambda a: a.transpose(0, 1, 2))


@BOTH
def test_a_failed_write_leaves_what_was_there(name, tmp_path):
  def fail():
    raise InputError("damaged")

  path = tmp_path / name
  path.write_bytes(b"old")
  arrays = some_arrays()
  arrays["float64"] = array_files.LazyArray((512, 3), "float32", fail)
  with pytest.raises(InputError, match="damaged"):
    array_files.write_arrays(path, arrays)
  assert path.read_bytes() == b"old"
  assert [p.name for p in tmp_path.iterdir()] == [name]
  with pytest.raises(InputError, match=f"{name}: cannot be written: No such"):
    array_files.write_arrays(tmp_path / "no" / name, {})


@BOTH
def test_damaged_files(name, tmp_path):
  path = tmp_path / name
  array_files.write_arrays(path, some_arrays())
  whole = path.read_bytes()
  contents = [b"", b"not such a file at all", whole[: len(whole) // 2]]
  if path.suffix == ".safetensors":
    contents.append(whole + b"more")
  for content in contents:
    path.write_bytes(content)
    with pytest.raises(
      InputError, match=f"{name}: not a readable {path.suffix} file"
    ):
      read(path)


def test_damage_inside_an_array_shows_when_it_is_read(tmp_path):
  path = tmp_path / "x.npz"
  array_files.write_arrays(path, {"x": np.zeros(5000)})
  flipped = bytearray(path.read_bytes())
  flipped[len(flipped) // 2] ^= 1
  path.write_bytes(flipped)
  with (
    array_files.open_arrays(epath.Path(path)) as arrays,
    pytest.raises(InputError, match="x.npz: not a readable .npz file"),
  ):
    np.asarray(arrays["x"])


def test_files_that_hold_something_else(tmp_path):
  np.save(tmp_path / "x.npy", np.zeros(3))
  with pytest.raises(InputError, match="expected .npz, found .npy"):
    read(tmp_path / "x.npy")
  path = tmp_path / "x.safetensors"
  safetensors.numpy.save_file({"stem": np.zeros(3, np.complex64)}, path)
  with pytest.raises(InputError, match="stem is C64, expected floats"):
    read(path)


def test_text_is_called_so(tmp_path):
  path = epath.Path(tmp_path / "x.npz")
  path.write_text("some other kind of file")
  with (
    pytest.raises(InputError, match="it is text, which begins") as error,
    recognize.explaining(path),
    array_files.open_arrays(path),
  ):
    pass
  assert "pickle" not in str(error.value)
