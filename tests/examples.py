"""How many examples a property test tries: all of them, or the share that QUIVER_EXAMPLES says, as `make fast` does."""

import os

SHARE = float(os.environ.get("QUIVER_EXAMPLES", "1"))
# Fewer would miss what a test is for.
EXAMPLES_MIN = 5


def examples(count: int) -> int:
    """`count`, or its share."""
    return max(min(count, EXAMPLES_MIN), round(count * SHARE))
