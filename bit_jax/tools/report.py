"""Shows training runs as one self-contained HTML page.

  bit_jax report WORKDIR [WORKDIR ...] --out=report.html
  bit_jax report /tmp/photos /tmp/cifar10

The page has one row for each run and one chart for each metric with a curve for
each run. It loads nothing from other files or the network, so it can be kept,
mailed and read offline.
"""

import sys
from collections.abc import Sequence

from bit_jax.errors import exit_status
from bit_jax.report import runs
from bit_jax.tools import command_line


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  parser = command_line.Parser("bit_jax.tools.report", __doc__)
  parser.add_argument(
    "workdirs", nargs="+", metavar="WORKDIR", help="work directory of a run"
  )
  parser.add_argument(
    "--out", default="report.html", metavar="FILE", help="HTML file to write"
  )
  args = parser.parse_args(argv)

  def write() -> None:
    runs.write(args.out, args.workdirs)
    print(f"wrote {args.out}")

  return exit_status(write)


if __name__ == "__main__":
  sys.exit(main())
