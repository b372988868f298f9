"""`python -m mt0_tpu` is the `mt0` command."""

import sys

from mt0_tpu.cli import main

if __name__ == "__main__":
    sys.exit(main())
