"""TLS 1.3, mutual, pinned: the only security between parties.

A federation file names a party's Ed25519 key and nothing else. OpenSSL needs a certificate to
trust, so each side makes one in memory for every pinned key (`identity.anchor`): a peer's own
certificate verifies exactly if it was signed by that key, is not expired, and its owner proves
possession in the handshake. What a certificate says of itself (names, other keys) counts nothing:
after the handshake the peer's public key must be one of those that are pinned.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ostraka.drivers.channel import part, ready
from ostraka.drivers.connection import Refusal
from ostraka.drivers.frames import Type, pack
from ostraka.drivers.identity import Identity, anchor, public_of, subject_of
from ostraka.drivers.security import Refused

Passphrase = Callable[[], bytes]

_ALERTS = {
    "UNKNOWN_CA": "our key (fingerprint {0}) is not in its federation file: compare what "
    "`ostraka identity show` says of both files",
    "CERTIFICATE_EXPIRED": "our certificate has expired: `ostraka identity renew` makes a new one",
    "BAD_CERTIFICATE": "our certificate is not acceptable to it",
    "CERTIFICATE_UNKNOWN": "our certificate is not acceptable to it",
    "UNSUPPORTED_CERTIFICATE": "our certificate is of a kind that it does not accept",
    "CERTIFICATE_REQUIRED": "it wants a certificate and was shown none",
    "PROTOCOL_VERSION": "it speaks TLS 1.3 only",
    "DECRYPT_ERROR": "our certificate's signature is wrong",
    "ACCESS_DENIED": "it denies us access",
}
"""What the other side's alert says about us, in words."""

UNKNOWN_KEY = (18, 19, 20, 21)
"""OpenSSL's codes for a certificate that no anchor of ours has signed."""


class PinnedTls:
    """TLS for one party: its identity, and the keys of those whom it may meet."""

    def __init__(
        self,
        identity: Identity,
        pins: Mapping[str, bytes],
        passphrase: Passphrase | None = None,
    ) -> None:
        self._names = {public: name for name, public in pins.items()}
        if len(self._names) != len(pins):
            raise ValueError("two parties have the same key")
        self._identity = identity
        path, keys = identity.path, self._names
        self._server = _context(ssl.PROTOCOL_TLS_SERVER, path, passphrase, keys)
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT, path, passphrase, keys)

    async def accept(self, sock: socket.socket) -> tuple[socket.socket, str | None]:
        """See Security."""
        secured, peer = await self._shake(sock, self._server, server=True)
        return secured, peer

    async def dial(self, sock: socket.socket, peer: str) -> socket.socket:
        """See Security."""
        secured, name = await self._shake(sock, self._client, server=False)
        if name != peer:
            why = f"the key of {name} answered where {peer} was expected"
            await _turn_away(secured, why)
            raise Refused(why)
        return secured

    def explain(self, error: Exception | None) -> str | None:
        """See Security."""
        if not isinstance(error, ssl.SSLError) or "ALERT" not in (error.reason or ""):
            return None
        said = next((said for word, said in _ALERTS.items() if word in error.reason), None)
        return None if said is None else said.format(self._identity.fingerprint)

    async def _shake(
        self, sock: socket.socket, context: ssl.SSLContext, *, server: bool
    ) -> tuple[ssl.SSLSocket, str]:
        """Handshake; gives the secured socket and the name that its key belongs to.

        Raises Refused where this side refuses, ssl.SSLError where the other one says it does.
        """
        secured = context.wrap_socket(sock, server_side=server, do_handshake_on_connect=False)
        with contextlib.ExitStack() as undo:
            undo.callback(secured.close)
            try:
                await _handshake(secured)
                name = self._owner(secured)
            except Refused as refused:
                await _turn_away(secured, str(refused))
                raise
            except ssl.SSLError as error:
                await part(secured)
                if self.explain(error) is not None:
                    raise
                raise Refused(_words(error)) from error
            undo.pop_all()
        return secured, name

    def _owner(self, sock: ssl.SSLSocket) -> str:
        """The party whose pinned key stands in the peer's certificate."""
        der = sock.getpeercert(binary_form=True) or b""
        public = public_of(der)
        if public is None:
            raise Refused("its certificate holds no Ed25519 key")
        name = self._names.get(public)
        if name is None:
            raise Refused("its key is not in the federation file")
        if subject_of(der) != name:
            raise Refused(f"the key of {name} shows a certificate in another name")
        return name


def _context(
    protocol: int, path: Path, passphrase: Passphrase | None, pins: Iterable[bytes]
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # a party is its key, whatever its address
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # sessions are not resumed: every connection proves its key anew
    context.load_cert_chain(path, password=passphrase)
    context.load_verify_locations(cadata=b"".join(anchor(public) for public in pins))
    return context


async def _handshake(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await ready(sock, to_write=False)
        except ssl.SSLWantWriteError:
            await ready(sock, to_write=True)
        else:
            return


async def _turn_away(sock: ssl.SSLSocket, why: str) -> None:
    """The handshake is over, so that TLS has no alert for this: say it in a frame."""
    refusal = pack(Type.REFUSE, body=Refusal("identity", why).encode())
    with contextlib.suppress(OSError):
        sock.send(b"".join(refusal))
    await part(sock)


def _words(error: ssl.SSLError) -> str:
    """What this side saw, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in UNKNOWN_KEY:
            return "certificate refused: it is of a key that the federation file does not name"
        return f"certificate refused: {error.verify_message}"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it showed no certificate"
    return f"no TLS 1.3 handshake: {(error.reason or str(error)).lower().replace('_', ' ')}"
