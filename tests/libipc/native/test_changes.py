"""Word of what happens in run directories."""

import asyncio

import pytest

from buswork.libipc.native import changes as module
from buswork.libipc.native.changes import Changes


@pytest.fixture
async def heard(tmp_path):
    """Directory, the changes, and what was told of them."""
    told = asyncio.Queue()
    changes = Changes(lambda: told.put_nowait(None))
    changes.watch([str(tmp_path), str(tmp_path / "none")])
    yield tmp_path, changes, told
    changes.close()


async def told_of(told):
    async with asyncio.timeout(30):
        await told.get()


@pytest.mark.parametrize("what", ["touch", "unlink", "chmod", "rename"])
async def test_what_happens_to_a_file_is_told(heard, what):
    path, _, told = heard
    file = path / "file"
    if what != "touch":
        file.touch()
        await told_of(told)
    {
        "touch": file.touch,
        "unlink": file.unlink,
        "chmod": lambda: file.chmod(0o600),
        "rename": lambda: file.rename(path / "other"),
    }[what]()
    await told_of(told)


async def test_what_happens_all_the_time_is_told_now_and_then(heard, monkeypatch):
    monkeypatch.setattr(module, "REST_SECONDS", 30.0)
    path, _, told = heard
    (path / "first").touch()
    await told_of(told)
    for number in range(100):
        (path / str(number)).touch()
        await asyncio.sleep(0)
    assert told.empty()


async def test_what_came_meanwhile_is_told_afterwards(heard, monkeypatch):
    monkeypatch.setattr(module, "REST_SECONDS", 0.01)
    path, _, told = heard
    (path / "first").touch()
    await told_of(told)
    (path / "second").touch()
    await told_of(told)


async def test_a_directory_that_comes_later_is_heard_of_when_it_is_named_again(heard):
    path, changes, told = heard
    later = path / "none"
    later.mkdir()
    await told_of(told)
    changes.watch([str(later)])
    (later / "file").touch()
    await told_of(told)


async def test_without_inotify_there_is_no_word(monkeypatch, tmp_path, caplog):
    class Libc:
        def inotify_init1(self, flags):
            return -1

    monkeypatch.setattr(module, "_libc", Libc())
    changes = Changes(lambda: pytest.fail("nothing is known"))
    changes.watch([str(tmp_path)])
    changes.close()
    assert "will not be told" in caplog.text
