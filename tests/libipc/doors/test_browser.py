"""The page of the examples, in a real browser, at a door of ours."""

import asyncio
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from libipc.doors.house import HOST, UID, settled
from support import browser
from support.browser import Browser

from buswork.libipc.doors.gate import Gate
from buswork.libipc.doors.options import Place
from buswork.libipc.doors.relay import LIMITS
from buswork.libipc.doors.websocket import WebSocketDoor
from buswork.libipc.library.contexts import Context
from buswork.libipc.wire.forms import Form

pytestmark = pytest.mark.skipif(
    browser.command() is None, reason=f"tier 5 (tools): not installed: {browser.NAMES[0]}"
)

EXAMPLES = Path(__file__).parents[3] / "docs/examples"
TOKEN = "0123456789abcdefABCD_-"
EVIL = "attacker.example"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The port that the page is at."""
    with ThreadingHTTPServer((HOST, 0), partial(Quiet, directory=EXAMPLES)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def running():
    with Browser((EVIL,)) as browser:
        yield browser


class Door:
    def __init__(self, daemon, token, origins):
        said = [word for origin in origins for word in ("--ipc-origin", origin)]
        words = ("--serve-uid", UID, "--ipc-service", "pong", "--ipc-token-file", token)
        self.gate = Gate(settled(*words, *said, "--ipc-socket", daemon.path))
        self.context = Context(limits=LIMITS)
        self.door = WebSocketDoor(Place(HOST, 0), self.gate, self.context)

    async def __aenter__(self):
        self.port = (await self.door.open()).port
        return self

    async def __aexit__(self, *_):
        await self.door.close()
        self.context.close()


@pytest.fixture
async def door(daemon, tmp_path, site):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    # The second one is a mistake, which the Host still makes good.
    async with Door(daemon, token, [f"http://localhost:{site}", f"http://{EVIL}:{site}"]) as door:
        yield door


class Visitor:
    """Somebody at the page; the browser is asked in a thread, while the doors' loop turns."""

    def __init__(self, running, site, door):
        self.running, self.site, self.door = running, site, door

    async def look(self, host="localhost"):
        url = f"http://{host}:{self.site}/pong.html"
        self.page = await asyncio.to_thread(self.running.open, url)
        return self

    async def connect(self, host="localhost", form="c", token=TOKEN):
        await self.fill("door", address=f"ws://{host}:{self.door.port}", form=form, token=token)

    async def fill(self, form, /, **fields):
        """And submit it."""
        script = f"const form = document.getElementById('{form}').elements;"
        for name, value in fields.items():
            script += f"form['{name}'].value = {value!r};"
        await self.run(f"{{ {script} form[form.length - 1].click() }}")

    async def reads(self, line):
        """Until this stands there."""
        await self.run(f"""new Promise(done => {{
            const said = document.getElementById("said");
            const look = () => said.textContent.split("\\n").includes({line!r}) && done();
            new MutationObserver(look).observe(said, {{ childList: true }});
            look();
        }})""")

    async def run(self, script):
        return await asyncio.to_thread(self.page.run, script)


@pytest.fixture
def visitor(running, site, door):
    return Visitor(running, site, door)


@pytest.mark.parametrize("form", list(Form))
async def test_a_page_exchanges_messages_with_a_service(visitor, daemon, form):
    await visitor.look()
    await visitor.connect(form=form.value)
    await visitor.reads(f"connected: buswork.libipc.{form}")
    prefix = "200: " if form is Form.C else ""
    await visitor.fill("message", type="200", text="hello, wörld")
    await visitor.reads(f"received {prefix}hello, wörld")
    assert daemon.asked == [f"connect {UID} {form} pong\n"]
    assert daemon.of(form).reads[0].endswith("hello, wörld".encode())


async def test_a_service_that_leaves_is_told_of(visitor, daemon):
    await visitor.look()
    await visitor.connect()
    await visitor.reads("connected: buswork.libipc.c")
    for sock in daemon.of(Form.C).socks:
        sock.shutdown(2)
    await visitor.reads("closed: 1001 the service left")


async def test_without_the_token_there_is_no_connection(visitor, daemon, caplog):
    await visitor.look()
    await visitor.connect(token="x" * 22)
    await visitor.reads("closed: 1006 ")
    assert "the token is missing" in caplog.text
    assert not daemon.asked


async def test_a_page_from_elsewhere_is_not_let_in(visitor, daemon, caplog):
    await visitor.look(HOST)  # this machine as well, and another origin
    await visitor.connect()
    await visitor.reads("closed: 1006 ")
    assert "--ipc-origin" in caplog.text
    assert not daemon.asked


async def test_a_site_that_makes_its_name_mean_this_machine(visitor, daemon, caplog):
    await visitor.look(EVIL)
    await visitor.connect(EVIL)
    await visitor.reads("closed: 1006 ")
    assert "--ipc-host" in caplog.text
    assert not daemon.asked
