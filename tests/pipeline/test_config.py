"""Options: contradictions and wrong types are refused in one line that names the flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import RunConfig, read_toml
from pipeline.errors import UsageError
from run_stream import config_from, parser


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "no source"),
        ({"source": "a", "hop": 0}, "--hop 0"),
        ({"source": "a", "max_faces": 0}, "--max-faces 0"),
        ({"source": "a", "frames": -1}, "--frames -1"),
        ({"source": "a", "duration": 0.0}, "--duration 0"),
        ({"source": "a", "duration": float("nan")}, "--duration nan"),
        ({"source": "a", "engine": []}, "--engine"),
        ({"source": "a", "engine": ["cednn", "cednn"]}, "names an engine twice"),
        ({"camera": [0, 0]}, "same camera twice"),
        ({"camera": -1}, "--camera -1"),
        ({"source": "a", "loop": True}, "--loop without an end"),
        ({"source": "a", "neutral": "none", "save_neutral": "x.npz"}, "--save-neutral with --neutral none"),
        ({"source": "a", "hop": "often"}, "hop = 'often': expected a whole number"),
        ({"source": "a", "hop": True}, "hop = True"),
        ({"source": 3}, "source = "),
        ({"source": "a", "sauce": 1}, "unknown option 'sauce'"),
    ],
)
def test_what_cannot_be_is_refused(values: dict, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        RunConfig.from_mapping(values, "test")
    assert "\n" not in str(caught.value)


def test_one_value_stands_for_a_list_of_one_and_a_whole_number_for_seconds() -> None:
    config = RunConfig.from_mapping({"source": "a.mp4", "camera": 1, "duration": 3}, "test")
    assert (config.source, config.camera, config.duration) == (("a.mp4",), (1,), 3.0)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('source = "a.mp4"\nengine = ["satnet"]\nmax-faces = 2\nhop = "auto"\n')
    arguments = vars(parser().parse_args(["--config", str(file), "--engine", "cednn, mine", "--engine", "x"]))
    config = config_from(arguments)
    assert config.source == ("a.mp4",)
    assert config.engine == ("cednn", "mine", "x")
    assert (config.max_faces, config.hop) == (2, None)


@pytest.mark.parametrize("content", ["source = ", "\xff\xfe", "source == 'a'"])
def test_a_config_file_that_is_no_toml_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=r"bad\.toml: not TOML"):
        read_toml(file)


def test_a_config_file_that_is_missing_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(Path("nowhere.toml"))


@pytest.mark.parametrize("arguments", [["--hop", "x"], ["--frames", "two"], ["--nonsense"], ["--cam", "0"]])
def test_flags_that_do_not_parse_are_one_line(arguments: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        config_from(vars(parser().parse_args(["--source", "a", *arguments])))
    assert "\n" not in str(caught.value)
