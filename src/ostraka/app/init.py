"""`ostraka init`: a federation file, an app file and a site file to edit, runnable as they are."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from ostraka.app.build import TRUST_MODELS, trust_model
from ostraka.app.config import check, load
from ostraka.app.errors import Exit, UserError
from ostraka.app.tables import normal
from ostraka.drivers.checkpoint import write_durably
from ostraka.learn.initial import FILE as INITIAL

FEDERATION, APP, SITE = "federation.toml", "my_app.py", "site.toml"
COLUMN = 32
"""Where the comments of the site file begin."""
PLACES = (
    r"^[ \t]*initial[_-]model[ \t]*=.*$",
    r"^[ \t]*#[ \t]*initial[_-]model[ \t]*=.*$",
    r"^[ \t]*\[[ \t]*training[ \t]*\].*$",
)
"""Where training.initial_model is written: its line, a commented one, the head of its table."""


def write_federation(folder: Path, trust: str = TRUST_MODELS[0]) -> list[Path]:
    """Write the files for a trust model; gives their paths.

    Refuses to overwrite anything, and a trust model that is not known (64).
    """
    trust = trust_model(trust)
    targets = [folder / name for name in (FEDERATION, APP, SITE, INITIAL)]
    for target in targets:
        if target.exists():
            raise UserError(f"{target} exists already; name another folder")
    templates = files("ostraka.app") / "templates"
    text = (templates / template(trust)).read_text(encoding="utf-8")
    site = (templates / SITE).read_text(encoding="utf-8")
    line = 'trust = ["trusted"]'
    site = site.replace(line.ljust(COLUMN), f'trust = ["{trust}"]'.ljust(COLUMN), 1)
    name = folder.resolve().name
    text = text.replace('name = "my-federation"', f'name = "{name}"', 1)
    check(normal(tomllib.loads(text)), f"the folder's name {name!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / APP, (templates / "my_app.py.txt").read_bytes())
        write_durably(folder / SITE, site.encode())
        write_durably(folder / FEDERATION, text.encode())
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", Exit.STORAGE) from None
    made = [folder / FEDERATION, folder / APP, folder / SITE]
    if find_spec("torch") is not None:
        write_initial_model(folder / FEDERATION)
        made.append(folder / INITIAL)
    return made


def template(trust: str) -> str:
    """The name of the federation file that is written for a trust model."""
    return FEDERATION if trust == TRUST_MODELS[0] else f"federation-{trust}.toml"


def write_initial_model(federation: Path) -> tuple[Path, str]:
    """Make the model that everybody starts from, from the app and the seed; gives path and digest.

    It lies beside the federation file, whose key training.initial_model is set to its digest; an
    older one is overwritten. Raises UserError: 64 where the key has no line that can be set.
    """
    from ostraka.app.assemble import initial_model
    from ostraka.learn.initial import model_digest, save_vector

    config, base = load(federation), federation.resolve().parent
    vector = initial_model(config, base)
    digest = model_digest(vector)
    text = _with_key(federation, f'initial_model = "{digest}"')
    save_vector(base / INITIAL, vector)
    write_durably(federation, text.encode())
    return base / INITIAL, digest


def _with_key(federation: Path, line: str) -> str:
    """The file's text with this line in place of the old one, or first in [training]."""
    text = federation.read_text(encoding="utf-8")
    wanted = tomllib.loads(line)["initial_model"]
    for pattern in PLACES:
        found = re.search(pattern, text, re.MULTILINE)
        if found is None:
            continue
        kept = f"{found[0]}\n" if found[0].lstrip().startswith("[") else ""
        made = text[: found.start()] + kept + line + text[found.end() :]
        if _initial_model(made) == wanted:
            return made
    raise UserError(f"{federation} has no line [training] to write under: add it, with {line}")


def _initial_model(text: str) -> object:
    """What a reader of this federation file would find; None where it is none."""
    try:
        return check(normal(tomllib.loads(text)), FEDERATION).training.initial_model
    except (tomllib.TOMLDecodeError, UserError):
        return None
