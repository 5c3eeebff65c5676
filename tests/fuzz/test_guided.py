"""Wires before a fuzzer that sees which of their lines were reached; only with --fuzz."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.fsct_contracts import BLOBS, LINES, MESSAGES, SETS
from fuzz.libipc_contracts import REQUESTS, STREAMS, TYPED

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SECONDS = int(os.environ.get("BUSWORK_FUZZ_SECONDS", "60"))
# One case that takes longer hangs; what it may need is bounded by the limits of the wire.
OPTIONS = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", "-print_final_stats=1"]
CORPORA = {
    "descriptors": BLOBS + SETS,
    "msgpackrpc": MESSAGES,
    "jsonrpc": LINES,
    "streams": [stream for streams in STREAMS.values() for stream in streams],
    "lookups": REQUESTS,
    "typed": [payload for payloads in TYPED.values() for payload in payloads],
}


@pytest.fixture(autouse=True)
def wanted(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--fuzz"):
        pytest.skip("only with --fuzz")
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("not installed: atheris (./dev test --fuzz installs it where there is a wheel)")


@pytest.mark.parametrize("target", CORPORA)
def test_no_bytes_that_reach_something_new_break_a_contract(target, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(CORPORA[target]):
        (corpus / f"{number}").write_bytes(seed)
    done = subprocess.run(
        [sys.executable, HERE / "guided.py", target, corpus, f"-max_total_time={SECONDS}",
         f"-artifact_prefix={tmp_path}/", *OPTIONS],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"},
        capture_output=True,
        timeout=SECONDS + 120,
    )  # fmt: skip
    said = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-4000:]
    executed = re.search(r"stat::number_of_executed_units:\s+(\d+)", said)
    assert executed is not None, said[-4000:]
    assert int(executed[1]) > len(CORPORA[target])
    # Something of the wire was seen: else any bytes would have looked alike.
    assert len(list(corpus.iterdir())) > len(CORPORA[target])
