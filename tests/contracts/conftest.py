"""Makes jobs of workers in processes of their own, and ends them with the test."""

import pytest
from support.workers import Team


@pytest.fixture
def team():
    teams = []

    def make(*arguments, **options):
        teams.append(Team(*arguments, **options))
        return teams[-1]

    yield make
    for one in teams:
        one.end()
