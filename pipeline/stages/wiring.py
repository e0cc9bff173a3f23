"""Which processes a run has, and which sockets join them.

There is one process of face, infer and sink each, called as their stage is. Of capture there is one for every
feed, so that the end of one is nobody else's: `capture`, `capture-1`, `capture-2`, …, each with a channel of
its own to the face stage: `frames`, `frames-1`, `frames-2`, …
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.streams import HAND_OVERS

STAGES = ("capture", "face", "infer", "sink")
LINKS = {"frames": ("capture", "face"), "faces": ("face", "infer"), "results": ("infer", "sink")}
"""The kinds of channels between stages: who sends, who receives."""


def capture_name(number: int) -> str:
    """The process that reads the sources of this number (`sources.captures_of`)."""
    return f"capture-{number}" if number else "capture"


def number_of(name: str) -> int:
    """Of a process or a channel, among those of its stage or kind."""
    return int(name.partition("-")[2] or 0)


def stage_of(process: str) -> str:
    """One of STAGES."""
    return process.partition("-")[0]


def kind_of(link: str) -> str:
    """One of LINKS."""
    return link.partition("-")[0]


def frames_link(capture: str) -> str:
    """The channel by which a capture process hands its frames on; its rings are called so, too."""
    return "frames" + capture.removeprefix("capture")


def links_of(captures: int) -> list[str]:
    """All channels of a run with so many capture processes."""
    return [*(frames_link(capture_name(number)) for number in range(captures)), "faces", "results"]


def ends_of(link: str) -> tuple[str, str]:
    """Names of the processes that send and receive."""
    sender, receiver = LINKS[kind_of(link)]
    return sender + link.removeprefix(kind_of(link)), receiver


def link_socket(folder: Path, link: str, life: int) -> Path:
    """Where a channel is bound that was renewed so often."""
    return folder / f"{link}.{life}.socket"


def line_socket(folder: Path, line: str, process: str, life: int) -> Path:
    """Where a line between the supervisor and this life of a process is bound; `control` or `reports`."""
    return HAND_OVERS[line].endpoint(folder, f"{process}.{life}")


def sockets_of(process: str, folder: Path, life: int, lives: Mapping[str, int]) -> list[Path]:
    """The sockets that a life of a process may have made; when it is killed, their files stay.

    Args:
        lives: by channel, how often it was renewed so far.
    """
    channels = [
        link_socket(folder, link, number)
        for link in lives
        if ends_of(link)[1] == process
        for number in range(lives[link] + 1)
    ]
    return [line_socket(folder, "control", process, life), *channels]
