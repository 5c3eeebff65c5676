import pytest

from buswork.installation import activation
from buswork.installation.activation import Outcome, Step


@pytest.fixture
def tools(tmp_path, monkeypatch):
    monkeypatch.setattr(activation, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def run(*steps):
    return list(activation.run(steps))


def test_what_works(tools):
    assert run(Step(("true",), (str(tools),))) == [Outcome(("true",))]


def test_one_that_fails_does_not_hold_back_the_next(tools):
    bad = ("sh", "-c", "echo so what >&2; exit 3")
    assert run(Step(bad), Step(("true",))) == [Outcome(bad, failure="so what"), Outcome(("true",))]
    assert run(Step(("false",))) == [Outcome(("false",), failure="exit status 1")]


def test_what_is_not_there_is_not_told(tools):
    (outcome,) = run(Step(("true",), (str(tools), str(tools / "systemd"))))
    assert outcome.missing == str(tools / "systemd")
    (outcome,) = run(Step(("no-such-tool",)))
    assert outcome.missing == "no-such-tool"


def test_one_that_does_not_end(tools, monkeypatch):
    monkeypatch.setattr(activation, "_SECONDS", 0.01)
    (outcome,) = run(Step(("sleep", "100")))
    assert "timed out" in outcome.failure


def test_one_that_can_not_be_run(tools):
    (tools / "bad").write_text("#!/no/such/interpreter\n")
    (tools / "bad").chmod(0o755)
    (outcome,) = run(Step(("bad",)))
    assert "No such file" in outcome.failure


def test_users_come_before_what_names_them():
    tools = [step.words[0] for step in activation.AFTER_INSTALL]
    assert tools.index("systemd-sysusers") == 0
    assert tools.index("busctl") < tools.index("udevadm")
