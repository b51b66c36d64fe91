"""What a GPU proves, in minutes: `make gpu-check`."""

import src  # noqa: F401 - before torch: how its threads wait
