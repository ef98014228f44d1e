"""What claims ask of their problems is there: every option of every experiment, by name and range."""

import pytest

from anytask import claims, problems


@pytest.mark.parametrize("key", claims.KEYS)
def test_options_of_experiments_are_known_to_their_problems(key):
    for experiment in claims.get(key).experiments:
        problem = problems.get(experiment.problem) if isinstance(experiment.problem, str) else experiment.problem
        problem.check_options({**experiment.options, **experiment.quick})
        problem.check_options(experiment.options)
