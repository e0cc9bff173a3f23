"""What the supervisor must know of its workers' sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.channels import Receiver
from pipeline.stages.wiring import ends_of, line_socket, link_socket, links_of, sockets_of

NAMES = ("capture", "capture-1", "capture-2", "face", "infer", "sink")


@pytest.mark.parametrize("stage", NAMES)
def test_no_socket_of_a_killed_stage_is_forgotten_and_none_of_another_is_touched(
    tmp_path: Path, stage: str
) -> None:
    """All that a run has bound when this stage, in its second life, is about to be started anew."""
    lives = dict.fromkeys(links_of(3), 2)
    paths = {(name, name): line_socket(tmp_path, "control", name, 1) for name in NAMES}
    paths |= {(ends_of(link)[1], link): link_socket(tmp_path, link, lives[link]) for link in lives}
    assert len(set(paths.values())) == len(NAMES) + 5
    bound = {key: Receiver(path, key[1], 1) for key, path in paths.items()}
    stale = sockets_of(stage, tmp_path, 1, lives)
    for (owner, _), path in paths.items():
        assert path.exists()
        assert (path in stale) == (owner == stage)
    for receiver in bound.values():
        receiver.close()
