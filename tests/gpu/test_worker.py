"""Checks are run one after the other, whatever becomes of them, and what they found is kept and shown."""

import json
import math
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from src.utils.errors import UserError
from tests.gpu import __main__ as command
from tests.gpu import jobs, report, syncs, worker
from tests.gpu.bench import Bench
from tests.gpu.device import Device
from tests.gpu.results import BELOW, FAILED, PASSED, RUNNING, SKIPPED, Outcome, Results, read

ABOUT = {"device": "a card", "torch": "2.13.0", "commit": "abc", "date": "2026-11-28"}


# ---- results ----


@pytest.mark.parametrize(
    ("value", "limits", "status"),
    [
        (1.0, {}, PASSED),
        (1.0, {"at_most": 1.0}, PASSED),
        (1.1, {"at_most": 1.0}, FAILED),
        (0.9, {"at_least": 1.0}, FAILED),
        (0.9, {"at_least": 1.0, "goal": True}, BELOW),
        (math.nan, {"at_most": 1.0}, FAILED),
        (math.inf, {"at_least": 1.0}, FAILED),
    ],
)
def test_a_figure_is_compared_with_its_limit(value, limits, status):
    found = Outcome()
    found.add("figure", 1.0, at_most=2.0)
    found.add("this", value, **limits)
    assert found.status == status and ("this" in found.message) == (status != PASSED)


def test_a_failure_outweighs_a_goal():
    found = Outcome(error="it broke")
    found.add("goal", 0.0, at_least=1.0, goal=True)
    assert found.status == FAILED and found.message.startswith("it broke; goal 0 (at least 1: below the goal)")


def test_results_of_another_commit_or_device_are_dropped(tmp_path):
    file = tmp_path / "gpu.json"
    Results(file, ABOUT).end("right.a", Outcome(), 1.0)
    assert list(Results(file, ABOUT | {"date": "2026-11-29"}).checks) == ["right.a"]
    for key in ("device", "commit"):
        assert not Results(file, ABOUT | {key: "other"}).checks


# ---- one check after the other ----


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "clean", lambda self: None)  # which takes a second in a process full of tests
    return Bench(Device(), tmp_path / "scratch", tmp_path / "out", tiny=True)


@pytest.fixture
def sections(monkeypatch):
    """Two sections of made-up checks."""

    def leave(bench, found):
        raise SystemExit("error: leave")

    def broken(bench, found):
        found.add("figure", 3.0)
        raise RuntimeError("a line\n  and another")

    checks = {
        "fine": lambda bench, found: found.add("figure", 1.0, at_most=2.0),
        "broken": broken,
        "leave": leave,
        "slow": lambda bench, found: found.add("goal", 1.0, at_least=2.0, goal=True),
    }
    started = []
    one = SimpleNamespace(CHECKS=checks, SHARE=0.25, prepare=lambda bench, names: started.extend(names))
    made = {"right": one, "fast": SimpleNamespace(CHECKS={"fine": checks["fine"]}, SHARE=0.5)}
    monkeypatch.setattr(worker, "SECTIONS", made)
    return started


def test_a_check_that_fails_does_not_stop_the_next(bench, tmp_path, sections, capsys):
    file = tmp_path / "gpu.json"
    chosen = worker.select([])
    assert worker.run_checks(bench, Results(file, ABOUT), chosen, dict.fromkeys(chosen, time.time() + 60))
    checks = read(file)["checks"]
    assert [(name, entry["status"]) for name, entry in checks.items()] == [
        ("right.fine", PASSED),
        ("right.broken", FAILED),
        ("right.leave", FAILED),
        ("right.slow", BELOW),
        ("fast.fine", PASSED),
    ]
    assert checks["right.broken"]["message"] == "RuntimeError: a line and another"
    assert checks["right.broken"]["figures"][0]["value"] == 3.0
    assert sections == ["fine", "broken", "leave", "slow"]
    assert "failed in 0.0 s: SystemExit: error: leave" in capsys.readouterr().out


def test_a_check_that_begins_too_late_is_skipped(bench, tmp_path, sections):
    ends = {"right": time.time() - 1, "fast": time.time() + 60}
    worker.run_checks(bench, Results(tmp_path / "gpu.json", ABOUT), worker.select(["right.fine", "fast"]), ends)
    statuses = [entry["status"] for entry in read(tmp_path / "gpu.json")["checks"].values()]
    assert statuses == [SKIPPED, PASSED]


def test_a_device_that_is_lost_ends_the_worker(bench, tmp_path, sections, monkeypatch):
    """Which another one then takes the place of; after a check that passes nothing is asked of it."""
    monkeypatch.setattr(worker, "answers", lambda device: False)
    chosen = worker.select(["right"])
    results = Results(tmp_path / "gpu.json", ABOUT)
    assert not worker.run_checks(bench, results, chosen, dict.fromkeys(chosen, time.time() + 60))
    assert list(results.checks) == ["right.fine", "right.broken"]


def test_a_device_answers():
    class Lost(Device):
        def synchronize(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert worker.answers(Device()) and not worker.answers(Lost())


def test_checks_are_selected_by_name(sections):
    assert worker.select(["fast", "right.slow", "right.fine", "right.slow"]) == {
        "right": ["slow", "fine"],
        "fast": ["fine"],
    }
    for word, said in (("wrong", "sections: right, fast"), ("right.no", "right: fine, broken")):
        with pytest.raises(SystemExit, match=f"there is no {word}; {said}"):
            worker.select([word])


def test_time_is_shared_out_among_the_sections_that_are_run(sections):
    assert worker.deadlines(["right", "fast"], 100.0, 30.0) == pytest.approx({"right": 110.0, "fast": 130.0})
    assert worker.deadlines(["fast"], 100.0, 30.0) == {"fast": 130.0}


def test_sections_are_what_the_docs_say():
    assert list(worker.SECTIONS) == list(report.TITLES) == ["right", "fast", "plan", "good"]
    assert sum(section.SHARE for section in worker.SECTIONS.values()) == pytest.approx(1.0)


# ---- the command ----

WORKER = """
import json, os, pathlib, signal, sys, time
request = json.loads(pathlib.Path(sys.argv[-1]).read_text())
file = pathlib.Path(request["out"], "gpu.json")
content = json.loads(file.read_text()) if file.exists() else {"about": {}, "checks": {}}
left = [name for name in request["names"] if name not in content["checks"]]
for name in left:
    content["checks"][name] = {"status": "running", "started": time.time() - 1000 * (name == "hangs")}
    file.write_text(json.dumps(content))
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs":
        time.sleep(600)
    done = {"status": "passed", "message": "", "seconds": 1, "figures": [], "rows": [], "notes": []}
    done["ended"] = time.time()
    content["checks"][name] = done
    file.write_text(json.dumps(content))
"""


@pytest.fixture
def quick_worker(monkeypatch):
    """A worker that takes no time to start."""
    popen = subprocess.Popen

    def start(words, **options):
        return popen([sys.executable, "-S", "-c", WORKER, words[-1]], **options)

    monkeypatch.setattr(command.subprocess, "Popen", start)


def test_another_worker_goes_on_after_one_that_died_or_hung(quick_worker, tmp_path, capsys):
    args = command.parse(["a", "dies", "b", "hangs", "c", "--out", str(tmp_path)])
    (tmp_path / "gpu.json").write_text(json.dumps({"about": {}, "checks": {"d": {"status": RUNNING, "started": 0}}}))
    assert command.run(args) == 1
    checks = read(tmp_path / "gpu.json")["checks"]
    assert {name: entry["status"] for name, entry in checks.items()} == {
        "a": PASSED,
        "dies": FAILED,
        "b": PASSED,
        "hangs": FAILED,
        "c": PASSED,
    }
    assert checks["dies"]["message"] == "its process ended with signal 9"
    assert checks["hangs"]["message"] == "took too long, and its process was ended"
    assert "5 checks in" in (said := capsys.readouterr().out) and "3 passed, 2 failed" in said


def test_all_well_is_exit_code_0(quick_worker, tmp_path):
    assert command.run(command.parse(["a", "--out", str(tmp_path)])) == 0


def test_the_page_of_another_machine(tmp_path):
    with pytest.raises(SystemExit):
        command.parse(["--from", "gpu.json"])
    (tmp_path / "gpu.json").write_text("{}")
    assert command.parse(["--write", "--from", str(tmp_path / "gpu.json")]).source == tmp_path / "gpu.json"


# ---- the page ----


def test_the_page_shows_tables_figures_and_failures(tmp_path):
    results = Results(tmp_path / "gpu.json", ABOUT)
    for name, rate in (("mnist", 12345.6), ("dit", 7.891)):
        found = Outcome()
        found.row(model=name, **{"images/s": rate})
        found.add("times diffusers", rate, at_least=10.0, goal=True)
        results.end(f"fast.{name}", found, 2.0)
    results.end("right.compile", Outcome(error="a | b\nc"), 1.0)
    page = tmp_path / "gpu.md"
    page.write_text("# Page\n<!-- gpu -->\nold\n<!-- /gpu -->\nend\n")
    report.write_page(results.file, page)
    text = page.read_text()
    assert text.startswith("# Page\n<!-- gpu -->\nMeasured on a card on 2026-11-28 at abc (torch 2.13.0).\n")
    assert text.endswith("<!-- /gpu -->\nend\n") and "old" not in text
    assert text.index("### Right") < text.index("### Fast")
    words = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["mnist", "12,346"] in words and ["dit", "7.89"] in words
    assert ["`mnist`", PASSED, "times diffusers 12,346 (at least 10)"] in words
    assert ["`dit`", BELOW, "times diffusers 7.89 (at least 10: below the goal)"] in words
    assert ["`compile`", FAILED, "a / b c"] in words


# ---- processes beside the checks ----


def test_a_job_runs_once_and_its_error_is_raised_each_time():
    calls = []

    def fails():
        calls.append(1)
        raise UserError("no")

    for workers in (0, 1):
        calls.clear()
        pool = jobs.Jobs(workers)
        for _ in range(2):
            pool.start("fine", lambda: 3)
            pool.start("fails", fails)
        pool.wait()
        assert pool.result("fine") == pool.result("fine") == 3
        for _ in range(2):
            with pytest.raises(UserError, match="no"):
                pool.result("fails")
        assert calls == [1]


def test_what_a_process_said(tmp_path):
    log = tmp_path / "log"
    code = "import os, sys; print('x', os.environ['NVIDIA_TF32_OVERRIDE']); print('error: no'); print('y'); sys.exit(3)"
    assert jobs.launch(["-S", "-c", code], log, 60) == 3
    assert log.read_text().startswith("x 0\n") and jobs.last_words(log) == "error: no"
    with pytest.raises(TimeoutError, match=r"took longer than 0 s"):
        jobs.launch(["-S", "-c", "import time; time.sleep(60)"], log, 0.1)


def test_a_run_that_ends_otherwise_is_an_error(bench):
    def launch(words, log, timeout, environment):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("error: net.no: there is no such option\n")
        return 1

    bench.launch = launch
    with pytest.raises(RuntimeError, match=r"ended with 1 instead of 0: error: net.no: there is no such option"):
        bench.train(bench.scratch / "runs/a", ["net.no=1"])
    assert bench.train(bench.scratch / "runs/a", [], code=1) == bench.scratch / "runs/a"


# ---- waits for the device ----


def test_waits_are_counted_until_the_end():
    """The profiler itself waits when it stops."""

    def event(name, start):
        return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start))

    names = ["cudaStreamSynchronize", "cudaStreamSynchronize", "aten::item", "Memcpy DtoH (Device -> Pageable)"]
    counter = syncs.SyncCounter()
    counter.count(
        [*(event(n, i) for i, n in enumerate(names)), event(syncs.END, 9), event("cudaDeviceSynchronize", 10)]
    )
    assert counter.waits == 2 and counter.counts["Memcpy DtoH"] == 1


def test_reads_are_counted_by_the_profiler():
    counter, x = syncs.SyncCounter(), torch.ones(3)
    with Device().count_syncs(counter):
        x[0].item()
        float(x[1])
    assert counter.counts["aten::_local_scalar_dense"] == 2


def test_the_line_that_waits_is_named():
    code = compile("\n\nvalue = x.item()", str(syncs.ROOT / "src/made_up.py"), "exec")
    with Device().sync_sites() as sites:
        for _ in range(2):
            exec(code, {"x": torch.ones(())})
    assert sites == {"src/made_up.py:3": 2}
