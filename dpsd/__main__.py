"""`python -m dpsd`."""

import sys

from dpsd.cli import main

if __name__ == "__main__":
    sys.exit(main())
