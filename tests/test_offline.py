"""Tests cannot reach the network, and local sockets still work."""

import os
import socket

import pytest


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_internet_sockets_are_refused(family, method):
    with (
        socket.socket(family) as sock,
        pytest.raises(RuntimeError, match=r"tests run offline"),
    ):
        getattr(sock, method)(("localhost", 9))


def test_names_are_not_looked_up():
    with pytest.raises(RuntimeError, match=r"'example\.org'.*offline"):
        socket.create_connection(("example.org", 80), timeout=1)


def test_unix_sockets_stay_usable():
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"


def test_hugging_face_libraries_are_told_to_stay_offline():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["TRANSFORMERS_OFFLINE"] == "1"
