"""The recipes of configs/ under the name that they have where installed.

In a checkout they stand beside this package, at the top of the repository. An
installed package holds the files themselves here, instead of this file.
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).resolve().parents[2] / "configs")]
