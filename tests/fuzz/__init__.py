"""A seeded fuzzing harness over everything public: ``make fuzz``, or ``python -m fuzz --help`` in ``tests/``.

A call is settled by (seed, area, number) alone: what is called, with which arguments, on which files. Its outcome is

* ``ok``: it answered, and what the answer promises holds;
* ``clear``: it refused, in an error of the library that says what was given or wanted;
* ``unclear``: any other error, such as an ``IndexError`` from inside, or a traceback on the command line;
* ``silent``: it answered, and the answer is wrong: not finite, not what the data say, not what was saved;
* ``state``: it refused, and the object is not what it was before;
* ``hang``: it did not end.

The last four are defects. Systems, problems, loaders and commands are found from the files that are there; what they
are given by name of the parameter is in ``world.py``. ``mutants.py`` lists defects put into a copy of the library, each
of which the harness has to find.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "contracts"))  # cases of the contract tests
