"""`python -m pipeline.stages NAME FOLDER LIFE`: one worker process of a run, started by the supervisor."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.stages.worker import work

if __name__ == "__main__":
    sys.exit(work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
