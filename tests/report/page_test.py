import base64

import cv2
import numpy as np
import pytest

from bit_jax.report import page


@pytest.mark.parametrize(
  ("lossy", "kind", "most"), [(False, "png", 0), (True, "webp", 16)]
)
def test_data_uri_reads_back(lossy, kind, most):
  ramp = np.linspace(0, 255, 24, dtype=np.uint8)
  image = np.broadcast_to(
    ramp[:, None, None] * np.uint8([0, 0, 1]), (24, 16, 3)
  )
  head, data = page.data_uri(image, lossy=lossy).split(",")
  assert head == f"data:image/{kind};base64"
  encoded = np.frombuffer(base64.b64decode(data), np.uint8)
  read = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
  assert read is not None
  assert cv2.absdiff(read[..., ::-1], np.ascontiguousarray(image)).max() <= most
