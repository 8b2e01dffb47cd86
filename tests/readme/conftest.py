"""README's commands, as they are written there. `SLIPRING_BIN` names the binary under test; `tests/run` sets it."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
