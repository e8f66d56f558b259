"""`python -m adderc`: the command line.

Takes: the process's arguments. Gives: its exit code.
May import: app.
"""

from adderc.app import main

if __name__ == "__main__":
    main()
