"""Big Transfer (BiT, arXiv 1912.11370) in JAX and Flax.

The map of the house, from the door inwards. Imports go down only:

  main         the command: flags, exit codes
  tools        the other commands, `bit_jax NAME`
  configs      recipes and studies; in a checkout, the folder configs/
  train        the one training loop, train_and_evaluate
  preflight    memory and cost of a step before it runs
  run          the parts of one training run: step, optimiser, start, stop
  evaluate     networks that are not trained: metrics, few-shot, neighbours
  report       studies of many runs, HTML pages and charts
  recipe       config files, their checks, and the numbers their rules give
  data         from a data set's name to batches on the devices
  data.sets    one file for each kind of data set
  data.formats image formats: headers, ends, what decoders get wrong
  weights      weight files: ours, the release's, timm's and others'
  writers      metrics to JSON lines, TensorBoard, the terminal and log.txt
  objectives   what a run learns: losses, and how training judges them
  storage      checkpoints, small files, caches, buckets
  models       networks: layers, initial values, parameter paths
  parallel     devices and processes
  errors       errors that end a command in one line
  progress     what a command does, shown on stderr every few seconds
  interrupts   Ctrl-C in the first second of a command

`models` and `weights` are the public packages: `models.create` makes a network,
`weights.load` reads its weights. A run's data flows from recipe to run.sources,
data.pipeline, run.step, storage, evaluate and writers.
"""

from bit_jax import interrupts

interrupts.quiet_start()  # Before anything heavy is imported.
