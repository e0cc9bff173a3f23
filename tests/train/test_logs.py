"""What a run says of itself: read back by TensorBoard's own reader; a disk that is full."""

import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.logs import RunLog, read_rows

_FILLS_THE_DISK = """
import resource, sys
from pathlib import Path
from pipeline.errors import OutputError
from train.logs import RunLog
log = RunLog(Path(sys.argv[1]), 0, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    for step in range(1000):
        log.curve("loss", 1.0, step)
except OutputError as error:
    print(error)
log.close()
"""


def test_a_run_that_goes_on_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = RunLog(tmp_path, 0, 0)
    for step in range(1, 6):
        first.curve("loss", 1.0 / step, step)
        first.row({"phase": 0, "step": step, "loss": 1.0 / step})
    first.close()
    again = RunLog(tmp_path, 0, 3)
    for step in range(4, 7):
        again.curve("loss", 10.0, step)
    again.row({"phase": 0, "step": 4, "auc": 0.5})
    again.close()

    read = EventAccumulator(str(tmp_path / "tensorboard" / "0"))
    read.Reload()
    curve = [(point.step, round(point.value, 6)) for point in read.Scalars("loss")]
    assert curve == [(1, 1.0), (2, 0.5), (3, 0.333333), (4, 10.0), (5, 10.0), (6, 10.0)]
    assert [row["step"] for row in read_rows(tmp_path / "log.csv")] == ["1", "2", "3", "4"]


def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails the same way, from the system."""
    ended = subprocess.run(
        [sys.executable, "-c", _FILLS_THE_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "events.out.tfevents" in ended.stdout
    assert "cannot write it: File too large" in ended.stdout
    assert "Traceback" not in ended.stderr
