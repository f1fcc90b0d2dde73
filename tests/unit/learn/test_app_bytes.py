"""Only the allowed bytes of an app file run, and its errors still say where they come from."""

import hashlib
import traceback
from pathlib import Path

import pytest

from ostraka.learn.app import App, AppError, load_app

APP = """
from pathlib import Path
import torch
from ostraka.learn.app import App
Path(__file__).with_name("ran").touch()
app = App(lambda: torch.nn.Linear(2, 1), lambda site: (torch.ones(4, 2), torch.ones(4)))
"""
BROKEN = APP.replace("app = App(", "nothing = 1 / 0  # here\napp = App(")


def written(folder: Path, text: str = APP) -> str:
    """The digest of the file, as far as it was allowed."""
    (folder / "my_app.py").write_bytes(text.encode())
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_allowed_bytes_run(tmp_path: Path) -> None:
    allowed = written(tmp_path)
    assert isinstance(load_app("my_app:app", tmp_path, allowed), App)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", ["edited", "other", "empty", "case"])
def test_other_bytes_do_not_run_at_all(tmp_path: Path, change: str) -> None:
    allowed = written(tmp_path)
    match change:
        case "edited":
            written(tmp_path, APP + "# a comment is a change\n")
        case "other":
            allowed = hashlib.sha256(b"another file").hexdigest()
        case "empty":
            allowed = ""
        case _:
            allowed = allowed.upper()
    with pytest.raises(AppError, match="whose digest was allowed; nothing of it ran"):
        load_app("my_app:app", tmp_path, allowed)
    assert not (tmp_path / "ran").exists()


def test_without_a_digest_any_bytes_run(tmp_path: Path) -> None:
    written(tmp_path)
    assert isinstance(load_app("my_app:app", tmp_path), App)
    assert (tmp_path / "ran").exists()


def test_the_bytes_that_were_compared_are_the_bytes_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes as soon as it has been read."""
    allowed = written(tmp_path)
    read = Path.read_bytes

    def read_and_swap(path: Path) -> bytes:
        content = read(path)
        path.write_text(BROKEN)
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_swap)
    assert isinstance(load_app("my_app:app", tmp_path, allowed), App)
    assert (tmp_path / "my_app.py").read_text() == BROKEN


def test_an_error_inside_names_file_and_line(tmp_path: Path) -> None:
    allowed = written(tmp_path, BROKEN)
    with pytest.raises(ZeroDivisionError) as error:
        load_app("my_app:app", tmp_path, allowed)
    last = traceback.extract_tb(error.value.__traceback__)[-1]
    assert last.filename == str(tmp_path / "my_app.py")
    assert last.lineno == BROKEN[: BROKEN.index("nothing =")].count("\n") + 1
    assert last.line == "nothing = 1 / 0  # here"
