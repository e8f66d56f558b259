"""One thread: the tensors of these tests are small, and threads only get in each other's way."""

import torch

torch.set_num_threads(1)
