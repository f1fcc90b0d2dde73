"""site.toml: what this party allows and where its things are. Nothing overrides it.

The federation file says what the parties do together; this file stays at home and says what its
party takes part in. ``join`` holds the one against the other before anything leaves.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from ostraka.app.build import BUILTIN
from ostraka.app.build import TWO_SERVER as SECURE
from ostraka.app.config import (
    Above0,
    Address,
    Config,
    Host,
    Kebab,
    Name,
    Positive,
    Section,
    parse_address,
)
from ostraka.app.errors import Exit, UserError
from ostraka.app.tables import line_of, normal, read, sentence

LATER: Literal["later"] = "later"
"""Stands for an epsilon that is not known yet, because the app has not been read."""
DATA = "OSTRAKA_DATA"
HINT = "; write one, or leave --site out to allow the defaults of docs/site-file.md"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Allow(Section):
    """[allow]: what this party takes part in. None: any."""

    trust: Annotated[tuple[Kebab, ...], BeforeValidator(_listed)] = ("trusted",)
    max_rounds: Positive | None = None
    max_epsilon: Above0 | None = None
    min_noise_multiplier: Above0 | None = None
    min_workers: Positive = 3
    min_contributors: Positive | None = None
    app: Annotated[tuple[Digest, ...], BeforeValidator(_listed)] = ()
    metrics: bool = False


class Place(Section):
    """[place]: where things are; paths are absolute once ``load_site`` has read them."""

    data_dir: Path | None = None
    state_dir: Path = Path("state")
    device: str = "cpu"
    listen: Address | None = None
    metrics: Address | None = None
    memory_limit_mb: Positive | None = None
    passphrase_file: Path | None = None

    @field_validator("device")
    @classmethod
    def _cpu(cls, value: str) -> str:
        if value != "cpu":
            raise ValueError(f'this version computes on "cpu" only, got {value!r}')
        return value


class Tables(Section):
    """A whole site.toml."""

    allow: Allow = Allow()
    place: Place = Place()
    reach: dict[Name, Address] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _metrics_stay_at_home(self) -> Self:
        wanted = self.place.metrics
        if wanted is None or self.allow.metrics or _is_loopback(wanted):
            return self
        raise ValueError(
            f"place.metrics is {wanted!r}, which others can reach, but allow.metrics is false: "
            "listen on 127.0.0.1, or write metrics = true under [allow]"
        )


@dataclass(frozen=True)
class Site:
    """What one party allows, where its things are, and where it finds the others.

    ``path`` and ``text`` are the file's; None and empty where every default holds.
    """

    allow: Allow
    place: Place
    reach: dict[str, str]
    path: Path | None = None
    text: str = ""

    def address_of(self, config: Config, name: str) -> Host | None:
        """Where to dial a party: by [reach], else by its own table. None: it cannot be dialled."""
        entry = next((p for p in config.party if p.name == name), None)
        given = self.reach.get(name) or (None if entry is None else entry.address)
        return None if given is None else parse_address(given)

    def listens_at(self, config: Config, name: str) -> Host | None:
        """Where this party, called ``name``, listens: by [place] listen, else on the port of its
        own address on all interfaces. None: it only dials.
        """
        if self.place.listen is not None:
            return parse_address(self.place.listen)
        entry = next((p for p in config.party if p.name == name), None)
        if entry is None or entry.address is None:
            return None
        return "0.0.0.0", parse_address(entry.address)[1]

    def metrics_at(self) -> Host | None:
        """Where the metrics endpoint listens; None: nowhere."""
        return None if self.place.metrics is None else parse_address(self.place.metrics)


def load_site(path: Path | None, base: Path | None = None) -> Site:
    """The checked site file; None: every default, with paths below ``base`` (the current folder).

    Raises UserError: 66 for a missing file, 64 for anything that does not fit.
    """
    if path is None:
        return Site(Allow(), _placed(Place(), base or Path.cwd()), {})
    raw = read(path, "site file", HINT)
    reach = raw.pop("reach", {})  # its keys are names of parties, not ours to respell
    try:
        tables = Tables.model_validate({**normal(raw), "reach": reach})
    except ValidationError as error:
        faults = [sentence(fault, Tables) for fault in error.errors()]
        raise UserError(f"{path}: " + "; ".join(faults)) from None
    text = path.read_text(encoding="utf-8")
    return Site(tables.allow, _placed(tables.place, path.parent), dict(tables.reach), path, text)


def _placed(place: Place, base: Path) -> Place:
    """The same with every path absolute; relative ones start at ``base``, ~ is the home."""
    named = {key: getattr(place, key) for key in Place.model_fields}
    paths = {k: base.absolute() / v.expanduser() for k, v in named.items() if isinstance(v, Path)}
    if place.data_dir is None and (data := os.environ.get(DATA)):
        paths["data_dir"] = Path(data).absolute()
    return place.model_copy(update=paths)


def app_digest(config: Config, base: Path) -> str:
    """What [allow] app must name: "builtin", or "sha256:..." of the app file in ``base``.

    The file is read, not run. UserError: 66 without the file, 64 for a name that is none.
    """
    if config.training.app == BUILTIN:
        return BUILTIN
    from ostraka.learn.app import app_file

    try:
        content = app_file(config.training.app, base).read_bytes()
    except ValueError as refusal:
        raise UserError(str(refusal)) from None
    except OSError as error:
        raise UserError(
            f"the app file {error.filename} cannot be read: {error.strerror}", Exit.MISSING
        ) from None
    return "sha256:" + hashlib.sha256(content).hexdigest()


def enforce(
    site: Site,
    config: Config,
    federation: Path,
    *,
    epsilon: float | Literal["later"] | None,
    app_digest: str,
) -> None:
    """Refuse (UserError, 64) a federation that asks for more than the site allows, all clashes at
    once, one a line. Arguments as for ``clashes``.
    """
    found = clashes(site, config, federation, epsilon=epsilon, app_digest=app_digest)
    if found:
        raise UserError("\n".join(found))


def clashes(
    site: Site,
    config: Config,
    federation: Path,
    *,
    epsilon: float | Literal["later"] | None,
    app_digest: str,
) -> list[str]:
    """One sentence for everything that the federation asks and the site does not allow.

    ``epsilon`` is this party's local one after the last round; None where there is no [privacy];
    ``LATER`` before the app may run, which tells how much data there is: everything else is
    checked, and the caller asks again. ``app_digest`` is what ``app_digest()`` gives. ValueError
    for an epsilon that does not go with the configuration.
    """
    if (config.privacy is None) != (epsilon is None):
        raise ValueError("epsilon is None exactly where there is no [privacy] table")
    clash = _Clash(site, federation, _text(federation))
    allow, asked = site.allow, config.federation
    if asked.trust not in allow.trust:
        clash.over("trust", "federation", "trust", asked.trust)
    if allow.max_rounds is not None and asked.rounds > allow.max_rounds:
        clash.over("max_rounds", "federation", "rounds", asked.rounds)
    if config.n < allow.min_workers:
        section, key = ("party", None) if config.party else ("simulation", "parties")
        clash.of("min_workers", section, key, f"{config.n} workers")
    least = allow.min_contributors
    if least is not None and config.two_server.min_contributors < least and asked.trust == SECURE:
        given = config.two_server.min_contributors
        clash.over("min_contributors", "two-server", "min_contributors", given)
    _app(clash, config, app_digest)
    _privacy(clash, config, epsilon)
    return clash.found


def _app(clash: _Clash, config: Config, digest: str) -> None:
    if digest == BUILTIN or digest in clash.site.allow.app:
        return
    file = config.training.app.partition(":")[0] + ".py"
    clash.found.append(
        f"{file} has the digest {digest}, which {clash.allowed('app')} does not allow, and "
        f"{clash.asked('training', 'app')} asks for it (app = {_shown(config.training.app)}): "
        f'read the file, then add app = "{digest}" under [allow] of site.toml'
    )


def _privacy(clash: _Clash, config: Config, epsilon: float | Literal["later"] | None) -> None:
    allow, asked = clash.site.allow, config.privacy
    if asked is None:
        for key in ("max_epsilon", "min_noise_multiplier"):
            if getattr(allow, key) is not None:
                clash.of(key, "privacy", None, "no differential privacy: no [privacy] table")
        return
    least = allow.min_noise_multiplier
    if least is not None and asked.noise_multiplier < least:
        clash.over("min_noise_multiplier", "privacy", "noise_multiplier", asked.noise_multiplier)
    most = allow.max_epsilon
    # Written so that an epsilon that is not a number is refused as well.
    if most is not None and isinstance(epsilon, float | int) and not epsilon <= most:
        what = f"epsilon {epsilon:.6g} at delta {asked.delta:g} after {config.federation.rounds}"
        clash.of("max_epsilon", "privacy", "noise_multiplier", f"{what} rounds")


class _Clash:
    """Gathers sentences that name both files' lines."""

    def __init__(self, site: Site, federation: Path, text: str) -> None:
        self.site = site
        self.found: list[str] = []
        self._federation = federation
        self._text = text

    def over(self, key: str, section: str, asked: str, value: Any) -> None:
        """The value of a key of the federation file is not allowed."""
        self.of(key, section, asked, f"{asked} = {_shown(value)}")

    def of(self, key: str, section: str, asked: str | None, what: str) -> None:
        """Something that follows from a key or table of the federation file is not allowed."""
        limit = f"({key} = {_shown(getattr(self.site.allow, key))})"
        self.found.append(
            f"{self.allowed(key)} {limit} forbids what {self.asked(section, asked)} asks "
            f"({what}); change one of them or do not join"
        )

    def allowed(self, key: str) -> str:
        """Where the site says so."""
        if self.site.path is None:
            return "the site's default"
        return _place(self.site.path, line_of(self.site.text, "allow", key))

    def asked(self, section: str, key: str | None) -> str:
        """Where the federation says so."""
        return _place(self._federation, line_of(self._text, section, key))


def _place(path: Path, line: int | None) -> str:
    return f"{path} by default" if line is None else f"{path} line {line}"


def _shown(value: Any) -> str:
    return json.dumps(value)


def _text(federation: Path) -> str:
    """The file's text for line numbers; it was read before, so a failure only costs the numbers."""
    try:
        return federation.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _is_loopback(address: str) -> bool:
    host = parse_address(address)[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
