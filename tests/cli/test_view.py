"""buswork view, with made up processes; and, once, with the real service and simulated ones."""

import json

import pytest
from cli.test_generate import complete_in_bash
from cli.viewed import FakeClient, FakeProcess, ViewedWorld, done, facts

from buswork.cli import generate
from buswork.cli.clients import user_name
from buswork.cli.exits import Exit
from buswork.cli.output import CommandError
from buswork.client import BusworkError

pytestmark = pytest.mark.processes

WEB = facts(20, "web")
OTHER_WEB = facts(4, "web", uid=65534)
WORKER = facts(7, "worker", state="Latent")
SLEEPER = facts(9, "sleeper", state="Setup")
GONE = BusworkError("it is gone", "org.appview.Error.ProcessGone")


@pytest.fixture
def client():
    return FakeClient(WEB, WORKER, SLEEPER)


@pytest.fixture(scope="module")
def world():
    with ViewedWorld() as world:
        yield world


def lines(capsys):
    return capsys.readouterr().out.splitlines()


# -- ps ------------------------------------------------------------------------------------------


def test_ps(client, capsys):
    client.appview.there = (WEB, OTHER_WEB, WORKER)
    assert done(client, "ps") == Exit.OK
    assert [line.split() for line in lines(capsys)] == [
        ["ID", "PID", "USER", "COMMAND"],
        ["1", "4", user_name(65534), "/usr/bin/web", "-x"],
        ["2", "20", user_name(0), "/usr/bin/web", "-x"],
    ]
    assert client.appview.asked == [False]


def test_ps_as_the_original_has_it_in_json(client, capsys):
    done(client, "ps", "--json")
    (line,) = lines(capsys)
    said = {"id": 1, "pid": 20, "user": user_name(0), "command": "/usr/bin/web -x"}
    assert json.loads(line) == said
    assert list(json.loads(line)) == list(said)


def test_ps_of_all(client, capsys):
    done(client, "ps", "--all", "--others")
    head, *rows = lines(capsys)
    assert head.split() == ["ID", "PID", "USER", "STATE", "COMMAND"]
    assert [row.split()[3] for row in rows] == ["Latent", "Setup", "Active"]
    done(client, "ps", "--all", "--json")
    assert [json.loads(line)["state"] for line in lines(capsys)] == ["Latent", "Setup", "Active"]
    assert client.appview.asked == [True, False]


def test_ps_of_nothing(capsys):
    assert done(FakeClient(WORKER), "ps") == Exit.OK
    assert capsys.readouterr() == ("", "there is no process that is viewed\n")
    done(FakeClient(), "ps", "--all", "--json")
    assert capsys.readouterr() == ("", "")


def test_what_a_terminal_would_obey_is_shown(capsys):
    done(FakeClient(facts(3, command="x\x1b[2J\ny")), "ps")
    assert "\x1b" not in (said := capsys.readouterr().out)
    assert len(said.splitlines()) == 2


# -- which one -----------------------------------------------------------------------------------


def test_a_name_is_exact_before_it_is_a_part(client):
    client.appview.there = (facts(1, "webber"), WEB, facts(2, "nginx", command="nginx -c web.conf"))
    done(client, "detach", "web")
    done(client, "detach", "web.conf")
    assert [pid for pid, each in client.appview.processes.items() if each.told] == [20, 2]


def test_several_of_a_name(client):
    client.appview.there = (WEB, OTHER_WEB, SLEEPER)
    with pytest.raises(CommandError) as error:
        done(client, "detach", "web")
    said = str(error.value)
    assert said.startswith("there are 2, and PROCESS must say which; 4 (")
    assert "sleeper" not in said
    assert not any(each.told for each in client.appview.processes.values())


def test_none_of_a_name(client):
    with pytest.raises(BusworkError) as error:
        done(client, "attach", "sleeper")
    assert error.value.name == "org.appview.Error.NoSuchProcess"
    assert str(error.value) == (
        "there is no process sleeper that is Active or Latent; "
        "9 (root) /usr/bin/sleeper -x is Setup"
    )
    with pytest.raises(BusworkError, match=r"no process that is Active$"):
        done(FakeClient(WORKER), "inspect")


def test_a_pid_is_of_anybody(client):
    done(client, "detach", "12345")
    assert client.appview.processes[12345].told == [("detach",)]


# -- inspect and transport -----------------------------------------------------------------------


def test_inspect_as_the_original_has_it(client, capsys):
    done(client, "inspect", "web", "--json")
    (line,) = lines(capsys)
    said = json.loads(line)
    assert list(said) == ["cfg", "interfaces", "process"]
    assert said["cfg"]["current"]["libappview"]["summaryperiod"] == 10
    assert said["interfaces"][0]["name"] == "log"
    assert said["process"] == {"pid": 20, "uuid": "u", "id": "i", "machine_id": "m"}


def test_inspect_of_one_in_a_container_tells_both_pids(client, capsys):
    client.appview.processes[7] = FakeProcess(7, own_pid=1)
    done(client, "inspect", "worker", "--json")
    process = json.loads(lines(capsys)[0])["process"]
    assert list(process.items())[:2] == [("pid", 1), ("hostPid", 7)]


def test_inspect_without_a_name_is_of_the_only_one(client, capsys):
    done(client, "inspect")
    said = capsys.readouterr().out
    assert json.loads(said)["process"]["pid"] == 20
    assert said.startswith('{\n  "cfg"')
    assert "\x1b" not in said


def test_inspect_of_all(client, capsys):
    client.appview.there = (WEB, OTHER_WEB, WORKER)
    done(client, "inspect", "--all")
    assert [each["process"]["pid"] for each in json.loads(capsys.readouterr().out)] == [4, 20]
    done(client, "inspect", "--all", "--json")
    assert [json.loads(line)["process"]["pid"] for line in lines(capsys)] == [4, 20]
    with pytest.raises(CommandError):
        done(client, "inspect", "--all", "web")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_inspect_of_all_shows_those_that_answer(client, capsys, options):
    client.appview.there = (WEB, OTHER_WEB)
    client.appview.processes[20].fails = GONE
    with pytest.raises(BusworkError, match="it is gone"):
        done(client, "inspect", "--all", *options)
    said = json.loads(capsys.readouterr().out)
    assert (said if options else said[0])["process"]["pid"] == 4


def test_transport(client, capsys):
    done(client, "transport", "worker")
    _, *rows = lines(capsys)
    assert [row.split(maxsplit=3) for row in rows] == [
        ["log", "file:///tmp/a\\x1b[31m.log", "yes"],
        ["events", "tcp://h:1", "no", "Socket connection failed, attempt 2"],
        ["metrics", "unix://@m", "no", "attempt 1"],
    ]
    done(client, "transport", "worker", "--json")
    assert [each["name"] for each in json.loads(lines(capsys)[0])] == ["log", "events", "metrics"]


# -- attach and detach ---------------------------------------------------------------------------


def test_attach(client, capsys):
    done(client, "attach", "worker", "--set", "APPVIEW_LOG_LEVEL=info", "--json")
    assert client.appview.processes[7].told == [("attach", {"APPVIEW_LOG_LEVEL": "info"})]
    assert lines(capsys) == ['{"attached": [7]}']


def test_detach_all_goes_on_where_some_fail(client, capsys):
    client.appview.there = (WEB, OTHER_WEB, facts(5), WORKER)
    client.appview.processes = {pid: FakeProcess(pid) for pid in (4, 5, 20)}
    client.appview.processes[4].fails = BusworkError("it is mute", "org.appview.Error.NotAnswering")
    client.appview.processes[5].fails = GONE
    with pytest.raises(BusworkError, match="it is gone"):
        done(client, "detach", "--all", "--json")
    said = capsys.readouterr()
    assert said.out == '{"detached": [20]}\n'
    assert said.err == "buswork: it is mute (org.appview.Error.NotAnswering)\n"
    for words in (["detach"], ["detach", "web", "--all"]):
        with pytest.raises(CommandError):
            done(client, *words)


# -- with the service ----------------------------------------------------------------------------


def test_the_whole_way(world):
    pid = world.simulated("cli-whole", "--period", "0.2")
    said = world.answer("inspect", "cli-whole")
    assert said["process"]["pid"] == pid
    assert "hostPid" not in said["process"]
    listed = [json.loads(line) for line in world.view("ps", "--json").out.splitlines()]
    (row,) = [each for each in listed if each["pid"] == pid]
    assert row["command"].endswith("--name cli-whole --period 0.2")
    assert world.answer("transport", str(pid))[0]["name"] == "log"
    assert world.answer("detach", "cli-whole") == {"detached": [pid]}
    assert "is Latent" in world.failure("detach", "cli-whole")
    assert world.answer("attach", "cli-whole") == {"attached": [pid]}
    world.kill(pid)
    assert "NoSuchProcess" in world.failure("inspect", "cli-whole")
    assert "NoSuchProcess" in world.failure("transport", str(pid))


def test_pids_are_completed(world, tmp_path):
    pid = world.simulated("cli-complete")
    generate.write("bash", tmp_path)
    offered = complete_in_bash(world, tmp_path, "buswork", "view", "inspect", str(pid)[:-1])
    assert str(pid) in offered
    assert all(each.isdecimal() for each in offered)


def test_without_the_service(bus):
    assert bus.run("view", "ps").returncode == Exit.NOT_RUNNING
