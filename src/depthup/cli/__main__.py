"""`python -m depthup.cli`, which launchers of several processes run."""

import sys

from depthup.cli import main

sys.exit(main())
