"""Who this party is: its identity, its table of the federation file, its site's policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ostraka.app.config import Config, PartyEntry, load
from ostraka.app.errors import Exit, UserError
from ostraka.app.identities import opened, passphrase_source
from ostraka.app.site import Site, app_digest, load_site
from ostraka.drivers.identity import Identity

SITE = "site.toml"


@dataclass(frozen=True)
class Membership:
    """One party of one federation on this machine: everything that is decided before it speaks."""

    config: Config
    federation: Path
    site: Site
    identity: Identity
    passphrase: Callable[[], bytes] | None
    entry: PartyEntry

    @property
    def me(self) -> str:
        """This party's name."""
        return self.entry.name

    @cached_property
    def app(self) -> str:
        """The digest of the app file as first read, or "builtin"; all who train hold the same."""
        return app_digest(self.config, self.federation.resolve().parent)

    @property
    def state(self) -> Path:
        """Where this party keeps its state of this federation."""
        return self.site.place.state_dir / self.config.federation.name / self.me


def membership(federation: Path, identity: Path, site: Path | None, ask: bool) -> Membership:
    """Read and check the files that make a party. Raises UserError: 64, 66, 77.

    ``ask``: whether somebody is there to type a passphrase, if the key has one.
    """
    config = load(federation)
    policy = _policy(identity, site)
    passphrase = passphrase_source(policy.place.passphrase_file, ask)
    own = opened(identity, passphrase)
    return Membership(config, federation, policy, own, passphrase, _entry(config, federation, own))


def _policy(identity: Path, site: Path | None) -> Site:
    """The site file: the given one, or that beside the identity; without one, state lies there."""
    beside = identity.parent / SITE
    if site is not None or beside.exists():
        return load_site(beside if site is None else site)
    return load_site(None, identity.parent)


def _entry(config: Config, federation: Path, own: Identity) -> PartyEntry:
    """The table of the party that has this key."""
    if not config.party:
        raise UserError(f"{federation} has no [[party]] tables: it can only be simulated")
    entry = next((p for p in config.party if p.identity == own.text), None)
    if entry is None:
        raise UserError(
            f"the key of {own.path} ({own.fingerprint}) is in no [[party]] table of {federation}: "
            f'add identity = "{own.text}" to yours, and send the file to all others',
            Exit.IDENTITY,
        )
    if entry.name != own.name:
        raise UserError(
            f"{own.path} is the identity of {own.name!r}, but {federation} gives its key to "
            f"{entry.name!r}: the names must agree",
            Exit.IDENTITY,
        )
    without = [p.name for p in config.party if p.identity is None]
    if without:
        raise UserError(f"{federation}: {', '.join(without)} have no identity yet")
    return entry
