"""`python -m mmjax` is the command line."""

import sys

from mmjax.cli import main

sys.exit(main())
