"""The adderc command from a checkout: `python cli.py …` does what an installed `adderc` does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from adderc.app import main

if __name__ == "__main__":
    main()
