"""The benches measure what they say; how long things take is for the benches themselves."""

import io
import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
from omegaconf import OmegaConf

from src.data.images import Decoder
from src.utils.errors import UserError
from tests.benchmarks import busy
from tests.benchmarks import growth as bench_growth
from tests.benchmarks.loop import __main__ as guard
from tests.benchmarks.loop import commands, few_steps, page, sharing, stepper, turns
from tests.benchmarks.loop.curves import Curve, exponent, picture_of, table_of, tick_labels
from tests.benchmarks.loop.loops import SKIP, noise, plain_loop

TINY = ["trainer=cpu", "data.batch_size=4", "net.width=8"]


@pytest.fixture
def tiny_guard(tmp_path, tiny_mnist):
    words = [f"data.root={tiny_mnist}", "data.sha256=null", "data.offline=error", "data.val_size=16"]
    return guard.Guard(guard.parse(["--quick", *words]), tmp_path)


@pytest.mark.slow
def test_every_case_builds_and_steps(tiny_guard):
    """The plain loop takes the net, the loss and the labels of each experiment."""
    for name in tiny_guard.words:
        cfg = tiny_guard.config(name)
        assert cfg.trainer.precision != "auto" and cfg.data.batch_size == 8
        seconds = plain_loop(cfg, [noise(cfg)], SKIP + 1)
        assert len(seconds) == 1 and seconds[0] > 0


@pytest.mark.slow
def test_a_turn_times_as_many_steps_of_ours(tiny_guard):
    cfg = tiny_guard.config("mnist_ddpm")
    assert len(turns.command_loop(cfg, turns.prepared(cfg), SKIP + 4)) == 3
    figure = turns.sampling(cfg, "dpmpp_2m", rounds=1)
    assert figure.reference == "10 evaluations" and figure.ours[0] > 0


@pytest.mark.slow
def test_each_loss_of_a_flow_map_is_beside_the_denoising_loss(tiny_guard):
    """One that takes the gradient of a derivative keeps most for the backward pass."""
    figures = {figure.name: figure for figure in tiny_guard.few_steps()}
    names = {name.rpartition("=")[2].strip("`") for name in figures}
    assert names == set(few_steps.losses()) and len(figures) == 2 * len(names) == 18
    memory = {name: figures[f"memory of a step, `loss={name}`"].ratios[0] for name in names}
    assert max(memory, key=lambda name: memory[name]) == "lagrangian" and min(memory.values()) >= 1


@pytest.mark.slow
def test_only_decoding_on_demand_decodes_in_the_loop(tiny_guard, monkeypatch):
    decoded, counts, take, decode = [], [], turns.take, Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, files, i: decoded.append(i) or decode(self, files, i))

    def count(data, batches):
        before = len(decoded)
        take(data, batches)
        counts.append(len(decoded) - before)

    monkeypatch.setattr(turns, "take", count)
    figures = turns.loading(tiny_guard.config("folder_ddpm"), rounds=1, batches=2)
    assert counts == [0, 16] and all(figure.ours[0] > 0 for figure in figures)


def test_a_process_says_what_it_took():
    """A hundred megabytes that are written to count, and so does what is said."""
    small, large = (commands.run(["-c", f"x = b'1' * {n}; print(len(x))"]) for n in (1, 100 * 2**20))
    assert large.mib - small.mib == pytest.approx(100, abs=10)
    assert large.said.split() == ["104857600"] and large.seconds > 0
    with pytest.raises(SystemExit, match="no such luck"):
        commands.run(["-c", "raise ValueError('no such luck')"])


def test_pictures_may_be_the_same_file(tmp_path):
    folder = turns.draw_pngs(tmp_path / "pictures", 7, different=3)
    files = sorted(folder.iterdir())
    assert len(files) == 7 and len({file.stat().st_ino for file in files}) == 3
    assert len({file.read_bytes() for file in files}) == 3


# ---- beside other programs ----


def test_other_programs_run_as_long_as_the_command(monkeypatch):
    with busy.busy(2) as programs:
        assert [program.poll() for program in programs] == [None, None]
    assert all(program.returncode for program in programs)
    ran = [sys.executable, "-S", "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(sys, "argv", ["busy", "--cores", "1", "--", *ran])
    assert busy.main() == 3


def test_a_busy_program_ends_with_the_one_that_started_it():
    """Here that is another one, from the beginning."""
    subprocess.run([sys.executable, "-S", "-c", busy.LOAD, "-1"], check=True, timeout=300)


def test_steps_are_taken_when_asked_for(tiny_guard, tmp_path, monkeypatch, capsys):
    config = tmp_path / "config.yaml"
    OmegaConf.save(tiny_guard.config("mnist_ddpm"), config)
    for words in ([], [str(config)]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("0\n0.01\n"))
        stepper.main(words)
        ready, *seconds = capsys.readouterr().out.split()
        assert ready == "ready" and len(seconds) == 2 and min(map(float, seconds)) > 0


def test_each_turn_asks_both_alone_and_beside_a_program(monkeypatch):
    asked, loads = [], []

    @contextmanager
    def fake_stepper(words, environment):
        class Fake:
            def step(self, seconds):
                asked.append((len(loads) % 2, environment))
                return 2.0 if environment else 1.0

        yield Fake()

    @contextmanager
    def fake_busy(cores):
        loads.append(cores)
        yield
        loads.append(cores)

    monkeypatch.setattr(sharing, "stepper", fake_stepper)
    monkeypatch.setattr(sharing, "busy", fake_busy)
    figures = sharing.sharing([], "step", 2, 0.0)
    assert [(f.ours, f.theirs) for f in figures] == [([1.0, 1.0], [2.0, 2.0])] * 2
    d = sharing.DEFAULT
    assert asked == [(0, {}), (0, d), (1, {}), (1, d), (0, d), (0, {}), (1, d), (1, {})]


# ---- figures and pages ----


def test_ratios_are_of_the_turns():
    figure = page.Figure("step", "loop", "ms", [0.11, 0.3, 0.12], [0.1, 0.1, 0.1])
    assert figure.ratios == pytest.approx([1.1, 3, 1.2])
    assert figure.row() == ["step", "120 ms", "loop, 100 ms", "**1.200**", "1.100 to 3.000"]
    assert page.Figure("batch", "step", "s", [0.001], [1.0]).row()[3:] == ["**0.001**", ""]


def test_the_name_of_the_cpu(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A CPU: fast\n\nprocessor\t: 1\nmodel name\t: A CPU: fast\n")
    assert page.cpu_name(info) == "A CPU: fast"
    assert page.cpu_name(tmp_path / "none") == page.os.uname().machine


def test_only_what_stands_between_the_markers_is_replaced(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("# A\n<!-- one -->\nold\n<!-- /one -->\nB\n<!-- two -->\nkept\n<!-- /two -->\n")
    for text in ("new\n\ntable\n", "newer"):  # twice, as a bench does
        page.write_between(file, "one", text)
    assert file.read_text() == "# A\n<!-- one -->\nnewer\n<!-- /one -->\nB\n<!-- two -->\nkept\n<!-- /two -->\n"
    for bad in ("no marker", "<!-- one -->", "<!-- /one --> <!-- one -->", "<!-- one --> <!-- one --> <!-- /one -->"):
        file.write_text(bad)
        with pytest.raises(UserError, match="needs one <!-- one -->"):
            page.write_between(file, "one", "text")
        assert file.read_text() == bad


@pytest.mark.parametrize("name", ["race", "bench", "sharing", "few_steps", "growth"])
def test_the_page_has_the_markers(name, tmp_path):
    copy = tmp_path / "performance.md"
    copy.write_text(page.PAGE.read_text())
    page.write_between(copy, name, "written")
    assert f"<!-- {name} -->\nwritten\n<!-- /{name} -->" in copy.read_text()


# ---- growth ----


def test_exponents_are_those_of_the_law():
    """Of a power, and of one beside a fixed cost, which the upper half feels less."""
    x = [1, 2, 4, 8, 16]
    assert exponent(x, [3 * v**1.5 for v in x]) == pytest.approx(1.5)
    curve = Curve("a step", "images", "", x, [1 + 0.1 * v**2 for v in x], [500] * 5, [v**2 for v in x])
    over_all, work, upper, upper_work = map(float, curve.row()[3:7])
    assert over_all < upper < 2 and work == upper_work == 2


@pytest.mark.slow
def test_the_arithmetic_is_counted(tmp_path):
    """Twice the images are twice the work; attention grows faster than the positions."""
    data = ["data=image_folder", "data.root=none", "data.channels=1", "data.size=[16,16]"]
    words = ["experiment=mnist_ddpm", *data, "net.middle_attention=true", *TINY]
    cfg = commands.composed(words, tmp_path)
    small = bench_growth.training_flop(cfg)
    cfg.data.batch_size *= 2
    assert bench_growth.training_flop(cfg) == 2 * small > 0
    cfg.data.size = cfg.net.size = [64, 64]
    assert bench_growth.training_flop(cfg) > 2 * 16 * small


def test_the_picture_and_the_table_hold_all_curves():
    curves = [
        Curve("a step", "images", "", [1, 2], [1.0, 2.0], [500, 600], [1, 2]),
        Curve("a start", "files", "made", [10, 1000], [1.0, 2.0], [500, 600], [1, 100]),
        Curve("a start", "files", "kept", [10, 1000], [0.1, 0.1], [500, 600], [1, 100]),
    ]
    lines = table_of(curves).splitlines()
    assert len(lines) == 5 and "| a start, kept" in lines[4] and "10 to 1,000 files" in lines[4]
    assert picture_of(curves).size == (1000, 420)
    assert (
        picture_of([*curves, *(Curve(name, "x", "", [1, 2], [1, 2], [1, 2], [1, 2]) for name in "ab")]).size[1] == 840
    )


def test_ticks_that_would_touch_are_left_out():
    assert tick_labels([28, 56, 112, 224, 256]) == ["28", "56", "112", "", "256"]
    assert tick_labels([1000, 30_000]) == ["1,000", "30,000"]


def test_only_what_is_chosen_is_measured_again(tmp_path):
    file = tmp_path / "growth.json"
    curve = Curve("a step", "images", "", [1, 2], [1.0, 2.0], [500, 600], [1, 2])
    page.write_json(file, {"cpu": "A"}, curves={"batch": [curve], "side": [curve]})
    assert json.loads(file.read_text())["about"] == {"cpu": "A"}
    kept = bench_growth.measured_before(file, ["side"])
    assert list(kept) == ["batch"] and Curve(**kept["batch"][0]) == curve
    assert bench_growth.measured_before(tmp_path / "none.json", ["side"]) == {}


def test_every_quantity_has_its_measurement():
    assert list(bench_growth.POINTS) == list(bench_growth.TINY)
    assert all(callable(getattr(bench_growth.Growth, name)) for name in bench_growth.POINTS)
