import json

import pytest

from buswork.installation import manifest
from buswork.installation.files import File, Link
from buswork.installation.manifest import Manifest, ManifestError

PATH = "/usr/share/buswork/manifest.json"


def test_there_and_back(tmp_path):
    files = {"/usr/bin/a": File(b"a").mark, "/usr/lib/b": Link("a").mark}
    Manifest(PATH, package=True, files=dict(files), folders=["/usr/bin"]).save(tmp_path)
    found = manifest.load(tmp_path, PATH)
    assert found.files == files
    assert found.package
    assert found.folders == ["/usr", "/usr/bin", "/usr/share", "/usr/share/buswork"]


def test_other_programs_can_read_it(tmp_path):
    Manifest(PATH, files={"/a": File(b"a").mark, "/b": "-> a"}).save(tmp_path)
    files = json.loads((tmp_path / PATH[1:]).read_text())["files"]
    assert files == {"/a": {"sha256": File(b"a").mark}, "/b": {"link": "a"}}


def test_there_may_be_none(tmp_path):
    assert manifest.load(tmp_path, PATH) is None


WRONG = ["", "[]", "{}", "null"]
WRONG += [
    json.dumps({"version": "1", "package": False, "files": files, "folders": folders})
    for files, folders in (
        ({"../etc/passwd": {"sha256": "0"}}, []),
        ({"/usr/../etc/passwd": {"sha256": "0"}}, []),
        ({"/a": {}}, []),
        ({"/a": "0"}, []),
        ([], []),
        ({}, {}),
        ({}, [1]),
        ({}, ["usr"]),
    )
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_none(text, tmp_path):
    (tmp_path / "manifest").write_text(text)
    with pytest.raises(ManifestError, match="manifest is no manifest"):
        manifest.load(tmp_path, "/manifest")
