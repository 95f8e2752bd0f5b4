"""The old name of a command: speeds are measured by speed.py."""

import sys

if __name__ == "__main__":
    sys.exit(f"python -m models.speed has moved: python speed.py {' '.join(sys.argv[1:])}")
