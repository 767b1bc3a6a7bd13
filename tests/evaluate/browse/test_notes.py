"""Notes: stored outside the run's digest, and safe with concurrent writers."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.flips import silent_flips
from helpers.made_stores import write_store
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.evaluate.browse.notes import FILE, Notes

pytestmark = pytest.mark.quick


def test_a_note_is_stored_changed_and_removed(tmp_path: Path) -> None:
    notes = Notes(tmp_path, "f" * 64)
    assert notes.read() == {}
    notes.write(12, " capital letters\n")
    notes.write(3, "naïve “quotes” \ud800")  # half of a surrogate pair, which a script can send
    assert notes.read() == {"3": "naïve “quotes” \ud800", "12": "capital letters"}
    assert list(json.loads((tmp_path / FILE).read_text())["notes"]) == ["3", "12"]
    notes.write(12, "  ")
    assert list(notes.read()) == ["3"]


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    notes = Notes(tmp_path, "f" * 64)
    code = (
        "import sys; from pathlib import Path; from saepipe.evaluate.browse.notes import Notes\n"
        "[Notes(Path(sys.argv[1]), 'f' * 64).write(n, 'other') for n in range(100, 140)]"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as other:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda latent: notes.write(latent, f"note {latent}"), range(60)))
        assert other.wait() == 0
    written = {str(latent): f"note {latent}" for latent in range(60)}
    assert notes.read() == written | {str(latent): "other" for latent in range(100, 140)}


def test_notes_are_outside_the_digest_of_the_run(tmp_path: Path) -> None:
    run = write_store(tmp_path / "topk" / "seed-0")
    before = artifact.open_committed(run, "run")
    Notes(run, before[0]).write(0, "a note")
    assert artifact.open_committed(run, "run") == before
    assert not list(artifact.damaged_files(run, before[1]))


def test_notes_of_another_run_are_refused(tmp_path: Path) -> None:
    Notes(tmp_path, "a" * 64).write(1, "of the first")
    with pytest.raises(ConfigError, match="of an earlier run in this folder"):
        Notes(tmp_path, "b" * 64).read()


def test_no_flipped_bit_is_silent(tmp_path: Path) -> None:
    notes = Notes(tmp_path, "f" * 64)
    notes.write(12, "capital letters")

    def read_by_its_own_run() -> dict[str, str]:
        try:
            return notes.read()
        except ConfigError as error:  # of another run, as it seems
            raise CorruptDataError(error.message) from error

    assert silent_flips(tmp_path / FILE, read_by_its_own_run, 60) == []


def test_an_edit_by_hand_is_accepted_once_its_digest_is_removed(tmp_path: Path) -> None:
    notes = Notes(tmp_path, "f" * 64)
    notes.write(12, "capital letters")
    path = tmp_path / FILE
    path.write_text(path.read_text().replace("capital", "small"))
    with pytest.raises(CorruptDataError, match='was changed outside saepipe browse.*\n.*remove the entry "digest"'):
        notes.read()
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(json.dumps(content))
    assert notes.read() == {"12": "small letters"}


INVALID = (
    "",
    "[]",
    '{"run": "f"}',
    '{"run": "f", "notes": {"x": "y"}}',
    '{"run": "f", "notes": {"1": 2}}',
    '{"run": 1, "notes": {}}',
    '{"run": "f", "notes": {"\u00b2": "y"}}',
    '{"run": "f", "notes": {"' + "9" * 5000 + '": "y"}}',
    "[" * 50_000,
)


@pytest.mark.parametrize("content", INVALID, ids=range(len(INVALID)))
def test_an_invalid_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CorruptDataError, match="does not contain notes"):
        Notes(tmp_path, "f").read()
    with pytest.raises(CorruptDataError):
        Notes(tmp_path, "f").write(1, "not written")
    assert (tmp_path / FILE).read_text() == content
