"""python -m buswork.cli: the command where its script is not installed."""

import sys

from buswork.cli import main

sys.exit(main())
