"""One poisoned text in every field of every document, through everything that prints it.

Whatever a model accepts in place of a text gets the poison behind it, the same everywhere, so that
names still agree with each other. What comes out has no character that acts on a terminal, no tag
that is not ours, and as many lines as without the poison.
"""

import html.parser
import json
import re
import unicodedata

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from kd_offline.cli import evaluation, output
from kd_offline.cli.app import app
from kd_offline.datasets import ExpertBuffer
from kd_offline.deployment.profile import collaboration_profile
from kd_offline.hardware import profiles
from kd_offline.hardware.profiles import toml_text
from kd_offline.runs.folder import RunFolder
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.sealed_json import write_document
from kd_offline.testing.factories import tiny_dataset
from kd_offline.testing.reports import evaluation_report, fabricate_run, run_manifest
from tests.unit.evaluation.test_evaluation_setup import expert, make_run

POISON = (
    "\x1b[2J\x07\r\nwhole: every check passed\n## Trusted\n| a | b |\n---\n```\n</pre>"
    "<script>alert(1)</script><img src=x onerror=alert(1)>\x9b\u202e\u2028\u200b\ufeff"
    "![x](http://evil.example/x.png) [y](javascript:alert(1)) www.evil.example "
    "http://evil.example --> ]]> */ $x_{$ \"'`` \u3164"
)
ACTING = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def texts(value):
    """Yield every text of a JSON value, keys included."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def replaced(value, poisoned):
    if isinstance(value, dict):
        return {poisoned.get(k, k): replaced(v, poisoned) for k, v in value.items()}
    if isinstance(value, list):
        return [replaced(item, poisoned) for item in value]
    return poisoned.get(value, value) if isinstance(value, str) else value


def poison(document, least, keep=()):
    """Return a model with poison in every text where it accepts it: in ``least`` or more."""
    plain, model = document.model_dump(mode="json"), type(document)
    poisoned: dict[str, str] = {}
    for text in dict.fromkeys(texts(plain)):
        more = poisoned | {text: text + POISON}
        try:
            if not text or text in keep:
                continue
            model.model_validate(replaced(plain, more))
        except (ValidationError, ValueError):
            continue
        poisoned = more
    assert len(poisoned) >= least, sorted(poisoned)
    return model.model_validate(replaced(plain, poisoned))


def printed(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="kd-offline")
    assert done.exit_code == code, done.output
    assert_harmless(done.stdout)
    assert_harmless(done.stderr)
    return done.stdout


def assert_harmless(text):
    found = {c for c in text if unicodedata.category(c) in ACTING or c == "\u3164"} - {"\n"}
    assert not found, sorted(map(ascii, found))


class Tags(html.parser.HTMLParser):
    """The tags and addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.found, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.attributes += [name for name, _ in attrs]


def assert_the_same_page(text, clean):
    assert_harmless(text.replace("\t", ""))
    tags, known = Tags(text), Tags(clean)
    assert "onerror" not in tags.attributes
    assert "img" not in tags.found
    for tag in ("script", "a", "pre", "style", "section", "table", "tr", "svg"):
        assert tags.found.count(tag) == known.found.count(tag), tag


def without_code(text):
    return re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)


def assert_the_same_markdown(text, clean):
    assert_harmless(text)
    outside, known = map(without_code, (text, clean))
    assert outside.count("\n") <= known.count("\n")  # what is no command of ours is left out
    assert "<script" not in outside
    assert "<img" not in outside
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert not re.search(r"(https?|javascript)://", outside)
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    rows = [line for line in known.splitlines() if line.startswith("|")]
    assert cells == [len(re.findall(r"(?<!\\)\|", line)) for line in rows]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A dataset, what makes its manifest the clean one, and what makes it the poisoned one."""
    buffer = tiny_dataset(tmp_path / "d.zarr")
    said = {"description": "made up", "citation": "nobody", "licence": "as you like"}
    clean = buffer.manifest.model_copy(update=said)
    bad = poison(clean, least=20, keep=("heldout", "train"))  # whose names mean something
    opened = ExpertBuffer.open

    def use(manifest):
        def open_it(*arguments, **options):
            made = opened(*arguments, **options)
            made.manifest = manifest
            return made

        monkeypatch.setattr(ExpertBuffer, "open", open_it)

    return buffer.path, lambda: use(clean), lambda: use(bad)


@pytest.mark.parametrize("command", ["inspect", "card", "croissant"])
@pytest.mark.parametrize("json_", [False, True])
def test_a_dataset_is_shown_with_as_many_lines(dataset, command, json_):
    path, clean, bad = dataset
    words = [command, path, *["--json"] * (json_ and command != "croissant")]
    clean()
    expected = printed(*words)
    bad()
    text = printed(*words)
    if json_ or command == "croissant":
        assert text.isascii()
        json.loads(text)
    elif command == "inspect":
        assert text.count("\n") == expected.count("\n")
    if command == "card" and not json_:
        assert_the_same_markdown(text.partition("\n---\n")[2], expected.partition("\n---\n")[2])


def test_datasets_are_compared_in_as_many_lines(dataset, tmp_path, monkeypatch):
    path, _, bad = dataset
    other = tiny_dataset(tmp_path / "other.zarr", seed=1)
    expected = printed("diff", path, other.path, code=1)
    bad()
    assert printed("diff", path, other.path).count("\n") <= expected.count("\n")
    assert printed("diff", path, path, "--json").isascii()


def test_a_dataset_has_the_page_without_the_poison(dataset, tmp_path):
    path, clean, bad = dataset
    clean()
    printed("inspect", path, "--html", tmp_path / "clean.html")
    bad()
    printed("inspect", path, "--html", tmp_path / "bad.html")
    assert_the_same_page((tmp_path / "bad.html").read_text(), (tmp_path / "clean.html").read_text())


@pytest.fixture
def run(tmp_path, monkeypatch):
    folder = fabricate_run(tmp_path / "run")
    clean = run_manifest()
    # A recipe of unknown settings would be refused before anything is shown.
    manifest = poison(clean, least=20).model_copy(update={"recipe": clean.recipe})
    evaluated = poison(evaluation_report(), least=10)

    def bad():
        monkeypatch.setattr(RunFolder, "manifest", lambda self: manifest)
        monkeypatch.setattr(RunFolder, "evaluation", lambda self: evaluated)

    return folder.path, bad


def test_a_report_in_markdown_has_as_many_lines(run):
    path, bad = run
    expected = printed("report", path, "--markdown")
    bad()
    assert_the_same_markdown(printed("report", path, "--markdown"), expected)


def test_a_report_as_a_page_has_the_tags_without_the_poison(run, tmp_path):
    path, bad = run
    printed("report", path, "-o", tmp_path / "clean.html")
    bad()
    printed("report", path, "-o", tmp_path / "bad.html")
    assert_the_same_page((tmp_path / "bad.html").read_text(), (tmp_path / "clean.html").read_text())


def test_hardware_of_strangers_is_shown_with_as_many_lines(tmp_path):
    known = profiles.load("stm32f4")
    (tmp_path / "clean.toml").write_text(toml_text(known))
    (tmp_path / "bad.toml").write_text(toml_text(poison(known, least=10)))
    expected = printed("hardware", tmp_path / "clean.toml")
    assert printed("hardware", tmp_path / "bad.toml").count("\n") == expected.count("\n")
    assert printed("hardware", tmp_path / "bad.toml", "--json").isascii()


def test_what_deploy_check_says_of_a_profile_imitates_no_line_of_ours(tmp_path):
    run = make_run(tmp_path / "run", expert(tmp_path / "expert"), motion=False)
    known = {"recipe": DistillRecipe(method="kl").model_dump(mode="json")}
    run.write_manifest(run.manifest().model_copy(update=known))
    bad = poison(collaboration_profile(run.path), least=10)
    write_document(tmp_path / "bad.json", bad)
    command = ("deploy-check", tmp_path / "bad.json", "--environment", "mpe/simple_adversary_v3")
    text = printed(*command, code=1)
    assert "whole: every check passed" in text
    assert "\nwhole: every check passed" not in text
    assert printed(*command, "--json", code=1).isascii()


def test_what_an_evaluation_says_has_as_many_lines(tmp_path, capsys):
    counts = []
    for report in (evaluation_report(), poison(evaluation_report(), least=10)):
        output.begin(json=False)
        evaluation._summary(report, tmp_path, tmp_path)
        shown = capsys.readouterr()
        assert_harmless(shown.out + shown.err)
        counts.append((shown.out + shown.err).count("\n"))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "{}"],
        ["evaluate", "{}"],
        ["record", "{}"],
        ["record", "mpe/simple_spread_v3", "--expert", "{}", "-o", "x.zarr"],
        ["record", "mpe/simple_spread_v3", "--mask", "{}", "-o", "x.zarr"],
        ["deploy-check", "{}"],
        ["hardware", "{}"],
        ["distill", "{}", "--method", "{}"],
        ["schema", "{}"],
        ["{}"],
        ["inspect", "--{}"],
        ["train", "--recipe", "{}"],
        ["export", "{}", "--to", "{}"],
    ],
    ids=str,
)
@pytest.mark.parametrize("json_", [False, True])
def test_names_with_escapes_stay_one_line_in_errors(words, json_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = POISON.replace("/", "_")[:120]
    given = [word.format(name) for word in words] + ["--json"] * json_
    done = CliRunner().invoke(app, given, prog_name="kd-offline")
    assert done.exit_code in (1, 2)
    assert_harmless(done.output)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
