"""`python -m mechtest` is the command line."""

import sys

from mechtest.cli import main

sys.exit(main())
