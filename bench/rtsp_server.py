"""An RTSP server whose feed can be broken on command. Run by the system's Python, which has GStreamer's
bindings; `bench/feeds.py` starts it and tells it what to do.

It serves one feed, `/live`, on a loopback port and says on stdout what happens, one line each with the time
of the machine's monotonic clock, which every process shares: `port N`, `play T` (a client has asked to play),
`key T` (the first key frame since, or since a change of size), and `done COMMAND T`. Commands come on stdin,
one a line:

    drop             close the connections of all clients
    refuse, accept   answer 404 from now on, and no longer
    stall, go        give no more pictures on connections that stay open, and give them again
    size WxH         another size from the next picture on
    codec NAME       h264, h265 or mjpeg from the next connection on
    corrupt SHARE    change that share of the coded bytes
    lose SHARE       leave out that share of the network's packets (together with those of the same picture)
    quit
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PATH = "/live"
ROLE = "viewer"
_CODERS = {
    # One thread: with several, pictures are sliced, and the payloader puts parameter sets between the slices.
    "h264": "x264enc name=coder threads=1 tune=zerolatency speed-preset=ultrafast bitrate=1500 "
    "key-int-max={gop} ! breakmydata name=breaker probability=0 skip=24 "
    "! rtph264pay name=pay0 pt=96 config-interval=-1",
    "h265": "x265enc name=coder tune=zerolatency speed-preset=ultrafast bitrate=1500 key-int-max={gop} "
    "! breakmydata name=breaker probability=0 skip=24 ! rtph265pay name=pay0 pt=96 config-interval=-1",
    "mjpeg": "jpegenc name=coder ! breakmydata name=breaker probability=0 skip=640 "
    "! rtpjpegpay name=pay0 pt=26",
}


def _say(*words: object) -> None:
    print(*words, flush=True)


class Feed:
    """The feed and how it is broken."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._rate, self._gop, self._pictures = arguments.rate, arguments.gop, arguments.pictures
        self._codec, self._size = arguments.codec, arguments.size
        self._stalled, self._corrupt, self._lose = False, 0.0, 0.0
        self._random = random.Random(1)
        self._media: Any = None
        self._wants_key = False
        self._server = GstRtspServer.RTSPServer()
        self._server.set_address("127.0.0.1")
        self._server.set_service(str(arguments.port))
        if arguments.user:
            self._lock(*arguments.user.split(":", 1))
        self._locked = bool(arguments.user)
        self.accept()
        self._server.connect("client-connected", lambda _, client: client.connect("play-request", self._play))
        self._server.attach(None)
        _say("port", self._server.get_bound_port())

    def _lock(self, user: str, password: str) -> None:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", ROLE)
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        self._server.set_auth(auth)

    def _play(self, _client: Any, _context: Any) -> None:
        _say("play", time.monotonic())
        self._wants_key = True

    # What can be told on stdin.

    def accept(self) -> None:
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {self._source()} {_CODERS[self._codec].format(gop=self._gop)} )")
        factory.set_shared(True)
        factory.connect("media-configure", self._configure)
        if self._locked:
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role(ROLE, "media.factory.access", True)
            permissions.add_permission_for_role(ROLE, "media.factory.construct", True)
            factory.set_permissions(permissions)
        self._server.get_mount_points().add_factory(PATH, factory)

    def refuse(self) -> None:
        self._server.get_mount_points().remove_factory(PATH)

    def drop(self) -> None:
        self._server.client_filter(lambda *_: GstRtspServer.RTSPFilterResult.REMOVE)

    def stall(self) -> None:
        self._stalled = True

    def go(self) -> None:
        self._stalled = False

    def size(self, size: str) -> None:
        self._size, self._wants_key = size, True
        if self._media is not None:
            self._media.get_by_name("size").set_property("caps", self._caps())
        self.accept()

    def codec(self, name: str) -> None:
        self._codec = name
        self.accept()

    def corrupt(self, share: str) -> None:
        self._corrupt = float(share)
        if self._media is not None:
            self._media.get_by_name("breaker").set_property("probability", self._corrupt)

    def lose(self, share: str) -> None:
        self._lose = float(share)

    # How pictures flow.

    def _source(self) -> str:
        if self._pictures:
            source = (
                f'multifilesrc location="{self._pictures}/%05d.jpg" loop=true '
                f"caps=image/jpeg,framerate={self._rate}/1 ! jpegdec ! identity sync=true"
            )
        else:
            source = f"videotestsrc is-live=true pattern=ball ! video/x-raw,framerate={self._rate}/1"
        return (
            f'{source} ! videoconvert ! videoscale ! capsfilter name=size caps="{self._caps().to_string()}" !'
        )

    def _caps(self) -> Any:
        width, height = self._size.split("x")
        return Gst.Caps.from_string(f"video/x-raw,format=I420,width={width},height={height}")

    def _configure(self, _factory: Any, media: Any) -> None:
        self._media = media.get_element()
        self._media.get_by_name("breaker").set_property("probability", self._corrupt)
        pads = Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST
        self._media.get_by_name("coder").get_static_pad("sink").add_probe(pads, self._pass_unless_stalled)
        self._media.get_by_name("coder").get_static_pad("src").add_probe(pads, self._note_key)
        self._media.get_by_name("pay0").get_static_pad("src").add_probe(pads, self._pass_unless_lost)

    def _pass_unless_stalled(self, *_: Any) -> Any:
        return Gst.PadProbeReturn.DROP if self._stalled else Gst.PadProbeReturn.OK

    def _note_key(self, _pad: Any, info: Any) -> Any:
        if self._wants_key and not info.get_buffer().has_flags(Gst.BufferFlags.DELTA_UNIT):
            self._wants_key = False
            _say("key", time.monotonic())
        return Gst.PadProbeReturn.OK

    def _pass_unless_lost(self, *_: Any) -> Any:
        lost = self._random.random() < self._lose
        return Gst.PadProbeReturn.DROP if lost else Gst.PadProbeReturn.OK


def _obey(feed: Feed, line: str, loop: Any) -> None:
    verb, *words = line.split()
    if verb == "quit":
        loop.quit()
        return
    getattr(feed, verb)(*words)
    _say("done", line, time.monotonic())


def _listen(feed: Feed, loop: Any) -> None:
    for line in sys.stdin:
        if line.strip():
            GLib.idle_add(_obey, feed, line.strip(), loop)
    GLib.idle_add(loop.quit)  # whoever started this is gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", choices=sorted(_CODERS), default="h264")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--rate", type=int, default=20)
    parser.add_argument("--gop", type=int, default=20, help="pictures from one key frame to the next")
    parser.add_argument("--pictures", help="a folder of 00000.jpg and on, played again and again")
    parser.add_argument("--user", help="USER:PASSWORD that clients must give")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    Gst.init(None)
    loop = GLib.MainLoop()
    feed = Feed(arguments)
    threading.Thread(target=_listen, args=(feed, loop), daemon=True).start()
    loop.run()


if __name__ == "__main__":
    main()
