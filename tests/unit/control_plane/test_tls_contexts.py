"""Contexts made of files: what is refused with which words, and what a change of the files does."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl

import pytest

from certificates import OPENSSL, make_ca, make_certificate, make_crl
from pymotor.config.deploy import TLSBlock
from pymotor.control_plane.tls import ClientTLS, ServerTLS, TLSError, TLSFiles, tls_files

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_ca(tmp_path_factory.mktemp("authority") / "ca")


def files(authority, certificate, passwd="", crl=""):
    return TLSFiles(
        str(authority.ca_file), str(certificate.cert_file), str(certificate.key_file), str(passwd), str(crl)
    )


def greet(server, client, name="localhost"):
    """Both ends of a handshake in memory: what the client knows of the server, and the server of the client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert theirs.version() == "TLSv1.3"
    return theirs.getpeercert(), ours.getpeercert()


def test_both_sides_show_what_the_authority_signed(authority, tmp_path):
    made = files(authority, make_certificate(authority, tmp_path))
    seen, shown = greet(ServerTLS(made, mutual=True).context(), ClientTLS(made).context())
    assert ("DNS", "localhost") in seen["subjectAltName"]
    assert shown["serialNumber"] == seen["serialNumber"]


def test_a_name_that_is_not_in_the_certificate_is_no_match(authority, tmp_path):
    made = files(authority, make_certificate(authority, tmp_path, names=("other.example",), ips=()))
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        greet(ServerTLS(made, mutual=False).context(), ClientTLS(made).context())


def test_a_common_name_is_no_name(authority, tmp_path):
    made = files(authority, make_certificate(authority, tmp_path, "localhost", names=(), ips=()))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|no .*name"):
        greet(ServerTLS(made, mutual=False).context(), ClientTLS(made).context())


def test_clients_may_show_none_where_it_is_not_insisted(authority, tmp_path):
    made = files(authority, make_certificate(authority, tmp_path))
    bare = ClientTLS(TLSFiles(str(authority.ca_file), "", "")).context()
    _, shown = greet(ServerTLS(made, mutual=True, insist=False).context(), bare)
    assert not shown
    with pytest.raises(ssl.SSLError, match=r"(?i)peer did not return"):
        greet(ServerTLS(made, mutual=True).context(), bare)


def test_a_revoked_client_is_refused_also_when_the_list_comes_later(authority, tmp_path):
    revoked = make_certificate(authority, tmp_path, "revoked")
    listed = make_crl(authority, tmp_path / "ca.crl")
    server = ServerTLS(files(authority, make_certificate(authority, tmp_path), crl=listed), mutual=True)
    client = ClientTLS(files(authority, revoked)).context()
    greet(server.context(), client)
    assert not server.renewed()
    make_crl(authority, listed, (revoked,))
    assert server.renewed()
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        greet(server.context(), client)
    with pytest.raises(TLSError, match="revoked"):
        ClientTLS(files(authority, revoked, crl=listed))


def test_a_removed_authority_counts_no_more(authority, tmp_path):
    other = make_ca(tmp_path / "other")
    both = tmp_path / "both.crt"
    both.write_bytes(authority.ca_file.read_bytes() + other.ca_file.read_bytes())
    made = make_certificate(authority, tmp_path)
    server = ServerTLS(TLSFiles(str(both), str(made.cert_file), str(made.key_file)), mutual=True)
    shown = make_certificate(other, tmp_path, "client")
    client = ClientTLS(TLSFiles(str(authority.ca_file), str(shown.cert_file), str(shown.key_file))).context()
    greet(server.context(), client)
    both.write_bytes(authority.ca_file.read_bytes())
    assert server.renewed()
    with pytest.raises(ssl.SSLCertVerificationError):
        greet(server.context(), client)


def test_the_password_is_read_and_never_told(authority, tmp_path, caplog):
    secret = tmp_path / "passwd"
    made = files(authority, make_certificate(authority, tmp_path, password="correct horse"), secret)
    with pytest.raises(TLSError, match="has a password"):
        ServerTLS(made, mutual=True)
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    server = ServerTLS(made, mutual=True)
    secret.write_text("wrong battery\n")
    with caplog.at_level(logging.DEBUG):
        assert not server.renewed()
        assert not server.renewed()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "passwd_file" in told[0]
    assert "horse" not in caplog.text
    assert "battery" not in caplog.text


@pytest.mark.parametrize(("when", "words"), [("expired", "has expired"), ("not_yet", "not valid yet")])
def test_a_certificate_out_of_its_time_is_refused(authority, tmp_path, when, words):
    made = files(authority, make_certificate(authority, tmp_path, **{when: True}))
    with pytest.raises(TLSError, match=rf"cert_file \S+server.crt .*{words}"):
        ServerTLS(made, mutual=True)
    with pytest.raises(TLSError, match=words):
        ClientTLS(made)


def test_a_key_of_another_certificate_is_refused(authority, tmp_path):
    one, other = (make_certificate(authority, tmp_path, stem) for stem in ("one", "other"))
    mixed = TLSFiles(str(authority.ca_file), str(one.cert_file), str(other.key_file))
    with pytest.raises(TLSError, match="is not the key of cert_file"):
        ServerTLS(mixed, mutual=True)


@pytest.mark.parametrize("content", [b"nonsense", b"", b"0\x82\x01\n\xff", b"-----BEGIN PRIVATE KEY-----\n!\n"])
@pytest.mark.parametrize("which", ["cert_file", "key_file"])
def test_the_file_that_is_no_pem_is_named(authority, tmp_path, which, content):
    made = make_certificate(authority, tmp_path)
    getattr(made, which).write_bytes(content)
    with pytest.raises(TLSError, match=rf"^{which} {getattr(made, which)} holds no (certificate|private key) in PEM"):
        ServerTLS(files(authority, made), mutual=True)


def test_a_certificate_taken_for_a_key_is_told(authority, tmp_path):
    made = make_certificate(authority, tmp_path)
    made.cert_file.chmod(0o600)
    with pytest.raises(TLSError, match=rf"^key_file {made.cert_file} holds no private key"):
        ServerTLS(TLSFiles(str(authority.ca_file), str(made.cert_file), str(made.cert_file)), mutual=True)


def test_a_key_that_everybody_may_read_is_refused(authority, tmp_path):
    made = make_certificate(authority, tmp_path)
    made.key_file.chmod(0o644)
    with pytest.raises(TLSError, match=r"open to every user.*chmod o="):
        ServerTLS(files(authority, made), mutual=True)
    made.key_file.chmod(0o640)
    ServerTLS(files(authority, made), mutual=True)


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file", "crl_file"])
def test_each_file_that_is_garbage_or_missing_is_named(authority, tmp_path, key):
    made = make_certificate(authority, tmp_path)
    good = files(authority, made, crl=make_crl(authority, tmp_path / "ca.crl"))
    for path, content in ((tmp_path / "none", None), (tmp_path / "garbage", b"\x00garbage"), (tmp_path / "no", b"")):
        if content is not None:
            path.write_bytes(content)
            path.chmod(0o600)
        named = TLSFiles(**{**vars(good), key: str(path)})
        with pytest.raises(TLSError, match=key):
            ServerTLS(named, mutual=True)


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
def test_what_is_needed_must_be_named(authority, tmp_path, key):
    good = files(authority, make_certificate(authority, tmp_path))
    with pytest.raises(TLSError, match=f"{key} names no file"):
        ServerTLS(TLSFiles(**{**vars(good), key: ""}), mutual=True)


def test_a_broken_set_changes_nothing_and_a_later_good_one_does(authority, tmp_path, caplog):
    made = make_certificate(authority, tmp_path)
    server = ServerTLS(files(authority, made), mutual=True)
    before = server.context()
    whole = made.key_file.read_bytes()
    made.key_file.write_bytes(whole[:40])
    assert not server.renewed()
    assert not server.renewed()
    assert server.context() is before
    assert len(caplog.records) == 1
    made.cert_file.unlink()
    assert not server.renewed()
    make_certificate(authority, tmp_path)
    assert server.renewed()
    assert server.context() is not before
    assert not server.renewed()


def test_a_swapped_link_is_a_change(authority, tmp_path):
    """Kubernetes renews a mounted Secret by turning one link."""
    for number in ("1", "2"):
        make_certificate(authority, tmp_path / number)
    link = tmp_path / "..data"
    link.symlink_to("1")
    server = ServerTLS(TLSFiles(str(authority.ca_file), f"{link}/server.crt", f"{link}/server.key"), mutual=True)
    fresh = tmp_path / "..fresh"
    fresh.symlink_to("2")
    os.replace(fresh, link)
    assert server.renewed()


def test_names_are_relative_to_the_configuration(tmp_path):
    block = TLSBlock(enable_tls=True, ca_file="a/ca.crt", cert_file="/b/server.crt", passwd_file="")
    found = tls_files(block, tmp_path)
    assert found is not None
    assert (found.ca_file, found.cert_file, found.passwd_file) == (str(tmp_path / "a/ca.crt"), "/b/server.crt", "")
    assert tls_files(TLSBlock(), tmp_path) is None
