"""The host waits for the step before the last two."""

from hyperseg_jax.training.dispatch import StepsInFlight


class Output:
    """An array that records that it was waited for."""

    def __init__(self, number, ended):
        self.number, self.ended = number, ended

    def block_until_ready(self):
        self.ended.append(self.number)


def test_at_most_two_steps_are_in_flight():
    steps, ended = StepsInFlight(), []
    for number in range(5):
        steps.add({"loss": Output(number, ended)})
        assert ended == list(range(number - 1))
