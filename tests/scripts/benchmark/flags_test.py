import pytest

from bit_jax.errors import UsageError
from scripts.benchmark import flags as flags
from scripts.benchmark.flags import Case


def parse(*argv):
  return flags.make_parser("").parse_known_args(argv)


def cases(*argv):
  return flags.make_cases(*parse(*argv))


def test_lists_give_all_combinations():
  found = cases(
    *("--mode=train,infer", "--variant=R50x1,R101x3", "--px=64,96"),
    *("--batch=8", "--dtype=bfloat16", "--classes=7"),
    *("--sweep=optim.accum_steps=1,2", "--config.seed=3"),
  )
  assert len(found) == len(set(found)) == 16
  assert found[0] == Case(
    *("train", "R50x1", 64, 8, "bfloat16"),
    ("seed=3", "optim.accum_steps=1"),
    classes=7,
  )
  assert found[1].overrides == ("seed=3", "optim.accum_steps=2")
  assert found[-1].mode == "infer"
  assert found[-1].variant == "R101x3"


def test_input_does_not_depend_on_the_network():
  found = cases("--mode=input", "--variant=R50x1,R101x3", "--px=32,64")
  assert [c.px for c in found] == [32, 64]


def test_overrides_come_after_what_the_flags_say():
  (case,) = cases("--batch=8", "--config.input.batch_size=4")
  arguments = case.arguments
  assert arguments.index("--config.input.batch_size=8") < arguments.index(
    "--config.input.batch_size=4"
  )
  assert "--config.input.resize_px=256" in arguments


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (("foo",), "'foo'"),
    (("--config.seed",), "'--config.seed'"),
    (("--unknown=1",), "'--unknown=1'"),
    (("--sweep=optim.lr",), "--sweep=optim.lr"),
    (("--aot=v3:1x1", "--mode=input"), "--aot goes with"),
    (("--aot=v3:1x1", "--mode=train,start"), "--aot goes with"),
  ],
)
def test_wrong_arguments(argv, message):
  with pytest.raises(UsageError, match=message):
    cases(*argv)


@pytest.mark.parametrize(
  "flag",
  [
    *("--mode=x", "--mode=", "--px=0", "--px=a", "--px=-1,2", "--batch=1.5"),
    *("--dtype=float32,float16", "--peers=jax", "--rounds=0", "--images=1"),
    *("--devices=-1", "--round_secs=-1", "--round_secs=nan", "--classes=0"),
    *("--memory_gib=0", "--memory_gib=x", "--precision=low"),
  ],
)
def test_wrong_flags(flag, capsys):
  with pytest.raises(SystemExit) as e:
    parse(flag)
  assert e.value.code == 2
  assert f"argument {flag.split('=')[0]}" in capsys.readouterr().err


def test_default_peers_are_all_but_the_slowest_to_compile():
  args, _ = parse()
  assert args.peers == ["timm", "timm_compiled", "tf.data"]
  args, _ = parse("--peers=timm_max_autotune")
  assert args.peers == ["timm_max_autotune"]
