"""TOML files of people: reading them, sentences for what does not fit, and the line of a key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from ostraka.app.errors import Exit, UserError

Raw = dict[str, Any]
LONGEST_STATEMENT = 200
"""Lines of one key or header at most, for ``line_of``."""


def read(path: Path, what: str, hint: str = "") -> Raw:
    """The tables of a TOML file, as written. ``what`` names the kind of file in sentences.

    Raises UserError: 66 for a file that is not there or cannot be read (``hint`` says what to do
    then), 64 for one that is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no {what} {path}{hint}", Exit.MISSING) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a {what}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        twice = "overwrite" in str(error)
        hint = "; a key stands twice in one table: is a [[party]] line missing above it?"
        raise UserError(f"{path} is not valid TOML: {error}{hint if twice else ''}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", Exit.MISSING) from None


def normal(value: Any) -> Any:
    """Keys in snake_case, whatever they were written in. UserError for a key written twice."""
    if isinstance(value, dict):
        spelt: dict[str, str] = {}
        for key in value:
            if (name := key.replace("-", "_")) in spelt:
                raise UserError(f"{spelt[name]!r} and {key!r} are the same key; write one of them")
            spelt[name] = key
        return {key.replace("-", "_"): normal(inner) for key, inner in value.items()}
    return [normal(v) for v in value] if isinstance(value, list) else value


def nearest(word: str, known: list[str]) -> str:
    """A hint that names the known word nearest to this one."""
    close = difflib.get_close_matches(word.replace("_", "-"), known, n=1, cutoff=0.5)
    close = close or difflib.get_close_matches(word.replace("-", "_"), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def sentence(fault: Any, root: type[BaseModel]) -> str:
    """What one failed check of the model ``root`` means to the person who wrote the file."""
    at = ".".join(_part(part) for part in fault["loc"])
    match fault["type"]:
        case "extra_forbidden":
            *inside, key = fault["loc"]
            return f"unknown key {at!r}: {nearest(str(key), _known(inside, root))}"
        case "missing":
            return f"key {at!r} is missing and has no default"
        case "value_error":
            return (f"{at}: " if at else "") + str(fault["ctx"]["error"])
        case _:
            seen = fault["input"]
            shown = f", got {seen!r}" if isinstance(seen, int | float | str | bool) else ""
            message = str(fault["msg"])
            return f"{at}: {message[0].lower()}{message[1:]}{shown}"


def _part(part: str | int) -> str:
    """A key as people write it, or the place of a table among its like as people count."""
    if isinstance(part, int):
        return f"(number {part + 1})"
    return "two-server" if part == "two_server" else part


def _known(inside: list[Any], root: type[BaseModel]) -> list[str]:
    """The keys of the table at this place."""
    cls: Any = root
    for part in inside:
        if isinstance(part, str) and part in cls.model_fields:
            cls = _section_of(cls.model_fields[part].annotation, root)
    return [_part(name) for name in cls.model_fields]


def _section_of(annotation: Any, root: type[BaseModel]) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel))
    return next(inner, root)


def line_of(text: str, section: str, key: str | None = None) -> int | None:
    """The line, counted from 1, on which a key of a table is written; without ``key``, the table.

    Kebab-case and snake_case are the same, here and in the file, which may also write dotted keys
    and inline tables. In an array of tables the first one counts. None where it is not written, and
    for a text that is not TOML.
    """
    here: list[str] = []
    for line, statement in _statements(text):
        found = _parsed(statement)
        if found is None:
            return None
        if statement.lstrip().startswith("["):
            here = _path(found)
            found = {}
        for name in reversed(here):
            found = {name: found}
        if _holds(found, section, key):
            return line
    return None


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Every key or header with its first line. One ends where what was gathered is valid TOML:
    no part of a longer statement is.
    """
    gathered: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not gathered and line.lstrip()[:1] in ("", "#"):
            continue
        gathered.append(line)
        statement = "\n".join(gathered) + "\n"
        if _parsed(statement) is not None or len(gathered) > LONGEST_STATEMENT:
            yield number - len(gathered) + 1, statement
            gathered = []


def _parsed(statement: str) -> Any:
    try:
        return _spelt(tomllib.loads(statement))
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _spelt(value: Any) -> Any:
    """Like ``normal``, without complaints."""
    if isinstance(value, dict):
        return {key.replace("-", "_"): _spelt(inner) for key, inner in value.items()}
    return [_spelt(v) for v in value] if isinstance(value, list) else value


def _path(header: Any) -> list[str]:
    """The names in a parsed ``[a.b]`` or ``[[a]]``."""
    path = []
    while header:
        if isinstance(header, list):
            header = header[0]
            continue
        name, header = next(iter(header.items()))
        path.append(name)
    return path


def _holds(found: Any, section: str, key: str | None) -> bool:
    for name in (*section.split("."), *([] if key is None else [key])):
        name = name.replace("-", "_")
        if isinstance(found, list):
            found = found[0] if found else None
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return True
