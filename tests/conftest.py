"""What every room's tests share: the helpers of tests/models, and one thread.

The tensors of these tests are small, and threads only get in each other's way.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "models"))
torch.set_num_threads(1)
