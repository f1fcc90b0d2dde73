"""What to say where a party cannot listen: a sentence and exit code 69, as `doctor` says it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ostraka.app.config import Host
from ostraka.app.errors import Exit, UserError

UNBOUND = frozenset(
    {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT}
)


@contextmanager
def listening(at: Host | None, key: str) -> Iterator[None]:
    """Raise UserError (69) for a socket that cannot be opened ``at``; other errors pass.

    ``key`` is the key of site.toml that names another place. Storage errors carry their file's
    name, errors of sockets none, which is how the two are told apart.
    """
    try:
        yield
    except OSError as error:
        unknown = isinstance(error, socket.gaierror)
        if at is None or error.filename is not None or not (unknown or error.errno in UNBOUND):
            raise
        raise UserError(
            f"cannot listen on {at[0]} port {at[1]}: {error.strerror or error}; stop what listens "
            f"there, or name another place with {key} in site.toml",
            Exit.UNAVAILABLE,
        ) from None
