"""`ostraka identity`: make, show and renew a party's key and certificate.

What other commands need of it: ``opened`` and ``passphrase_source``.
"""

from __future__ import annotations

import functools
import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ostraka.app.errors import Exit, UserError

if TYPE_CHECKING:
    from ostraka.drivers.identity import Identity

Source = Callable[[], bytes]

ENVIRONMENT = "OSTRAKA_PASSPHRASE"
SOON = timedelta(days=30)
ROLES = ("worker", "server", "server-0", "server-1", "dealer", "relay")

identity_app = typer.Typer(
    help="Make, show and renew this party's key and certificate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help=f"File with the key's passphrase; left out: {ENVIRONMENT} if it is set."),
]
Ask = Annotated[bool, typer.Option("--passphrase", help="Ask for the passphrase here.")]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Days until the certificate expires.")]
Role = Annotated[
    str, typer.Option(help="For the table: worker, server, server-0, server-1, dealer or relay.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")]


@identity_app.command("new", epilog="Example: ostraka identity new hospital-a")
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="This party's name in the federation file.")
    ],
    out: Annotated[Path | None, typer.Option(help="The file to make; default NAME.pem.")] = None,
    passphrase_file: PassphraseFile = None,
    ask: Ask = False,
    days: Days = 825,
    role: Role = "worker",
    json_: Json = False,
) -> None:
    """Make a key and certificate, and print what to send to the others."""
    from ostraka.drivers.identity import create

    check_name(name)
    _check_role(role)
    path = Path(f"{name}.pem") if out is None else out
    source = passphrase_source(passphrase_file, ask, twice=True)
    with _explained(path):
        if os.path.lexists(path):  # before anybody types a passphrase
            raise FileExistsError
        secret = None if source is None else source()
        made = create(name, path, passphrase=secret, days=days)
    if json_:
        _print_json(made)
        return
    kept = "encrypted" if secret else "not encrypted"
    print(f"wrote {path}: private key ({kept}) and certificate; it stays here, send it to nobody\n")
    print(f"send this to the others, for the federation file:\n\n{party_table(made, role)}\n")
    print(_facts(made))
    print("read the fingerprint aloud to each of them: docs/identities.md says how and why")


@identity_app.command("show", epilog="Example: ostraka identity show hospital-a.pem")
def show(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An identity file, a federation file (.toml), or the text ed25519:... itself.",
        ),
    ],
    passphrase_file: PassphraseFile = None,
    ask: Ask = False,
    role: Role = "worker",
    json_: Json = False,
) -> None:
    """Print an identity's public line and fingerprint; of a federation file, everybody's."""
    _check_role(role)
    if file.startswith("ed25519:"):
        _show_listed([("identity", file)], json_)
    elif file.endswith(".toml"):
        from ostraka.app.config import load

        entries = load(Path(file)).party
        _show_listed([(entry.name, entry.identity) for entry in entries], json_)
    else:
        path = Path(file)
        found = _loaded(path, passphrase_source(passphrase_file, ask))
        if json_:
            _print_json(found)
        else:
            print(f"{party_table(found, role)}\n\n{_facts(found)}")


@identity_app.command("renew", epilog="Example: ostraka identity renew hospital-a.pem")
def renew(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The identity file.")],
    passphrase_file: PassphraseFile = None,
    ask: Ask = False,
    days: Days = 825,
    json_: Json = False,
) -> None:
    """Make a new certificate of the same key; nobody else needs to do anything."""
    from ostraka.drivers import identity

    with _explained(file):
        renewed = identity.renew(file, passphrase_source(passphrase_file, ask), days)
    if json_:
        _print_json(renewed)
    else:
        print(f"renewed the certificate in {file}; the key is the same\n\n{_facts(renewed)}")
        print("a party that runs takes it up when it is started again")


def opened(path: Path, source: Source | None, now: datetime | None = None) -> Identity:
    """The identity that a party is about to use.

    Raises UserError: 66 where there is no such file, 77 where it cannot be used or has expired;
    OSError for storage. ``source`` gives the passphrase, see ``passphrase_source``.
    """
    found = _loaded(path, source)
    if found.expires <= (datetime.now(UTC) if now is None else now):
        raise UserError(
            f"the certificate in {path} expired on {found.expires:%Y-%m-%d}: run "
            f"`ostraka identity renew {path}`; the key stays the same",
            Exit.IDENTITY,
        )
    return found


def passphrase_source(file: Path | None, ask: bool, *, twice: bool = False) -> Source | None:
    """Where the passphrase comes from: the file, else the environment, else a question, else None.

    Nothing is read before it is called; what it then gives, it gives again without asking.
    """
    if file is not None:
        return functools.cache(lambda: _of_file(file))
    if ENVIRONMENT in os.environ:
        return lambda: _sized(os.fsencode(os.environ[ENVIRONMENT]), ENVIRONMENT)
    return functools.cache(lambda: _asked(twice)) if ask else None


def check_name(name: str) -> None:
    """Raise UserError (64) for a name that a federation file does not take."""
    from pydantic import TypeAdapter, ValidationError

    from ostraka.app.config import Name

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UserError(
            f"{name!r} cannot be a party's name: at most 64 letters, digits and . _ - (the first "
            "one a letter or digit)"
        ) from None


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise UserError(f"there is no role {role!r}: known are {', '.join(ROLES)}")


def party_table(identity: Identity, role: str = "worker") -> str:
    """The [[party]] table that the others put into the federation file."""
    address = "" if role == "worker" else '\naddress = "HOST:7443"'
    return (
        f'[[party]]\nname = "{identity.name}"\nrole = "{role}"{address}\n'
        f'identity = "{identity.text}"'
    )


def _loaded(path: Path, source: Source | None) -> Identity:
    from ostraka.drivers.identity import load

    with _explained(path):
        return load(path, source)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong with an identity file, as sentences with their exit codes."""
    from ostraka.drivers.identity import IdentityError

    try:
        yield
    except FileExistsError:
        raise UserError(
            f"{path} exists already and is not overwritten; name another file with --out"
        ) from None
    except FileNotFoundError:
        if path.parent.is_dir():
            text = f"there is no identity file {path}; `ostraka identity new NAME` makes one"
        else:
            text = f"there is no folder {path.parent}; make it first"
        raise UserError(text, Exit.MISSING) from None
    except IdentityError as error:
        raise UserError(str(error), Exit.IDENTITY) from None


def _show_listed(entries: list[tuple[str, str | None]], json_: bool) -> None:
    """The fingerprints of identities that came as text."""
    from ostraka.crypto.sign import fingerprint, parse_identity
    from ostraka.drivers.trace import as_json

    found: dict[str, str | None] = {}
    for name, text in entries:
        try:
            found[name] = None if text is None else fingerprint(parse_identity(text))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
    if json_:
        print(as_json({"fingerprints": found}))
        return
    width = max([len(name) for name in found], default=0)
    for name, shown in found.items():
        print(f"{name:<{width}}  {shown or 'no identity in the file'}")


def _print_json(identity: Identity) -> None:
    from ostraka.drivers.trace import as_json

    facts: dict[str, Any] = {
        "name": identity.name,
        "file": str(identity.path),
        "identity": identity.text,
        "fingerprint": identity.fingerprint,
        "expires": identity.expires.isoformat(),
    }
    print(as_json(facts))


def _facts(identity: Identity) -> str:
    left = identity.expires - datetime.now(UTC)
    renew = f"; run `ostraka identity renew {identity.path}`"
    note = f", expired{renew}" if left <= timedelta(0) else f", soon{renew}" if left < SOON else ""
    return (
        f"fingerprint  {identity.fingerprint}\n"
        f"certificate  valid until {identity.expires:%Y-%m-%d}{note}"
    )


def _of_file(file: Path) -> bytes:
    """One line that only this user can read."""
    from ostraka.drivers.identity import IdentityError, read_private

    try:
        content = read_private(file)
    except FileNotFoundError:
        raise UserError(f"there is no passphrase file {file}", Exit.MISSING) from None
    except IdentityError as error:
        raise UserError(str(error), Exit.IDENTITY) from None
    return _sized(content.rstrip(b"\r\n"), str(file))


def _asked(twice: bool) -> bytes:
    try:
        first = getpass.getpass("passphrase: ")
        again = getpass.getpass("once more: ") if twice else first
    except EOFError:
        raise UserError(
            f"nobody is there to type a passphrase; use --passphrase-file or {ENVIRONMENT}"
        ) from None
    if first != again:
        raise UserError("the two passphrases differ; nothing was made, try again")
    return _sized(os.fsencode(first), "the passphrase")


def _sized(secret: bytes, where: str) -> bytes:
    from ostraka.drivers.identity import PASSPHRASE_BYTES_MAX

    if not 1 <= len(secret) <= PASSPHRASE_BYTES_MAX:
        raise UserError(
            f"{where} has {len(secret)} bytes; a passphrase has 1 to {PASSPHRASE_BYTES_MAX}"
        )
    return secret
