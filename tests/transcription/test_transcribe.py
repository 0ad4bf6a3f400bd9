"""The loop: one door, resume, determinism, controls, several processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from products import contents, tiny_config
from safetensors.torch import load_file

from dpsd.config import Config, parse_config
from dpsd.data.load import load_data
from dpsd.errors import UserError
from dpsd.files import read_lines
from dpsd.generator.procedural import procedural
from dpsd.privacy.accounting import compose_epsilon
from dpsd.privacy.ledger import Ledger, image_hashes
from dpsd.privacy.oracle import Oracle, ReplayOracle
from dpsd.privacy.plan import make_plan
from dpsd.privacy.statement import guarantee
from dpsd.privacy.verify import verify_release
from dpsd.runs import begin
from dpsd.runs.folder import Run
from dpsd.runs.release import load_student
from dpsd.student.student import Student
from dpsd.transcription.transcribe import transcribe


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("loop")


def changed(config: Config, **sections) -> Config:
    tree = config.model_dump(mode="json")
    for section, values in sections.items():
        tree[section] = tree[section] | values if isinstance(values, dict) else values
    return parse_config(tree)


def quick_config(root: Path, **sections) -> Config:
    """Two rounds of 400 answers, the smallest networks and one last pass: no test learns much."""
    small = {
        "teacher": {"model": "cnn-tiny", "batch_size": 64},
        "student": {"model": "cnn-tiny", "refit_epochs": 1},
        "generator": {"steps": 1},
        "privacy": {"answers": 800},
    }
    return changed(changed(tiny_config(root), **small), **sections)


@pytest.fixture(scope="module")
def done(root) -> Run:
    """A finished run of `quick_config`, for tests that only read it."""
    return transcribe(quick_config(root), out=root / "done")


@pytest.fixture(scope="module")
def whole(root) -> Run:
    """The same in four rounds, never stopped."""
    return transcribe(quick_config(root, loop={"rounds": 4}), out=root / "whole")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.release / "student.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_replay_without_a_teacher_gives_the_same_run(done, tmp_path):
    """In another process."""
    run = done
    script = f"""
import sys
from dpsd.teachers.folder import TeacherFolder
from dpsd.runs.folder import Run
from dpsd.privacy.oracle import ReplayOracle
from dpsd.transcription.transcribe import transcribe
import torch; torch.set_num_threads(1)
run = Run(__import__("pathlib").Path({str(run.path)!r}))
def no_teacher(*_): raise AssertionError("a teacher was loaded")
from dpsd.transcription import transcribe as t
t.load_teacher = no_teacher
def replayed(plan, new, _):
    new.id = run.id  # the ledger's entry of the answers that are given again
    return ReplayOracle(run.bank, plan)
transcribe(run.config, out={str(tmp_path / "replay")!r},
           open_oracle=replayed,
           home=TeacherFolder(run.teacher_folder, run.teacher, "plain", {{}}))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    replay = Run(tmp_path / "replay")
    assert same(weights(run), weights(replay))
    a, b = contents(run.release), contents(replay.release)
    tb = [name for name in a if name.startswith("tb/")]
    assert len(tb) == 1
    for name in ("generator.safetensors", "synthetic.png", "metrics.jsonl", *tb):
        assert a[name] == b[name]  # no times are in them


def test_same_seed_same_student_and_fresh_noise_differs(done, root, tmp_path):
    again = transcribe(done.config, out=tmp_path / "again")
    assert same(weights(done), weights(again))
    fresh = quick_config(root, privacy={"insecure_seeded_noise": False})
    three, four = (transcribe(fresh, out=tmp_path / name) for name in "cd")
    assert not same(weights(three), weights(four))


def test_second_run_composes_and_is_recomputed_from_the_master_ledger(root, tmp_path):
    fresh = {"insecure_seeded_noise": False}
    config = quick_config(root, teacher={"seed": 7}, privacy=fresh)
    runs = [transcribe(config, out=tmp_path / name) for name in "ab"]
    ledger = Ledger(runs[0].teacher_folder, runs[0].teacher)
    records = ledger.runs()
    assert [r.run for r in records] == [r.id for r in runs]
    facts = [json.loads((r.release / "statement.json").read_text()) for r in runs]
    for i, fact in enumerate(facts):
        events = [(r.event, r.asks_per_image) for r in records[: i + 1]]
        assert fact["guarantee"]["composed_epsilon"] == pytest.approx(compose_epsilon(events, 1e-5))
        assert fact["guarantee"] == guarantee(fact)
    assert facts[1]["guarantee"]["composed_epsilon"] > facts[0]["guarantee"]["composed_epsilon"]
    asked = [set(ledger.hashes(r.id).tolist()) for r in runs]
    assert len(asked[0]) == 800  # no image twice within a run


def test_a_last_round_that_takes_the_rest_is_charged_and_learned(root, tmp_path):
    config = quick_config(root, loop={"rounds": 3}, privacy={"answers": 500})
    run = transcribe(config, out=tmp_path / "run")
    assert [m["answers"] for m in run.metrics()] == [166, 332, 500]
    assert run.report()["answers"] == 500
    assert sorted(int(p.stem) for p in run.bank.iterdir()) == [0, 166, 332]


def test_held_out_answers_never_reach_the_bank(monkeypatch):
    from dpsd.student.bank import Bank
    from dpsd.transcription import loop
    from dpsd.transcription.session import Session

    plan = make_plan(
        parse_config({"loop": {"rounds": 3}, "privacy": {"epsilon": 1, "answers": 60}})
    )

    def query(session, round):
        numbers = torch.arange(20 * round, 20 * round + 20, dtype=torch.uint8)
        return numbers.view(20, 1, 1, 1).expand(20, 1, 28, 28), torch.zeros(20, 10)

    class Idle:
        def fit(self, bank, new):
            return {"new": new}

        def update(self, student, round):
            return {}

        def refit(self, bank):
            assert len(bank) == 58

    seen = []
    monkeypatch.setattr(loop, "query", query)
    bank = Bank(60, (1, 28, 28), 10)
    session = Session(plan, Idle(), Idle(), bank, object())
    loop.distil(session, after_round=lambda round, figures: seen.append(figures["new"]))
    assert plan.held_out == 2 and seen == [20, 20, 18]
    kept = bank.images[: len(bank), 0, 0, 0].tolist()
    assert kept == [n for n in range(60) if n not in (40, 41)]


def test_explored_images_draw_over_all_classes_also_with_top_k():
    from dpsd.transcription import loop

    privacy = {"epsilon": 1, "answers": 4000, "top_k": 2, "explore": 0.25}
    plan = make_plan(parse_config({"loop": {"rounds": 4}, "privacy": privacy}))

    class Sure:
        def predict(self, images):
            return torch.eye(10)[torch.full((len(images),), 7)]

    prior = loop.asking_prior(plan, Sure(), 3)(torch.empty(1000))
    assert torch.equal(prior[250:], torch.eye(10)[7].repeat(750, 1))
    assert torch.allclose(prior[:250], torch.tensor(0.1), atol=1e-4)
    ranked_first = torch.bincount(prior[:250].topk(2, dim=1).indices.flatten(), minlength=10)
    assert ranked_first.min() > 20  # 50 on average
    again = loop.asking_prior(plan, Sure(), 3)(torch.empty(1000))
    assert torch.equal(prior, again)


class Stop(Exception):
    pass


def stop_after(rounds: int):
    def progress(record):
        if record["round"] + 1 == rounds:
            raise Stop

    return progress


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_stopped_and_resumed_between_rounds_is_bit_for_bit(
    whole, tmp_path, monkeypatch, checkpoint_seconds
):
    """From the newest checkpoint, or from none: then paid answers are recalled, not asked again."""
    monkeypatch.setattr(
        sys.modules["dpsd.transcription.transcribe"], "_CHECKPOINT_SECONDS", checkpoint_seconds
    )
    config = whole.config
    with pytest.raises(Stop):
        transcribe(config, out=tmp_path / "cut", progress=stop_after(3))
    cut = transcribe(config, out=tmp_path / "cut", resume=True)
    assert same(weights(whole), weights(cut))
    assert [m["loss"] for m in whole.metrics()] == [m["loss"] for m in cut.metrics()]
    for run in (whole, cut):
        lines = read_lines(run.private / "seconds.jsonl")
        assert [line["round"] for line in lines] == [0, 1, 2, 3]
        seconds = [line["seconds"] for line in lines]
        assert seconds == sorted(seconds) and run.seconds() == seconds[-1] > 0
        assert not any("second" in key for record in run.metrics() for key in record)


@pytest.mark.parametrize("on_disk", [False, True])
def test_stopped_with_a_sliding_window_and_resumed_is_bit_for_bit(
    root, tmp_path, monkeypatch, on_disk
):
    """Releases that slid out of the window are gone; the others take their places again."""
    from dpsd.student import bank

    monkeypatch.setattr(sys.modules["dpsd.transcription.transcribe"], "_CHECKPOINT_SECONDS", 0.0)
    if on_disk:
        monkeypatch.setattr(bank, "MAPPED_ABOVE", 0)
    config = quick_config(
        root, loop={"rounds": 8, "window": 350}, student={"epochs_per_round": 2, "batch_size": 50}
    )
    heard: list[str] = []
    whole = transcribe(config, out=tmp_path / "whole", say=heard.append)
    assert any("passes over the newest 350 answers" in line for line in heard)
    with pytest.raises(Stop):
        transcribe(config, out=tmp_path / "cut", progress=stop_after(6))
    cut = transcribe(config, out=tmp_path / "cut", resume=True)
    assert len(list(cut.bank.iterdir())) < 8
    assert same(weights(whole), weights(cut))
    assert not (cut.private / "window").exists()


def test_stopped_during_the_last_passes_and_resumed_is_bit_for_bit(done, tmp_path, monkeypatch):
    """The answers that were held out stay held out when the bank is filled again."""
    config = done.config

    def refit(student, bank):
        raise Stop

    with monkeypatch.context() as stopped:
        stopped.setattr(Student, "refit", refit)
        with pytest.raises(Stop):
            transcribe(config, out=tmp_path / "cut")
    assert Run(tmp_path / "cut").load_checkpoint()["round"] == 2
    cut = transcribe(config, out=tmp_path / "cut", resume=True)
    assert make_plan(config).held_out == 40 and same(weights(done), weights(cut))


def test_killed_between_paying_and_returning_stays_paid(root, tmp_path):
    config = quick_config(root, loop={"rounds": 4}, teacher={"seed": 11})
    out = tmp_path / "run"
    script = f"""
import json, os, signal, torch
torch.set_num_threads(1)
from dpsd.config import parse_config
from dpsd.privacy import oracle
from dpsd.transcription.transcribe import transcribe
charges = []
class Deadly(oracle.Oracle):
    def _ask(self, images):
        charges.append(1)
        if len(charges) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._ask(images)
import sys
sys.modules["dpsd.transcription.transcribe"].Oracle = Deadly
transcribe(parse_config(json.loads({json.dumps(config.model_dump_json())})), out={str(out)!r})
"""
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == -signal.SIGKILL
    run = Run(out)
    ledger = Ledger(run.teacher_folder, run.teacher)
    assert ledger.charged(run.id) == 600  # three of four rounds of 200 paid, two given
    lost = set(ledger.hashes(run.id)[400:].tolist())
    transcribe(config, out=out, resume=True)
    ledger = Ledger(run.teacher_folder, run.teacher)
    hashes = ledger.hashes(run.id).tolist()
    assert ledger.charged(run.id) == 800
    assert len(set(hashes)) == 800 and set(hashes[400:600]) == lost
    report = run.report()
    assert report["answers"] == 800


def test_a_stopped_run_is_charged_to_its_own_ledger_or_not_gone_on_with(tmp_path):
    config = quick_config(tmp_path)
    out = tmp_path / "run"
    with pytest.raises(Stop):
        transcribe(config, out=out, progress=stop_after(1))
    run = Run(out)
    ledger, teacher = run.ledger_folder / "ledger.jsonl", run.teacher_folder / "teacher.json"
    kept, head = ledger.read_bytes(), ledger.with_name("ledger.head.json")
    ledger.unlink()
    with pytest.raises(UserError, match="holds 0 answers of run"):
        transcribe(config, out=out, resume=True)
    assert not ledger.exists()
    ledger.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))  # of before the answers
    with pytest.raises(UserError, match="names line 3, which is not the last"):
        transcribe(config, out=out, resume=True)
    ledger.write_bytes(kept)
    assert json.loads(head.read_text())["entries"] == 3
    facts = json.loads(teacher.read_text())
    teacher.write_text(json.dumps(facts | {"uuid": "another"}))  # trained anew in the same place
    ledger.unlink()
    with pytest.raises(UserError, match="is another, the run has asked"):
        transcribe(config, out=out, resume=True)
    assert not ledger.exists()  # the other teacher's home stays its own
    ledger.write_bytes(kept)
    teacher.write_text(json.dumps(facts))
    assert transcribe(config, out=out, resume=True).report()["answers"] == 800


def test_what_a_stop_cut_off_is_no_trap(root, tmp_path, monkeypatch):
    """A start before run.json, a torn line of metrics, a torn file of answers, a half statement."""
    monkeypatch.setattr(sys.modules["dpsd.transcription.transcribe"], "_CHECKPOINT_SECONDS", 0.0)
    config = quick_config(root, loop={"rounds": 4})
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(begin, "environment", lambda config: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            transcribe(config, out=out)
    with pytest.raises(Stop):
        transcribe(config, out=out, progress=stop_after(3))
    with (out / "release" / "metrics.jsonl").open("a") as f:
        f.write('{"round": 3, "los')
    newest = sorted((out / "private" / "bank").iterdir())[0]
    whole = newest.read_bytes()
    newest.write_bytes(whole[:50])
    with pytest.raises(UserError, match="which stay paid"):
        transcribe(config, out=out, resume=True)
    newest.write_bytes(whole)
    (out / "release" / "statement.json.partial").write_text("{")
    run = transcribe(config, out=out, resume=True, data_is_public=True)
    assert [m["round"] for m in run.metrics()] == [0, 1, 2, 3] and run.data_is_public
    assert verify_release(run.release)["answers_made"] == 800
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "env.json").write_text("{}")  # the user's own
    with pytest.raises(UserError, match="exists; go on with --resume"):
        transcribe(config, out=tmp_path / "other")


def test_paths_of_a_run_mean_the_same_in_another_working_directory(root, tmp_path, monkeypatch):
    config = quick_config(root, teacher={"root": "teachers"})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    with pytest.raises(Stop):
        transcribe(config, out=tmp_path / "run", progress=stop_after(1))
    monkeypatch.chdir(tmp_path / "two")
    assert Run(tmp_path / "run").config.teacher.root == tmp_path / "one" / "teachers"
    with pytest.raises(UserError, match=r"another configuration: teacher\.root"):
        transcribe(config, out=tmp_path / "run", resume=True)
    monkeypatch.chdir(tmp_path / "one")
    transcribe(config, out=tmp_path / "run", resume=True)
    assert str(tmp_path) not in (tmp_path / "run" / "release" / "config.yaml").read_text()


def test_resume_with_another_configuration_names_the_keys(done):
    with pytest.raises(UserError, match=r"student\.lr \(0\.01 -> 0\.02\)"):
        transcribe(changed(done.config, student={"lr": 0.02}), out=done.path, resume=True)


def test_images_of_a_round_are_never_asked_twice(root, tmp_path):
    """A source of few distinct images: what is left is asked, then the run stops clearly."""
    folder = tmp_path / "public"
    folder.mkdir()
    from PIL import Image

    images = procedural("strokes", 300, (1, 28, 28), torch.Generator().manual_seed(0))
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{i}.png")
    config = quick_config(root, generator={"kind": "images", "source": str(folder)})
    with pytest.raises(UserError, match=r"generator\.kind: images gave only \d+ of 400"):
        transcribe(config, out=tmp_path / "run")


def oracle_with(teacher):
    def open_oracle(plan, run, _):
        ledger = Ledger(run.teacher_folder, run.teacher)
        return Oracle(teacher, plan, ledger, run.id, keep=run.bank, seed=run.config.seed)

    return open_oracle


@pytest.mark.slow
def test_controls_permuted_classes_and_uniform_answers(root, tmp_path):
    """Permuting the teacher's classes permutes the student's; uniform answers leave chance."""
    config = changed(
        tiny_config(root),
        precision="auto",
        teacher={"epochs": 12, "model": "cnn-tiny"},
        student={"model": "cnn-tiny", "loss": "likelihood", "lr": 0.003, "batch_size": 128,
                 "epochs_per_round": 2.0},
        generator={"kind": "procedural", "select": 2, "shares": {"strokes": 0.7, "leaves": 0.3}},
        loop={"rounds": 5},
        privacy={"answers": 10000, "epsilon": 8.0},
    )  # fmt: skip
    from dpsd.teachers.teacher import ensure_teacher, load_teacher

    home = ensure_teacher(config, lambda text: None)
    teacher = load_teacher(config, home)
    test = load_data(config.data).test
    order = torch.tensor([3, 7, 1, 9, 0, 2, 8, 4, 6, 5])
    teachers = {
        "plain": teacher,
        "permuted": lambda x: teacher(x)[:, order],
        "uniform": lambda x: torch.randn(len(x), 10, generator=torch.Generator().manual_seed(
            int(image_hashes(x[:1]).tobytes()[0]))),
    }  # fmt: skip
    hits = {}
    for name, asked in teachers.items():
        run = transcribe(config, out=tmp_path / name, open_oracle=oracle_with(asked), home=home)
        found = load_student(run)(test.images / 255).argmax(1)
        hits[name] = float((found == test.labels).float().mean())
        if name == "permuted":
            hits["unpermuted"] = float((order[found] == test.labels).float().mean())
    assert hits["plain"] > 0.7
    assert abs(hits["unpermuted"] - hits["plain"]) < 0.08
    assert hits["permuted"] < 0.25
    assert hits["uniform"] < 0.25


def test_nan_teacher_rows_do_not_stop_the_run(done, tmp_path):
    config = done.config
    from dpsd.teachers.teacher import ensure_teacher, load_teacher

    home = ensure_teacher(config, lambda text: None)
    teacher = load_teacher(config, home)

    def broken(images):
        logits = teacher(images)
        logits[images.float().mean((1, 2, 3)) > 30] = float("nan")
        return logits

    run = transcribe(config, out=tmp_path / "nan", open_oracle=oracle_with(broken), home=home)
    assert contents(run.release).keys() == contents(done.release).keys()
    assert all(torch.isfinite(t).all() for t in weights(run).values())
    assert run.report()["answers"] == done.report()["answers"]


@pytest.mark.slow
def test_two_processes_ask_once_and_agree(root, tmp_path):
    config = tiny_config(root)
    from dpsd.teachers.teacher import ensure_teacher

    home = ensure_teacher(config, lambda text: None)
    script = tmp_path / "ranks.py"
    script.write_text(f"""
import json, os, torch
from safetensors.torch import save_file
from dpsd.config import parse_config
from dpsd.transcription import session as t
from dpsd.transcription.transcribe import transcribe
class Seen(t.Student):
    last = None
    def __init__(self, *a, **k):
        super().__init__(*a, **k); Seen.last = self
t.Student = Seen
transcribe(parse_config(json.loads({json.dumps(config.model_dump_json())})),
           out={str(tmp_path / "run")!r})
state = {{k: v.contiguous().clone() for k, v in Seen.last.average.state_dict().items()}}
save_file(state, {str(tmp_path)!r} + "/rank" + os.environ["RANK"] + ".safetensors")
""")
    port = 20000 + int(time.time()) % 20000
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
         f"--master-port={port}", str(script)],
        check=True,
    )  # fmt: skip
    ranks = [load_file(tmp_path / f"rank{i}.safetensors") for i in (0, 1)]
    assert same(*ranks)
    run = Run(tmp_path / "run")
    assert same(ranks[0], weights(run))
    ledger = Ledger(home.path, home.uuid)
    assert ledger.charged(run.id) == make_plan(config).answers == 2000


def test_replay_refuses_other_images(done):
    replay = ReplayOracle(done.bank, make_plan(done.config))
    with pytest.raises(UserError, match="other images than were asked"):
        replay.answer(torch.zeros((400, 1, 28, 28), dtype=torch.uint8))
