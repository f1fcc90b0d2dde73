"""How this party meets the others: who dials whom, through which relay, with which keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ostraka.app import agree
from ostraka.app.cast import RELAY
from ostraka.app.errors import UserError
from ostraka.app.membership import Membership
from ostraka.app.parties.roles import Role
from ostraka.crypto.sign import parse_identity
from ostraka.drivers.relay import through
from ostraka.drivers.tcp import Handlers, Peer, Transport, to_address
from ostraka.drivers.tls import PinnedTls


def transport(member: Membership, role: Role, handlers: Handlers) -> Transport:
    """This party's connections, with pinned TLS, as the federation and site files say."""
    peers, config = role.peers, member.config
    keys = {p.name: parse_identity(p.identity or "") for p in config.party}
    context = agree.federation_digest(config, member.app)
    ours = agree.digests(config, member.app)
    linked = {name: _peer(member, name, role) for name in peers}
    return Transport(
        member.me,
        linked,
        PinnedTls(member.identity, {name: keys[name] for name in peers}, member.passphrase),
        agree.naming_keys(ours, handlers),
        context=context,
        details=agree.encode(ours),
        listen=member.site.listens_at(config, member.me),
    )


def _peer(member: Membership, name: str, role: Role) -> Peer:
    bounds, tempo = role.link_of(name)
    met = _met(member, name, role.expects(name))
    return replace(met, bounds=bounds, tempo=tempo)


def _met(member: Membership, name: str, expects: Mapping[str, int]) -> Peer:
    """How a peer is met: of two parties with addresses the later one in the file dials.

    Two without meet at the relay, where the earlier one plays the server.
    """
    config = member.config
    order = [p.name for p in config.party]
    theirs = member.site.address_of(config, name)
    ours = member.site.listens_at(config, member.me)
    if theirs is not None and (ours is None or order.index(name) < order.index(member.me)):
        return Peer(name, expects, to_address(theirs))
    if ours is not None:
        return Peer(name, expects)
    relay = next((p for p in config.party if p.role == RELAY), None)
    at = None if relay is None else member.site.address_of(config, relay.name)
    if relay is None or at is None:
        raise UserError(
            f"neither {member.me} nor {name} has an address: give one of them an address, or add "
            'a [[party]] with role = "relay" and an address that both can reach'
        )
    pin = {relay.name: parse_identity(relay.identity or "")}
    security = PinnedTls(member.identity, pin, member.passphrase)
    return Peer(
        name,
        expects,
        through(to_address(at), security, relay.name, name, agree.federation_digest(config)),
        accepting=order.index(member.me) < order.index(name),
    )
