"""Numbers in arguments are ASCII, for all commands."""

import pytest

from hyperseg_jax.commands.main import main
from hyperseg_jax.commands.numbers import parse_number


@pytest.mark.parametrize("text", ["1_0", "\u0661\u0662", "\uff11", "1\u00a0", "", "x"])
@pytest.mark.parametrize("kind", [int, float])
def test_other_digits_and_underscores_are_refused(kind, text):
    with pytest.raises(ValueError):
        parse_number(kind, text)


def test_numbers():
    assert parse_number(int, "-12") == -12 and parse_number(float, " 1.5e3") == 1500.0


@pytest.mark.parametrize(
    "line", ["quickstart --images 1_0", "data toy --out x --seed \u0661", "sweep --out x --asha-factor 1_0"]
)
def test_commands_and_their_subcommands_take_no_others(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2 and "value: '" in capsys.readouterr().err
