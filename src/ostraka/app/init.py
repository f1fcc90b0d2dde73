"""`ostraka init`: a federation file, an app file and a site file to edit, runnable as they are."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from ostraka.app.config import check, load
from ostraka.app.errors import Exit, UserError
from ostraka.drivers.checkpoint import write_durably
from ostraka.learn.initial import FILE as INITIAL

FEDERATION, APP, SITE = "federation.toml", "my_app.py", "site.toml"
PLACE = "# initial_model ="


def write_federation(folder: Path) -> list[Path]:
    """Write the files; gives their paths. Refuses to overwrite anything (64)."""
    targets = [folder / name for name in (FEDERATION, APP, SITE, INITIAL)]
    for target in targets:
        if target.exists():
            raise UserError(f"{target} exists already; name another folder")
    templates = files("ostraka.app") / "templates"
    text = (templates / FEDERATION).read_text(encoding="utf-8")
    name = folder.resolve().name
    text = text.replace('name = "my-federation"', f'name = "{name}"', 1)
    check(tomllib.loads(text), f"the folder's name {name!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / APP, (templates / "my_app.py.txt").read_bytes())
        write_durably(folder / SITE, (templates / SITE).read_bytes())
        write_durably(folder / FEDERATION, text.encode())
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", Exit.STORAGE) from None
    made = [folder / FEDERATION, folder / APP, folder / SITE]
    if find_spec("torch") is not None:
        made.append(_add_initial_model(folder))
    return made


def _add_initial_model(folder: Path) -> Path:
    """Make the model that everybody starts from and write its digest into the file."""
    from ostraka.app.assemble import initial_model
    from ostraka.learn.initial import model_digest, save_vector

    path = folder / FEDERATION
    vector = initial_model(load(path), folder)
    save_vector(folder / INITIAL, vector)
    text = path.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(PLACE))
    text = text.replace(line, f'initial_model = "{model_digest(vector)}"', 1)
    write_durably(path, text.encode())
    return folder / INITIAL
