"""How many examples a property is given: ``@PURE`` or ``@LIVE``, by what one example costs.

``pytest`` alone takes a moment for each property; ``make fuzz EXAMPLES=20000`` looks for as long
as that takes. On CI (``CI`` is set) the same examples are tried every time; elsewhere every run
tries others, and failing ones are kept in ``.hypothesis`` and tried first. Either way a failure
prints the line that reproduces it.

``PURE`` and ``LIVE`` are decorators and not a loaded profile, which would change the tests beside
this folder too. There is no deadline anywhere: a machine that is slow for a moment is no failure.
"""

import os

from hypothesis import HealthCheck, settings

EXAMPLES_VARIABLE = "STEPFOLD_FUZZ_EXAMPLES"
EXAMPLES_DEFAULT = 64
LIVE_SHARE = 8
"""An example that runs an engine costs about this many times as much as one that does not."""

EXAMPLES = int(os.environ.get(EXAMPLES_VARIABLE) or EXAMPLES_DEFAULT)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=max(examples, 1),
        deadline=None,
        derandomize=bool(os.environ.get("CI")),
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


PURE = _settings(EXAMPLES)
LIVE = _settings(EXAMPLES // LIVE_SHARE)
