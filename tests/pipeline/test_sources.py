from __future__ import annotations

import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clips import BLUE, GREEN, GREY, RED, read, shows, write_clip
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import AustreamError, SourceError, UsageError
from pipeline.sources import SourceSpec, captures_of, resolve_sources


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("clip") / "clip.mp4", frames=50, container={"movflags": "faststart"}
    )


NAMES = [
    "with space.mp4",
    "Grüße 人.mp4",
    "100%d.mp4",
    "a[1].mp4",
    "-i.mp4",
    "http:clip.mp4",
    "concat:a|b.mp4",
    "12:30.mp4",
    "CLIP.MP4",
    "no suffix",
    "what?#1.mp4",
    "demo",
    "camera:0",
    "quo'te\".mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_names(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shutil.copy(clip, tmp_path / name)
    info, frames, _ = read(tmp_path / name)
    assert info.stream == name
    assert len(frames) == 50
    monkeypatch.chdir(tmp_path)
    if name != "demo":
        assert len(read(name)[1]) == 50


def test_names_that_cannot_be_printed(clip: Path, tmp_path: Path) -> None:
    for name in ("line\nbreak.mp4", "bytes\udcff.mp4"):
        shutil.copy(clip, tmp_path / name)
        info, frames, _ = read(tmp_path / name)
        assert len(frames) == 50
        assert info.stream.isprintable()
        info.stream.encode()
        os.truncate(tmp_path / name, 100)
        with pytest.raises(SourceError) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
        str(caught.value).encode()


def test_file_addresses(clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / "with space%.mp4")
    address = f"file://{tmp_path}/with%20space%25.mp4"
    assert len(read(address)[1]) == 50
    assert len(read(address.replace("file://", "file://localhost"))[1]) == 50


def test_globs_are_in_natural_order_and_names_unique(clip: Path, tmp_path: Path) -> None:
    for name in ("take10.mp4", "take2.mp4", "other/take2.mp4", "take²1.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    specs = resolve_sources([f"{tmp_path}/*.mp4", f"{tmp_path}/other/take2.mp4", f"{tmp_path}/take2.mp4"], [])
    assert [s.stream for s in specs] == [
        "take2.mp4",
        "take10.mp4",
        "take²1.mp4",
        "take2.mp4#2",
        "take2.mp4#3",
    ]
    assert [s.stream for s in resolve_sources([f"{tmp_path}/**/take2.mp4"], [])] == [
        "take2.mp4",
        "take2.mp4#2",
    ]


def test_what_is_no_file(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    os.symlink(tmp_path / "loop.mp4", tmp_path / "loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    refused = {
        tmp_path: "is a directory",
        tmp_path / "missing.mp4": "no such file",
        tmp_path / "empty.mp4": "is empty",
        tmp_path / "e*.mp4": "is empty",
        tmp_path / "loop.mp4": "no such file",
        tmp_path / "pipe.mp4": "not a regular file",
        "/dev/zero": "not a regular file",
        tmp_path / "none*.mp4": "no file matches",
        tmp_path / ("x" * 300): "cannot be opened",
        clip / "inside.mp4": "no such file",
    }
    for source, reason in refused.items():
        with pytest.raises(SourceError, match=reason):
            resolve_sources([str(source)], [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_permissions(clip: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(clip, tmp_path / "secret.mp4"))
    path.chmod(0)
    with pytest.raises(SourceError, match="permissions"):
        read(path)


@pytest.mark.parametrize(
    "source",
    [
        "ftp://user:SECRET@host/a",
        "rtsp://",
        "rtsp://user:SECRET@/x",
        "rtsp://[::1",
        "rtsp://user:SECRET@h:99999/",
        "rtsp://h:0/",
    ],
)
def test_addresses_that_cannot_be(source: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_sources([source], [])
    assert "SECRET" not in str(caught.value)


def test_addresses() -> None:
    specs = resolve_sources(["RTSP://user:pa@ss@host:554/Live?key=SECRET", "http://h/a.mp4"], [1])
    assert [s.stream for s in specs] == ["rtsp://host:554/Live?…", "http://h/a.mp4", "camera:1"]
    assert specs[0].uri == "rtsp://user:pa@ss@host:554/Live?key=SECRET"
    assert [s.path for s in specs] == [None, None, None]


@given(st.text(max_size=40))
def test_any_text_is_a_source_or_one_line(text: str) -> None:
    try:
        message = resolve_sources([text], [])[0].stream
    except AustreamError as error:
        message = str(error)
    assert "\n" not in message


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if not self.path.startswith("/chunked"):
            return super().do_GET()
        self.send_response(200)  # HTTP/1.0 without a length: the end of the connection is the end
        self.end_headers()
        data = (Path(self.directory) / "clip.mp4").read_bytes()
        self.wfile.write(data[:-600] if "cut" in self.path else data)
        return None

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    def handler(*args: Any) -> _Handler:
        return _Handler(*args, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_http(clip: Path) -> None:
    with _served(clip.parent) as address:
        for path in ("clip.mp4", "chunked.mp4"):
            info, frames, ledger = read(f"{address}/{path}")
            assert (info.live, len(frames), ledger.ended) == (False, 50, "end of file")
            assert shows(frames[0].image_bgr, (RED, GREEN, BLUE, GREY))
        assert "before its stated end" in read(f"{address}/chunked-cut.mp4")[2].ended
        with pytest.raises(SourceError, match="404"):
            read(f"{address.replace('//', '//user:SECRET@')}/none.mp4?SECRET")
    with pytest.raises(SourceError, match="cannot be reached") as caught:
        read(f"{address}/clip.mp4")
    assert "SECRET" not in str(caught.value)


@given(st.lists(st.sampled_from(["clip.mp4", "http://127.0.0.1/a", "rtsp://127.0.0.1/a", "camera:0"])))
def test_every_feed_is_captured_by_itself_and_the_rest_together(uris: list[str]) -> None:
    specs = [SourceSpec(uri, str(number)) for number, uri in enumerate(uris)]
    numbers = captures_of(specs)
    assert sorted(set(numbers)) == list(range(len(set(numbers))))
    of_feeds = [number for number, spec in zip(numbers, specs, strict=True) if spec.feed]
    of_others = {number for number, spec in zip(numbers, specs, strict=True) if not spec.feed}
    assert len(set(of_feeds)) == len(of_feeds)
    assert len(of_others) <= 1
    assert of_others.isdisjoint(of_feeds)
    # A feed that is added gets the next number, and none changes.
    added = captures_of([*specs, SourceSpec("http://127.0.0.1/b", "added", live=True)])
    assert added == [*numbers, len(set(numbers))]
