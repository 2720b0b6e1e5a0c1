"""Names the command that replaces this one, and exits with code 2."""

import sys

if __name__ == "__main__":
  print(
    "error: scripts.vtab is now bit_jax study "
    "--study=vtab:model=R50x1,init=WEIGHTS,data_dir=DIR --workdir=DIR "
    "[--runs=TASK,TASK]",
    file=sys.stderr,
  )
  sys.exit(2)
