"""Drawings of letters of ten scripts, a small set to pre-train on."""

import dataclasses
import functools
import math
import unicodedata
from typing import Any

import cv2
import numpy as np

from bit_jax.data.sets import builtin
from bit_jax.data.source import Source

_NUM_GLYPHS = {"train": 100_000, "test": 4_000}

# 200 letters. The rule: a letter of its own (category L*, no decomposition); in
# no face close to a digit (which excludes O, I, Z, S, B, b, g, q, ... and their
# look-alikes in every script); and, on average over the faces, not close to a
# letter that is already in the list (so that A is Latin, but not Greek or
# Cyrillic). They were chosen once by the correlation of blurred masks, then by
# eye, which is stricter with digits; the tests check the limits. Scripts
# written from right to left are spelt in escapes because editors reorder them.
_LETTERS = (
  # Latin
  "ACEFHKLMNPRTUVWXYadefhkmnprÆÞŒƔƕƱǶȸȹɄʁʎʞʣʦʧʩʬꜦꜧꜲꜳꜴꜶꜸꜹꜼꜽꝆꟽꟿ"
  # Greek
  "ͲΓΔΞΠΣΦΨΩαγηλμπτφχωϗ"
  # Cyrillic
  "ЂЊЋДЖИЛЦШЩЫЮЯљњћѤѪѬҤҴԔꙔꙖꙗ"
  # Armenian
  "ԱԲԵԸԹԺԻԽՀՄՆՊՌՐՒՔՖդեէթիխմպք"
  # Georgian
  "ႥႧႫႮႰႲႵႼႾႿჄდთლორფღⴅⴇⴐⴓⴙⴤ"
  # Hebrew
  "\u05d0\u05d4\u05dc\u05de\u05e2\u05e6\u05e7\u05e9\u05ea"
  # Arabic
  "\u0628\u062a\u062b\u062c\u062e\u0633\u0634\u063a"
  "\u0641\u0643\u0646\u064a\u06aa\u06af\u06be"
  # N'Ko
  "\u07cf\u07d2"
  # Canadian syllabics
  "ᐅᐊᐳᐸᓚᓭᔓᕗᕙᖑᖠ"
  # Tifinagh
  "ⴽⴿⵃⵄⵅⵋⵐⵖⵘⵣ"
)

_FACES = (
  "DejaVuSans",
  "DejaVuSans-Bold",
  "DejaVuSans-Oblique",
  "DejaVuSans-BoldOblique",
  "DejaVuSerif",
  "DejaVuSerif-Bold",
  "DejaVuSerif-Italic",
  "DejaVuSerif-BoldItalic",
)

_MASK_PX = 48
_LETTER_PX = 40

# Pens widen the strokes by 0 or 2 pixels of a mask: handwriting is broader than
# print. None narrows them, since serif hairlines would vanish.
_PENS = tuple(
  cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)) for side in (1, 3)
)

# Resolutions that a drawing is reduced to before it is enlarged again, each as
# often as it stands here: half of the drawings have that of `digits`.
_GRIDS_PX = (8, 8, 16, builtin.IMAGE_PX)

# The random choices of a drawing: (lowest, highest) of a uniform distribution.
# Lengths are in pixels of the drawing, angles in radians, grey levels in shares
# of white (above 1, they saturate). Indices are rounded down.
_VARIATION = {
  "face": (0, len(_FACES)),
  "pen": (0, len(_PENS)),
  "angle": (-0.25, 0.25),
  "slant": (-0.3, 0.3),
  "width": (18, 30),
  "height": (24, 32),
  "x": (-2, 2),
  "y": (-2, 2),
  "blur": (0.3, 1.0),
  "grid": (0, len(_GRIDS_PX)),
  "ink": (0.7, 1.3),
  "paper": (-0.6, 0.2),
}
_LOW, _HIGH = np.array(list(_VARIATION.values()), np.float64).T


def load(split: str) -> Source:
  """Returns drawings of 200 letters, each made when it is read.

  An image is uint8[32, 32, 3] with equal channels. Like the handwritten digits,
  it shows one bright, soft-edged symbol that fills the frame, on black (in a
  quarter of the examples on dark grey); half of the drawings also have the
  digits' resolution of 8x8. Face, stroke width, rotation, slant, size,
  position, blur, resolution and contrast are random, keyed by (split, index),
  so that an example is a pure function of the two. Example i has label i % 200.

  Args:
    split: `train` (100,000 examples) or `test` (4,000, other drawings of the
      same letters).

  Raises:
    InputError: There is no such split.
  """
  builtin.check_split("glyphs", split)
  examples = _Glyphs(
    letter_masks(), _NUM_GLYPHS[split], stream=builtin.SPLITS.index(split)
  )
  return builtin.make_source(
    "glyphs",
    split,
    examples,
    examples.read_labels,
    map(unicodedata.name, _LETTERS),
  )


@functools.cache
def letter_masks() -> np.ndarray:
  """Renders each letter of `glyphs` in eight faces of the DejaVu fonts.

  The Serif faces lack some scripts and the oblique ones a few more; the nearest
  face takes their place. A letter is centred; its longer side has 40 pixels.

  Returns:
    uint8[8, 200, 48, 48], read-only: [face, letter, height, width], 255 for
    ink, anti-aliased at edges. The first face is upright Sans.
  """
  # Imported here because it is slow, and users of other sets do not need it.
  import matplotlib
  from matplotlib.ft2font import FT2Font

  folder = f"{matplotlib.get_data_path()}/fonts/ttf"
  fonts = [FT2Font(f"{folder}/{face}.ttf") for face in _FACES]
  for font in fonts:
    font.set_size(_MASK_PX, 72)

  def render(face, letter):
    # The face itself, then its form in Sans, then its weight in upright Sans.
    candidates = (fonts[face], fonts[face % 4], fonts[face % 2])
    font = next(f for f in candidates if f.get_char_index(ord(letter)))
    font.set_text(letter)
    font.draw_glyphs_to_bitmap(antialiased=True)
    bitmap = np.asarray(font.get_image())
    left, top, width, height = cv2.boundingRect(bitmap)
    scale = _LETTER_PX / max(width, height)
    affine = _affine(
      (scale, 0),
      (0, scale),
      origin=(left + width / 2, top + height / 2),
      to=(_MASK_PX / 2, _MASK_PX / 2),
    )
    return cv2.warpAffine(bitmap, affine, (_MASK_PX, _MASK_PX))

  masks = np.stack(
    [[render(face, c) for c in _LETTERS] for face in range(len(fonts))]
  )
  masks.flags.writeable = False
  return masks


@dataclasses.dataclass(frozen=True)
class _Glyphs:
  """Drawings as examples.

  Attributes:
    masks: The letters, as returned by `letter_masks`.
    size: Number of examples.
    stream: Number of the split, part of the key of its random numbers.
  """

  masks: np.ndarray
  size: int
  stream: int

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = range(self.size)[index]
    label = index % len(_LETTERS)
    key = np.array([self.stream, index], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    image = _draw(self.masks[:, label], rng)
    return {"image": cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), "label": label}

  def read_labels(self) -> np.ndarray:
    return np.arange(self.size, dtype=np.int64) % len(_LETTERS)


def _draw(faces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns a random drawing uint8[32, 32] of a letter's uint8[8, 48, 48]."""
  v = dict(zip(_VARIATION, rng.uniform(_LOW, _HIGH).tolist(), strict=True))

  mask = cv2.dilate(faces[int(v["face"])], _PENS[int(v["pen"])])
  cos, sin = math.cos(v["angle"]), math.sin(v["angle"])
  across, down = v["width"] / _LETTER_PX, v["height"] / _LETTER_PX
  lean = v["slant"] * down
  affine = _affine(
    (cos * across, -sin * down - cos * lean),
    (sin * across, cos * down - sin * lean),
    origin=(_MASK_PX / 2, _MASK_PX / 2),
    to=(builtin.IMAGE_PX / 2 + v["x"], builtin.IMAGE_PX / 2 + v["y"]),
  )
  image = cv2.warpAffine(mask, affine, (builtin.IMAGE_PX, builtin.IMAGE_PX))
  image = cv2.GaussianBlur(image, (5, 5), v["blur"])

  grid_px = _GRIDS_PX[int(v["grid"])]
  if grid_px < builtin.IMAGE_PX:
    image = cv2.resize(image, (grid_px, grid_px), interpolation=cv2.INTER_AREA)
    image = builtin.enlarge(image)

  # Blur and reduction dim thin strokes more than broad ones, but all digits are
  # close to white: the brightest pixel decides the gain.
  paper = max(v["paper"], 0)
  gain = 255 * (v["ink"] - paper) / int(image.max())
  return cv2.addWeighted(image, gain, image, 0, 255 * paper)


def _affine(
  row_x: tuple[float, float],
  row_y: tuple[float, float],
  origin: tuple[float, float],
  to: tuple[float, float],
) -> np.ndarray:
  """Returns the 2x3 affine map with these rows that moves `origin` to `to`."""
  # OpenCV's whole numbers are pixel centres; those of the arguments are edges.
  x, y = origin[0] - 0.5, origin[1] - 0.5
  shift_x = to[0] - 0.5 - row_x[0] * x - row_x[1] * y
  shift_y = to[1] - 0.5 - row_y[0] * x - row_y[1] * y
  return np.array([[*row_x, shift_x], [*row_y, shift_y]])
