from bit_jax.metric_writer import MetricWriter


def test_metric_writer_accepts_and_ignores_everything():
  ignore = MetricWriter()
  ignore.write_scalars(1, {"train/loss": 1.0})
  ignore.flush()
  ignore.close()
