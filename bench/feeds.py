"""Feeds to break: GStreamer's RTSP server in a process of its own, started, told what to do, and stopped."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType

import av
import cv2

from pipeline.errors import RunError

PYTHON = "/usr/bin/python3"
PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-rtsp gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-ugly gstreamer1.0-plugins-bad gstreamer1.0-libav"
)
_SERVER = Path(__file__).with_name("rtsp_server.py")
_PATIENCE_SECONDS = 20.0


class RtspServer:
    """One feed on a loopback port; what it can be told stands in `bench/rtsp_server.py`.

    Args:
        options: words of its command line, such as `--codec h265`.

    Raises:
        RunError: the system's Python or GStreamer's packages are missing, or the port is taken.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        try:
            self.process = subprocess.Popen(
                [PYTHON, str(_SERVER), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except FileNotFoundError:
            raise RunError(f"no {PYTHON}; to install: apt-get install python3 {PACKAGES}") from None
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self.keys: list[float] = []
        """When the first key frame went out after every request to play and every change of size, on the
        monotonic clock."""
        Thread(target=self._listen, daemon=True).start()
        try:
            self.port = int(self.wait("port"))
        except RunError:
            self.close()
            raise RunError(f"GStreamer's RTSP server does not start; needs: {PACKAGES}") from None

    @property
    def address(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"

    def again(self) -> RtspServer:
        """Another one on the same port, for when this one is gone."""
        return RtspServer(*self._options, "--port", str(self.port))

    def tell(self, command: str) -> float:
        """Do as `bench/rtsp_server.py` explains; when it was done, on the monotonic clock."""
        self._write(command)
        return float(self.wait(f"done {command}"))

    def wait(self, words: str) -> str:
        """What follows these words on the next line that begins with them; other lines pass by."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except Empty:
                break
            if line is None:
                break
            if line.startswith(words + " "):
                return line.removeprefix(words).strip()
        raise RunError(f"the RTSP server did not say: {words}")

    def last_key(self, since: float, until: float) -> float | None:
        """The last of the `keys` in an interval: that of the connection in use at its end."""
        return max((at for at in self.keys if since <= at <= until), default=None)

    def close(self) -> None:
        """Stop the server at once."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _write(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def _listen(self) -> None:
        stdout: Iterable[str] = self.process.stdout or ()
        for line in stdout:
            if line.startswith("key "):
                self.keys.append(float(line.removeprefix("key ")))
            self._lines.put(line.strip())
        self._lines.put(None)

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def playing(clip: Path, folder: Path, size: str, rate_hz: int, seconds: float) -> list[str]:
    """Options of a server that plays the beginning of a clip again and again, a key frame a second.

    Args:
        folder: for its pictures; made anew.
        size: WxH.
    """
    width, height = map(int, size.split("x"))
    write_pictures(clip, folder, (width, height), most=round(seconds * rate_hz))
    words = ["--pictures", str(folder), "--size", size, "--rate", str(rate_hz)]
    return [*words, "--gop", str(rate_hz)]


def write_pictures(clip: Path, folder: Path, size_wh: tuple[int, int], most: int) -> int:
    """Pictures of a clip as `--pictures` of the server takes them; how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            if count == most:
                break
            image = cv2.resize(frame.to_ndarray(format="bgr24"), size_wh, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / f"{count:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            count += 1
    return count
