"""What the supervisor must know of its workers' sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.channels import Receiver
from pipeline.stages.worker import LINKS, STAGES, line_index, sockets_of
from pipeline.streams import HAND_OVERS


@pytest.mark.parametrize("stage", STAGES)
def test_no_socket_of_a_killed_stage_is_forgotten_and_none_of_another_is_touched(
    tmp_path: Path, stage: str
) -> None:
    """All that a run has bound when this stage, in its second life, is about to be started anew."""
    lives = dict.fromkeys(LINKS, 2)
    paths = {(name, name): HAND_OVERS["control"].endpoint(tmp_path, line_index(name, 1)) for name in STAGES}
    paths |= {
        (receiver, link): HAND_OVERS[link].endpoint(tmp_path, lives[link])
        for link, (_, receiver) in LINKS.items()
    }
    bound = {key: Receiver(path, key[1], 1) for key, path in paths.items()}
    stale = sockets_of(stage, tmp_path, 1, lives)
    for (owner, _), path in paths.items():
        assert path.exists()
        assert (path in stale) == (owner == stage)
    for receiver in bound.values():
        receiver.close()
