import json
import os

import pytest

from buswork.installation import manifest
from buswork.installation.files import File, Link
from buswork.installation.manifest import PATH, Manifest, ManifestError


def test_there_and_back(tmp_path):
    files = {"/usr/bin/a": File(b"a").mark, "/usr/lib/b": Link("a").mark}
    folders = ["/usr/bin"]
    noted = Manifest("/opt/b", package=True, folders=folders)
    noted.expect(tmp_path, files)
    noted.save(tmp_path)
    found = manifest.load(tmp_path)
    assert (found.prefix, found.files, found.package) == ("/opt/b", files, True)
    made = ["/usr", "/usr/bin", "/usr/lib", "/usr/share", "/usr/share/buswork"]
    assert found.folders == made


def test_other_programs_can_read_it(tmp_path):
    Manifest(files={"/a": File(b"a").mark, "/b": "-> a"}).save(tmp_path)
    files = json.loads((tmp_path / PATH[1:]).read_text())["files"]
    assert files == {"/a": {"sha256": File(b"a").mark}, "/b": {"link": "a"}}


def test_there_may_be_none(tmp_path):
    assert manifest.load(tmp_path) is None


@pytest.fixture
def place(tmp_path):
    (tmp_path / PATH[1:]).parent.mkdir(parents=True)
    return tmp_path / PATH[1:]


RIGHT = {"version": "1", "prefix": "/usr", "package": False, "files": {}, "folders": []}
WRONG = ["", "[]", "{}", "null", "[" * 100_000]
WRONG += [
    json.dumps(RIGHT | wrong)
    for wrong in (
        {"files": {"../etc/passwd": {"sha256": "0"}}},
        {"files": {"/usr/../etc/passwd": {"sha256": "0"}}},
        {"files": {"//etc/passwd": {"sha256": "0"}}},
        {"files": {"/a": {}}},
        {"files": {"/a": "0"}},
        {"files": {"/a\0": {"sha256": "0"}}},
        {"files": {"/\ud800": {"sha256": "0"}}},
        {"files": []},
        {"folders": {}},
        {"folders": [1]},
        {"folders": ["usr"]},
        {"folders": ["/"]},
        {"prefix": None},
    )
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_none(text, tmp_path, place):
    place.write_text(text)
    with pytest.raises(ManifestError, match=r"manifest.json is no manifest"):
        manifest.load(tmp_path)
    place.write_text(json.dumps(RIGHT))
    assert manifest.load(tmp_path) == Manifest()


def test_what_would_be_read_for_ever(tmp_path, place):
    os.mkfifo(place)
    with pytest.raises(ManifestError):
        manifest.load(tmp_path)
    place.unlink()
    place.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="symbolic links"):
        manifest.load(tmp_path)
