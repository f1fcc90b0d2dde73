"""`ostraka join`: this party's part of a federation, over real connections, until it ends."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ostraka.app import agree
from ostraka.app.build import BUILTIN, Recipe, build
from ostraka.app.config import Config, PartyEntry, load
from ostraka.app.errors import Exit, UserError
from ostraka.app.folder import Folder
from ostraka.app.identities import opened, passphrase_source
from ostraka.app.site import LATER, Site, app_digest, enforce, load_site
from ostraka.app.sockets import listening
from ostraka.crypto.sign import parse_identity
from ostraka.drivers.connection import Refusal
from ostraka.drivers.identity import Identity
from ostraka.drivers.journal import DamagedJournalError
from ostraka.drivers.link import Bounds
from ostraka.drivers.node import Ended, Node, Patience
from ostraka.drivers.relay import through
from ostraka.drivers.tcp import Handlers, Peer, Transport, to_address
from ostraka.drivers.tls import PinnedTls
from ostraka.drivers.trace import Reader, Record
from ostraka.net import Abort, Timeout

SITE = "site.toml"
RELAY = "relay"
QUEUED = 8  # frames for one peer that is away; a round has one


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


def permitted(member: Membership) -> Recipe:
    """Hold the federation against the site's policy before anything of it runs; gives its recipe.

    Raises UserError (64) with every clashing line.
    """
    config, base = member.config, member.federation.resolve().parent
    later: Literal["later"] | None = None if config.privacy is None else LATER
    enforce(
        member.site,
        config,
        member.federation,
        epsilon=later,
        # A relay computes nothing: it needs no app file, and none to be allowed.
        app_digest=BUILTIN if member.entry.role == RELAY else app_digest(config, base),
    )
    return build(config)


def join(
    federation: Path,
    identity: Path,
    site: Path | None,
    *,
    ask: bool = False,
    readers: tuple[Reader, ...] = (),
    stopping: Callable[[], bool] = lambda: False,
    lie: str | None = None,
) -> Record:
    """Take part until the federation ends; gives this party's summary.

    Started again, it goes on where it stopped. ``lie`` is for rehearsals: the attack that this
    worker mounts. Raises UserError with the exit code of docs/exit-codes.md.
    """
    member = membership(federation, identity, site, ask)
    recipe = permitted(member)
    if member.entry.role == RELAY:
        from ostraka.app.relaying import relay

        return relay(member, readers, stopping)
    from threadpoolctl import threadpool_limits

    _limit_memory(member.site.place.memory_limit_mb)
    try:
        with threadpool_limits(limits=1):
            return _take_part(member, recipe, readers, stopping, lie)
    except DamagedJournalError as damage:
        raise UserError(str(damage), Exit.STORAGE) from None
    except MemoryError:
        raise UserError(
            "out of memory; state is kept; raise place.memory_limit_mb in site.toml if it is set",
            Exit.STOPPED,
        ) from None


def _limit_memory(megabytes: int | None) -> None:
    """Let this process allocate no more than the site allows (10^6 bytes each)."""
    if megabytes is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 1_000_000, hard))


def _take_part(
    member: Membership,
    recipe: Recipe,
    readers: tuple[Reader, ...],
    stopping: Callable[[], bool],
    lie: str | None,
) -> Record:
    folder = _folder(member)
    with folder.locked():
        if (done := _finished(folder)) is not None:
            return done
        role = _role(member, recipe, folder, lie)
        for reader in readers:
            role.trace.add(reader)
        with ExitStack() as stack:
            stack.callback(role.close)
            at = member.site.metrics_at()
            if at is not None:
                stack.callback(_metrics(member, role, at))
            return _live(member, folder, role, stopping)


def _metrics(member: Membership, role: Any, at: tuple[str, int]) -> Callable[[], None]:
    """Start the metrics endpoint; gives what stops it."""
    from ostraka.drivers.metrics import Metrics, MetricsMissing

    try:
        metrics = Metrics(member.me, role.name)
    except MetricsMissing as missing:
        raise UserError(str(missing)) from None
    role.trace.add(metrics)
    with listening(at, "place.metrics"):
        return metrics.serve(at)


def _role(member: Membership, recipe: Recipe, folder: Folder, lie: str | None) -> Any:
    from ostraka.app.assemble import assemble_own
    from ostraka.app.roles import ServerRole, WorkerRole
    from ostraka.crypto.prg import Prg

    config, base = member.config, member.federation.resolve().parent
    secret = None if config.privacy is None else Prg(os.urandom(32))
    place = member.site.place
    if lie is not None:
        from ostraka.app.liar import LiarRole

        return LiarRole(config, recipe, folder, member.me, lie, base, place.data_dir)
    own = assemble_own(config, recipe, base, place.data_dir, member.me, secret)
    _check_start(folder, own.about)
    if own.about["app"] not in (BUILTIN, app_digest(config, base).removeprefix("sha256:")):
        raise UserError(f"the app file {config.training.app} changed while it was read")
    if member.entry.role == "server":
        return ServerRole(config, recipe, own, folder)
    if config.privacy is not None:
        spent = own.epsilon(config.federation.rounds, complete=False)
        enforce(
            member.site,
            config,
            member.federation,
            epsilon=None if spent is None else spent["local"],
            app_digest=app_digest(config, base),
        )
    return WorkerRole(config, recipe, own, folder, member.me, secret=secret is not None)


def _folder(member: Membership) -> Folder:
    """This party's state: as it was left, or made now."""
    if (member.state / "federation.toml").exists():
        folder = Folder.existing(member.state)
        before = agree.digests(folder.config())
        fields = agree.differing(before, agree.digests(member.config))
        if not fields:
            return folder
        if folder.begun:
            raise UserError(
                f"{member.state} holds this party's state of a run with another federation file "
                f"(different: {', '.join(fields[:5])}); give the new one another federation.name, "
                "or move the old state away",
                Exit.DIFFERS,
            )
        with folder.locked():  # a file that the others refused leaves nothing worth keeping
            folder.clear()
    base = str(member.federation.resolve().parent)
    try:
        return Folder.new(member.state, member.config, {"base": base, "party": member.me})
    except OSError as error:
        raise UserError(
            f"{error.filename or member.state}: {error.strerror}", Exit.STORAGE
        ) from None


def _check_start(folder: Folder, about: Mapping[str, Any]) -> None:
    """Refuse to go on with another app file or initial model than this party began with."""
    from ostraka.drivers.checkpoint import write_durably

    facts = folder.facts()
    if "initial_model" not in facts:
        write_durably(folder.about, json.dumps({**facts, **about}).encode())
        return
    for key, value in about.items():
        if facts.get(key) != value:
            raise UserError(
                f"the {key.replace('_', ' ')} has changed since this party began the run in "
                f"{folder.path}; a run goes on only as it began",
                Exit.DIFFERS,
            )


def _finished(folder: Folder) -> Record | None:
    """The summary of a run that this party has finished already."""
    try:
        found: Record = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def _live(member: Membership, folder: Folder, role: Any, stopping: Callable[[], bool]) -> Record:
    config = member.config
    network = config.network
    wait_s = network.round_deadline_s if role.resumed else network.join_deadline_s
    node = Node(
        member.me,
        role.program,
        lambda handlers: transport(member, role, handlers),
        patience=Patience(
            needs=role.quorum,
            join_s=min(wait_s, network.join_deadline_s),
            give_up_s=network.give_up_s,
            linger_s=network.round_deadline_s,
            refusals=len(role.peers) // 2,
            sees_off=role.sees_off,
        ),
        trace=role.trace,
        limits=role.limits,
        held=role.held,
        ready=role.ready,
        stopping=stopping,
    )
    role.traffic = node
    role.begin()
    with listening(member.site.listens_at(config, member.me), "place.listen"):
        ended = node.run()
    if ended.status != "done":
        raise _failure(member, role, ended)
    done: Record = role.results(ended.result)
    return done


def transport(member: Membership, role: Any, handlers: Handlers) -> Transport:
    """This party's connections, with pinned TLS, as the federation and site files say."""
    peers: tuple[str, ...] = role.peers
    config = member.config
    keys = {p.name: parse_identity(p.identity or "") for p in config.party}
    context = agree.federation_digest(config)
    linked = {name: _peer(member, name, role.expects(name), context) for name in peers}
    return Transport(
        member.me,
        linked,
        PinnedTls(member.identity, {name: keys[name] for name in peers}, member.passphrase),
        agree.naming_keys(config, handlers),
        context=context,
        details=agree.encode(agree.digests(config)),
        listen=member.site.listens_at(config, member.me),
        bounds=Bounds(QUEUED, QUEUED * role.limits.frame_bytes),
    )


def _peer(member: Membership, name: str, expects: Mapping[str, int], context: bytes) -> Peer:
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
        through(to_address(at), security, relay.name, name, context),
        accepting=order.index(member.me) < order.index(name),
    )


def _failure(member: Membership, role: Any, ended: Ended) -> UserError:
    """Why this party's life ended too early, with its exit code."""
    again = "state is kept; the same command goes on"
    role.trace("stopped", why=ended.status)
    match ended.status:
        case "stopped":
            return UserError(f"stopped; {again}", Exit.STOPPED)
        case "alone":
            return UserError(
                f"{', '.join(ended.missing)} could not be reached in time; {again}",
                Exit.UNAVAILABLE,
            )
        case "refused" if ended.refusal is not None:
            return _refused(member, *ended.refusal)
        case _:
            pass
    match ended.error:
        case Timeout() as timeout:
            return UserError(f"nobody answered in time ({timeout}); {again}", Exit.UNAVAILABLE)
        case Abort(reason=reason, blamed=blamed):
            code = Exit.PROTOCOL if blamed else Exit.STOPPED
            return UserError(f"{reason}; {again}", code)
        case _:
            raise AssertionError(f"a party ended as {ended}")


def _refused(member: Membership, peer: str, refusal: Refusal) -> UserError:
    """Another party will not talk to this one."""
    if refusal.code == "configuration":
        keys = agree.keys(member.config, refusal)
        return UserError(agree.difference_text(peer, keys), Exit.DIFFERS)
    if refusal.code == "identity":
        return UserError(f"{peer} refuses this party: {refusal.text}", Exit.IDENTITY)
    return UserError(f"{peer} refuses this party: {refusal.text}", Exit.PROTOCOL)
