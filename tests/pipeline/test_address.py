from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.address import open_options, scheme_of, without_credentials


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:pa@ss@host/live", "rtsp://host/live"),
        ("rtsp://user:pass@host:554/live?token=abc", "rtsp://host:554/live?…"),
        ("rtsp://user@[fe80::1]:554/live", "rtsp://[fe80::1]:554/live"),
        ("rtsp://user:pa/ss@host/live", "rtsp://…"),
        ("rtsp://user:12/ss@host/live", "rtsp://…"),
        ("rtsp://user:12#ss@host/live", "rtsp://…"),
        ("rtsp://user:12?ss@host/live", "rtsp://…"),
        ("rtsp://host/user=admin_password=tlJwpbo6_channel=1.sdp", "rtsp://host/…"),
        ("rtsp://host:554/cam/PWD=x&channel=2", "rtsp://host:554/cam/…"),
        ("udp://127.0.0.1:5000", "udp://127.0.0.1:5000"),
        ("http://host/monkey/a.mp4", "http://host/monkey/a.mp4"),
        ("http://host/a b.mp4", "http://host/a b.mp4"),
        ("clips/what?#1@home.mp4", "clips/what?#1@home.mp4"),
    ],
)
def test_without_credentials(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


@given(
    user=st.text(st.characters(codec="ascii", exclude_characters="\n\r\t"), min_size=1),
    secret=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1),
)
def test_no_password_is_shown(user: str, secret: str) -> None:
    shown = without_credentials(f"rtsp://{user}:SECRET{secret}SECRET@host/live")
    assert "SECRET" not in shown


@pytest.mark.parametrize(
    ("uri", "scheme"), [("RTSP://h/x", "rtsp"), ("clip.mp4", ""), ("http:clip.mp4", ""), ("udp://h:1", "udp")]
)
def test_scheme_of(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


def test_only_rtsp_has_a_transport() -> None:
    assert open_options("rtsp", "udp")["rtsp_transport"] == "udp"
    assert open_options("rtsps", "tcp")["rtsp_transport"] == "tcp"
    assert all("rtsp_transport" not in open_options(scheme, "udp") for scheme in ("", "http", "https", "udp"))
