"""What every room's tests share: the helpers of tests/models, and one thread.

The tensors of these tests are small, and threads only get in each other's way.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy and torch are loaded

import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "models"))
torch.set_num_threads(1)

# the same examples in every run: a red run can be run again, and no run is slow by chance
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")
