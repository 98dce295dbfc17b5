"""The patients of this room's tests lie beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
