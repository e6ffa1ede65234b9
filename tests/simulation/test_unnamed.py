"""The same histories at a provider whose batches carry no name."""

from hypothesis import HealthCheck, settings

from tests.helpers.nameless import NamelessFleet
from tests.simulation.machine import INSTANCES, WildFleetMachine


class NamelessMachine(WildFleetMachine):
    """No strangers here: what is found without a name is ours, but may be missed."""

    def __init__(self) -> None:
        super().__init__()
        answer_line = self.fleet.provider.answer_line
        self.fleet = NamelessFleet(instances=INSTANCES)
        self.fleet.provider.answer_line = answer_line


TestNamelessFleet = NamelessMachine.TestCase
TestNamelessFleet.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
