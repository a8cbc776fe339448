"""Text tasks through lm-eval: its prompts, answers worked out by hand, the base's kept scores, and identity."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from statistics import stdev

import pytest
import torch
from rich.console import Console
from small_run import save_base
from tiny import shake, tiny_speech_lm
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from depthup.config import Recipe, UpscaleConfig
from depthup.errors import UserError
from depthup.evaluate import text_tasks as module
from depthup.evaluate.text_tasks import SUITES, load_tasks, text_tasks
from depthup.model.packaged import fetch_base
from depthup.model.speech_lm import SpeechLM
from depthup.report.degradation import degradation, print_tasks

pytest.importorskip("lm_eval")
NAMES = (*SUITES["paper"], "copa", "lambada_openai")


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch) -> Path:
    torch.manual_seed(0)
    monkeypatch.setattr(module, "CACHE", tmp_path / "kept")
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base_dir):
    return AutoTokenizer.from_pretrained(base_dir)


@pytest.fixture(scope="module")
def base(base_dir):
    """A random base over bytes with opinions, most of all about spaces, `a` and `b`."""
    base = AutoModelForCausalLM.from_pretrained(base_dir).eval()
    generator = torch.Generator().manual_seed(1)
    likely = AutoTokenizer.from_pretrained(base_dir)(" ab")["input_ids"]
    with torch.no_grad():
        for p in base.parameters():
            if p.ndim > 1:
                p.normal_(std=0.3, generator=generator)
        base.lm_head.weight *= 0.2
        base.lm_head.weight[likely] *= 10
    return base


def write(folder: Path, name: str, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices("abcdefgh", k=rng.randint(1, 6))) for _ in range(count))


def questions(count: int = 12, seed: int = 0) -> list[dict]:
    """Questions with two to four choices of unlike lengths."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        choices = [words(rng, rng.randint(1, 3)) for _ in range(2 + i % 3)]
        rows.append({"query": words(rng, 4), "choices": choices, "gold": rng.randrange(len(choices))})
    return rows


def last_words(count: int = 40) -> list[dict]:
    rng = random.Random(5)
    return [{"context": words(rng, 3), "continuation": rng.choice("ab")} for _ in range(count)]


def names_to_fill_in(count: int = 12) -> list[dict]:
    rng = random.Random(6)
    rows = []
    for _ in range(count):
        start = words(rng, 3)
        options = [f"{start} {words(rng, 1)}" for _ in range(2)]
        rows.append({"context_options": options, "continuation": words(rng, 3), "gold": rng.randrange(2)})
    return rows


def log_likelihood(model, tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    """Of the continuation alone, and whether each of its tokens is the likeliest."""
    before, whole = (tokenizer(text)["input_ids"] for text in (context, context + continuation))
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    told = [
        (logs[i - 1, whole[i]].item(), logs[i - 1].argmax().item() == whole[i]) for i in range(len(before), len(whole))
    ]
    return sum(log for log, _ in told), all(right for _, right in told)


def by_hand(model, tokenizer, requests: list[tuple[list[tuple[str, str]], int]]) -> float:
    """Share of questions whose right choice is the likeliest."""
    right = 0
    for choices, gold in requests:
        found = [log_likelihood(model, tokenizer, *choice)[0] for choice in choices]
        right += found.index(max(found)) == gold
    return right / len(requests)


def asked(row: dict) -> tuple[list[tuple[str, str]], int]:
    return [(row["query"], f" {choice}") for choice in row["choices"]], row["gold"]


def run(model, tokenizer, base, folder, tasks=("openbookqa",), **options):
    return text_tasks(model, tokenizer, lambda: copy.deepcopy(base), tasks, folder, **options)


def unneeded():
    raise AssertionError("the base was loaded")


HUB = {  # the same question in the hub's columns and in a local line
    "piqa": (
        {"goal": "dresser", "sol1": "replace drawer", "sol2": "finish,  woodgrain", "label": 1},
        {"query": "Question: dresser\n", "choices": ["replace drawer", "finish,  woodgrain"], "gold": 1},
    ),
    "arc_easy": (
        {"question": "Which?", "choices": {"text": ["this", "That", "x"], "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"query": "Question: Which?", "choices": ["this", "That", "x"], "gold": 1},
    ),
    "arc_challenge": (
        {"question": "Why?", "choices": {"text": ["this", "that"], "label": ["1", "2"]}, "answerKey": "1"},
        {"query": "Question: Why?", "choices": ["this", "that"], "gold": 0},
    ),
    "boolq": (
        {"passage": "Ice -- Ice floats.", "question": "does ice float", "label": 1},
        {"query": "Passage: Ice -- Ice floats.\nQuestion: does ice float?", "choices": ["no", "yes"], "gold": 1},
    ),
    "hellaswag": (
        {
            "activity_label": "Roof repair",
            "ctx_a": "A man sits. [header] He is old.",
            "ctx_b": "he",
            "endings": ["falls [step] down.", "sings."],
            "label": "1",
        },
        {"query": "Roof repair: A man sits. He is old. He", "choices": ["falls down.", "sings."], "gold": 1},
    ),
    "mmlu": (
        {"question": " Which cell\nis this? ", "choices": ["a", "b ", "c", "d"], "answer": 2},
        {
            "query": " Which cell\nis this? ",
            "choices": ["a", "b ", "c", "d"],
            "gold": 2,
            "category": "high_school_biology",
        },
    ),
    "openbookqa": (
        {"question_stem": "Predators eat", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
        {"query": "Predators eat", "choices": ["a", "b"], "gold": 0},
    ),
    "copa": (
        {"premise": "A, because b.", "question": "effect", "choice1": "He ran.", "choice2": "It fell.", "label": 1},
        {"query": "A, because b, therefore", "choices": ["he ran.", "it fell."], "gold": 1},
    ),
    "winogrande": (
        {"sentence": "Ann saw Bo so _ fled.", "option1": "Ann", "option2": "Bo", "answer": "2"},
        {"context_options": ["Ann saw Bo so Ann", "Ann saw Bo so Bo"], "continuation": "fled.", "gold": 1},
    ),
    "lambada_openai": (
        {"text": "I don't care\n\nabout signs"},
        {"context": "I don't care\n\nabout", "continuation": "signs"},
    ),
}
WHERE = {
    **{name: f"super_glue/{name}/default" for name in ("boolq", "copa")},
    **{name: f"arc/{name}" for name in ("arc_easy", "arc_challenge")},
    "winogrande": "winogrande/default",
    "mmlu": "mmlu/default/mmlu_high_school_biology",
}


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_put_as_lm_eval_puts_them(tmp_path, name):
    import lm_eval.tasks
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    theirs, ours = HUB[name]
    path = WHERE.get(name, f"{name.partition('_')[0]}/{name}")
    config = load_yaml(Path(lm_eval.tasks.__file__).parent / f"{path}.yaml")
    config.pop("tag", None)
    data = {split: Dataset.from_list([theirs]) for split in ("train", "validation", "test", "dev")}
    wanted = ConfigurableTask(config={**config, "metadata": {}, "custom_dataset": lambda **_: data})
    wanted.config.num_fewshot = 0
    file = "openbook_qa" if name == "openbookqa" else name
    found = load_tasks([name], write(tmp_path / "data", file, [ours]))[name][0]
    for task in (wanted, found):
        task.build_all_requests()
    assert [r.args for r in found.instances] == [r.args for r in wanted.instances]
    for likeliest in range(len(found.instances)):
        answers = [(float(i == likeliest), i == likeliest) for i in range(len(found.instances))]
        scores = [task.process_results(task.eval_docs[0], answers)["acc"] for task in (wanted, found)]
        assert scores[0] == scores[1]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_scores_are_those_worked_out_by_hand(tmp_path, base, tokenizer, batch_size, capsys):
    """Base and adapted model each on its own, also where rows of a batch are padded."""
    folder = tmp_path / "data"
    write(folder, "openbook_qa", rows := questions())
    write(folder, "winogrande", fill := names_to_fill_in())
    write(folder, "lambada_openai", last := last_words())
    model = shake(tiny_speech_lm(base, layer="e_branchformer", scope="all"), 0.5)
    scores = run(model, tokenizer, base, folder, ("openbookqa", "winogrande", "lambada_openai"), batch_size=batch_size)
    named = [([(o, f" {r['continuation']}") for o in r["context_options"]], r["gold"]) for r in fill]
    for key, chosen in (("base", base), ("score", model)):
        assert getattr(scores["openbookqa"], key) == by_hand(chosen, tokenizer, [asked(row) for row in rows])
        assert getattr(scores["winogrande"], key) == by_hand(chosen, tokenizer, named)
        greedy = [log_likelihood(chosen, tokenizer, r["context"], f" {r['continuation']}")[1] for r in last]
        assert getattr(scores["lambada_openai"], key) == sum(greedy) / len(last)
    assert 0 < scores["lambada_openai"].base < 1  # the test could tell
    assert scores["openbookqa"].base != scores["openbookqa"].score
    assert not any(score.identical for score in scores.values())
    assert capsys.readouterr() == ("", "")  # no terminal, no progress bars
    assert scores["openbookqa"].chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert [scores[name].chance for name in ("winogrande", "lambada_openai")] == [0.5, 0]
    pairs = [[by_hand(m, tokenizer, [asked(row)]) for m in (base, model)] for row in rows]
    apart = [before - after for before, after in pairs]
    assert scores["openbookqa"].lost_stderr == pytest.approx(stdev(apart) / len(apart) ** 0.5)
    p, n = scores["winogrande"].score, len(fill)
    assert scores["winogrande"].stderr == pytest.approx((p * (1 - p) / (n - 1)) ** 0.5)


def test_a_limit_takes_the_first_questions(tmp_path, base, tokenizer):
    rows = questions()
    folder = write(tmp_path / "data", "openbook_qa", rows)
    model = tiny_speech_lm(base)
    score = run(model, tokenizer, base, folder, limit=7)["openbookqa"]
    assert (score.questions, score.base) == (7, by_hand(base, tokenizer, [asked(row) for row in rows[:7]]))
    assert run(model, tokenizer, base, folder)["openbookqa"].questions == 12
    with pytest.raises(UserError, match="limit 0"):
        run(model, tokenizer, base, folder, limit=0)


def test_a_limited_part_of_one_file_is_of_all_its_categories(tmp_path, base, tokenizer):
    rows = [
        {"query": words(random.Random(i), 3), "choices": list("wxyz"), "gold": i % 4, "category": f"subject_{i // 4}"}
        for i in range(12)
    ]
    score = run(tiny_speech_lm(base), tokenizer, base, write(tmp_path / "data", "mmlu", rows), ("mmlu",), limit=5)
    (task,) = load_tasks(["mmlu"], tmp_path / "data")["mmlu"]
    assert [doc["category"][-1] for doc in task.eval_docs] == list("012012012012")
    assert (score["mmlu"].questions, score["mmlu"].chance) == (5, 0.25)


GROUP = """
group: mine
task: [openbookqa, arc_easy]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


def test_a_group_is_scored_over_all_its_questions(tmp_path, base, tokenizer):
    """As lm-eval's own `mmlu`, whose 57 subjects must not outweigh the other tasks in a mean."""
    folder = tmp_path / "data"
    write(folder, "openbook_qa", questions(5, seed=1))
    write(folder, "arc_easy", questions(20, seed=2))
    (folder / "mine.yaml").write_text(GROUP)
    model = shake(tiny_speech_lm(base, scope="all"), 0.5)
    scores = run(model, tokenizer, base, folder, ("mine", "openbookqa", "arc_easy"))
    mine, small, large = (scores[name] for name in ("mine", "openbookqa", "arc_easy"))
    for key in ("score", "base", "chance"):
        assert getattr(mine, key) == pytest.approx(0.2 * getattr(small, key) + 0.8 * getattr(large, key))
    assert small.score != large.score and mine.questions == 25
    assert mine.stderr == pytest.approx((mine.score * (1 - mine.score) / 24) ** 0.5)
    assert run(model, tokenizer, base, folder, ("mine",), limit=8)["mine"].questions == 8
    (folder / "mine.yaml").write_text(GROUP.replace("true", "false"))
    assert list(load_tasks(["mine"], folder)) == ["openbookqa", "arc_easy"]


def test_the_score_of_a_base_is_kept(tmp_path, kept, base, tokenizer):
    """And is not used for other questions, another limit, another tokenizer or another base."""
    folder = write(tmp_path / "data", "openbook_qa", questions())
    model = shake(tiny_speech_lm(base, scope="all"))
    first = run(model, tokenizer, base, folder)
    assert [file.suffix for file in kept.iterdir()] == [".json"] * 2  # and that of the model
    assert text_tasks(model, tokenizer, unneeded, ["openbookqa"], folder) == first
    with pytest.raises(AssertionError, match="was loaded"):
        text_tasks(model, tokenizer, unneeded, ["openbookqa"], folder, limit=5)
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.normalizer = normalizers.Replace("a", "b")
    with pytest.raises(AssertionError, match="was loaded"):
        text_tasks(model, other, unneeded, ["openbookqa"], folder)
    model.config.base_hash = "another"
    with pytest.raises(AssertionError, match="was loaded"):
        text_tasks(model, tokenizer, unneeded, ["openbookqa"], folder)


def test_what_was_scored_before_something_failed_stands_and_is_not_scored_again(tmp_path, monkeypatch, base, tokenizer):
    folder = write(tmp_path / "data", "openbook_qa", questions(6))
    write(folder, "arc_easy", questions(6, seed=1))
    model = shake(tiny_speech_lm(base, scope="all"))
    accuracy, scored, found, stood = module.accuracy, [], {}, []

    def failing(scoring, tokenizer, task, *options):
        scored.append((task.task_name, scoring is model))
        if scored[-1] == ("arc_easy", True):
            raise RuntimeError("out of memory")
        return accuracy(scoring, tokenizer, task, *options)

    monkeypatch.setattr(module, "accuracy", failing)
    tasks = ("openbookqa", "arc_easy")
    with pytest.raises(RuntimeError, match="out of memory"):
        run(model, tokenizer, base, folder, tasks, scores=found, on_result=lambda: stood.append(list(found)))
    assert stood == [["openbookqa"]] and len(scored) == 4
    monkeypatch.setattr(module, "accuracy", lambda m, t, task, *o: scored.append(task) or accuracy(m, t, task, *o))
    again = run(model, tokenizer, base, folder, tasks)
    assert [task.task_name for task in scored[4:]] == ["arc_easy"] and again["openbookqa"] == found["openbookqa"]
    next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] += 1e-4
    run(model, tokenizer, base, folder, ("arc_easy",))
    assert len(scored) == 6


def test_a_changed_file_is_read_again(tmp_path, base, tokenizer):
    rows = [{**row, "choices": row["choices"][:2], "gold": row["gold"] % 2} for row in questions()]
    model = shake(tiny_speech_lm(base, scope="all"))
    before = run(model, tokenizer, base, write(tmp_path / "data", "openbook_qa", rows))["openbookqa"]
    turned = [{**row, "gold": 1 - row["gold"]} for row in rows]
    after = run(model, tokenizer, base, write(tmp_path / "data", "openbook_qa", turned))["openbookqa"]
    assert after.base == pytest.approx(1 - before.base)
    assert after.score == pytest.approx(1 - before.score)


KEEPS_TEXT = {
    "speech": {"scope": "speech"},
    "from_speech": {"scope": "from_speech"},
    "lora": {"method": "lora", "lora_speech_only": True},
    "both": {"method": "depth_upscale+lora", "scope": "from_speech", "lora_speech_only": True},
}


@pytest.mark.parametrize("name", KEEPS_TEXT)
def test_a_model_that_keeps_text_has_the_score_of_its_base(tmp_path, monkeypatch, base, tokenizer, name):
    folder = write(tmp_path / "data", "openbook_qa", questions())
    model = shake(tiny_speech_lm(base, **KEEPS_TEXT[name]))
    scored = []
    accuracy = module.accuracy
    monkeypatch.setattr(module, "accuracy", lambda model, *a: scored.append(model) or accuracy(model, *a))
    score = run(model, tokenizer, base, folder)["openbookqa"]
    assert score.identical and score.score == score.base
    assert [type(m) for m in scored] == [type(base)]


def test_a_broken_promise_is_an_error(tmp_path, base, tokenizer):
    folder = write(tmp_path / "data", "openbook_qa", questions())
    model = tiny_speech_lm(base, scope="speech")
    with torch.no_grad():
        model.llm.lm_head.weight[7] += 1e-3
    with pytest.raises(RuntimeError, match="differ from the base's"):
        run(model, tokenizer, base, folder)


def test_own_definitions_beside_the_data(tmp_path, base, tokenizer):
    rows = questions()
    folder = write(tmp_path / "data", "mine", rows)
    (folder / "mine.yaml").write_text(
        f"task: my_task\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'mine.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: query\ndoc_to_choice: choices\n"
        "doc_to_target: gold\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    score = run(tiny_speech_lm(base), tokenizer, base, folder, ("my_task",))["my_task"]
    assert score.base == by_hand(base, tokenizer, [asked(row) for row in rows])
    own = folder / "mine.yaml"
    own.write_text(own.read_text().replace("acc,", "acc_norm,"))
    with pytest.raises(UserError, match="my_task: has no acc, only acc_norm"):
        load_tasks(["my_task"], folder)


BAD_LINES = {
    "{": r"openbook_qa.jsonl:2: not JSON",
    "[]": r"openbook_qa.jsonl:2: no field `query`",
    '{"query": "q", "gold": 0}': r"openbook_qa.jsonl:2: no field `choices`",
    '{"query": "q", "choices": ["a", "b"], "gold": 2}': r"openbook_qa.jsonl:2: gold 2 is none of its 2 choices",
    '{"query": "q", "choices": ["a", "b"], "gold": "A"}': r"openbook_qa.jsonl:2: gold 'A' is none",
    '{"query": "q", "choices": ["a", "b"], "gold": true}': r"openbook_qa.jsonl:2: gold True is none",
    '{"query": "q", "choices": "ab", "gold": 0}': r"openbook_qa.jsonl:2: choices must be a list of texts, not 'ab'",
    '{"query": 5, "choices": ["a"], "gold": 0}': r"openbook_qa.jsonl:2: `query` must be a text, not 5",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named(tmp_path, line):
    folder = write(tmp_path / "data", "openbook_qa", questions(1))
    file = folder / "openbook_qa.jsonl"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UserError, match=BAD_LINES[line]):
        load_tasks(["openbookqa"], folder)


def test_what_is_missing_is_named(tmp_path):
    folder = write(tmp_path / "data", "openbook_qa", [])
    with pytest.raises(UserError, match=r"openbook_qa.jsonl: holds no question"):
        load_tasks(["openbookqa"], folder)
    with pytest.raises(UserError, match=r"text task openbook_qa: not known; did you mean openbookqa\?"):
        load_tasks(["openbook_qa"], folder)
    with pytest.raises(UserError, match=r"data/piqa.jsonl: no such file"):
        load_tasks(["piqa"], folder)
    with pytest.raises(UserError, match=r"text task papr: not known; did you mean paper\?"):
        load_tasks(["papr"], folder)
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        load_tasks(["piqa"], tmp_path / "nowhere")
    (folder / "mine.yaml").write_text("task: mine\ndataset_path: json\ndataset_kwargs: {data_files: none.json}\n")
    with pytest.raises(UserError, match=r"text tasks mine: cannot get the data .*none.json"):
        load_tasks(["mine"], folder)


def test_without_lm_eval_the_extra_is_named(monkeypatch, base, tokenizer):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'depthup\[tasks\]'"):
        text_tasks(tiny_speech_lm(base), tokenizer, unneeded, ["piqa"])


def test_degradation():
    tasks = {
        "a": {"score": 0.5, "base": 0.75, "chance": 0.25, "lost_stderr": 0.04},
        "b": {"score": 0.5, "base": 0.25, "chance": 0.5, "lost_stderr": 0.03},
        "c": {"score": 0.0, "base": 0.0, "chance": 0.0, "lost_stderr": 0.0},
    }
    found = degradation(tasks)
    third = pytest.approx(1 / 3)
    assert found["tasks"]["a"] == {"points": 0.25, "stderr": 0.04, "relative": third, "above_chance": 0.5}
    assert found["tasks"]["b"] == {"points": -0.25, "stderr": 0.03, "relative": -1.0, "above_chance": None}
    assert found["tasks"]["c"] == {"points": 0.0, "stderr": 0.0, "relative": None, "above_chance": None}
    assert found["mean"] == {"points": 0.0, "stderr": pytest.approx(0.05 / 3), "relative": 0.0, "above_chance": 0.0}
    assert degradation({"a": tasks["a"]})["mean"] == found["tasks"]["a"]
    before = {key: value for key, value in tasks["b"].items() if key != "lost_stderr"}  # kept by an older version
    assert degradation({"a": tasks["a"], "b": before})["mean"]["stderr"] is None
    assert set(degradation({})["mean"].values()) == {None}


def test_the_table_shows_losses_and_identity():
    tasks = {
        "a": {"score": 0.5, "stderr": 0.05, "base": 0.75, "chance": 0.25, "questions": 100, "identical": False},
        "b": {"score": 0.4, "stderr": 0.05, "base": 0.4, "chance": 0.5, "questions": 80, "identical": True},
    }
    tasks["a"]["lost_stderr"], tasks["b"]["lost_stderr"] = 0.02, 0.0
    console = Console(width=120, record=True, quiet=False)
    print_tasks(tasks, console)
    lines = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert ["a", "100", "75.0", "50.0", "±", "5.0", "25.0", "±", "2.0", "33.3", "%", "50.0", "%"] in lines
    assert ["b", "80", "40.0", "identical", "0.0", "0.0", "%", "-"] in lines
    assert ["mean", "57.5", "45.0", "12.5", "±", "1.0", "21.7", "%", "62.5", "%"] in lines


@pytest.mark.slow
def test_without_a_folder_the_paper_s_suite_comes_from_the_hub(monkeypatch):
    """Slow because lm-eval reads all its definitions: eight scores, of which MMLU's is of 57 subjects."""
    import datasets

    fetched = []

    def fetch(path, name=None, **options):
        fetched.append(path)
        theirs = HUB[HUB_PATHS.get(path, path.rpartition("/")[2])][0] | {"subject": name}
        return {split: datasets.Dataset.from_list([theirs]) for split in ("train", "validation", "test", "dev")}

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    loaded = load_tasks(["paper"])
    assert {name: len(parts) for name, parts in loaded.items()} == {**dict.fromkeys(SUITES["paper"], 1), "mmlu": 57}
    assert set(fetched) == {*HUB_PATHS, "Rowan/hellaswag", "allenai/openbookqa", "allenai/winogrande"}
    (task,), ours = loaded["winogrande"], HUB["winogrande"][1]
    task.build_all_requests()
    continuation = f" {ours['continuation']}"
    assert [r.args for r in task.instances] == [(option, continuation) for option in ours["context_options"]]


HUB_PATHS = {"allenai/ai2_arc": "arc_easy", "aps/super_glue": "boolq", "baber/piqa": "piqa", "cais/mmlu": "mmlu"}


@pytest.mark.slow
def test_smollm2_on_copa(shared):
    """Adapted, with lm-eval's own prompt; and the base alone, measured once before with another one."""
    try:
        directory = fetch_base()
    except UserError as error:
        pytest.skip(f"needs SmolLM2-135M-Instruct: {error}")
    recipe = Recipe(base=str(directory), upscale=UpscaleConfig(num_layers=2), dtype="float32")
    model = shake(SpeechLM.from_recipe(recipe).eval(), 0.01)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    score = text_tasks(model, tokenizer, model.load_base, ["copa"], shared / "text")["copa"]
    assert score.identical and score.questions == 100
    assert score.score == pytest.approx(0.64, abs=0.011)
    (task,) = load_tasks(["copa"], shared / "text")["copa"]
    task.config.doc_to_text, task.config.target_delimiter = "{{query}}\nAnswer:", " "
    assert module.accuracy(model.load_base(), tokenizer, task).score == pytest.approx(0.63, abs=0.011)
