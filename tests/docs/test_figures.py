"""Every figure that a page quotes from a result is found in the files that were measured.

Pages and tables that are written from files are written again and compared. In all other text a
figure (a share with a decimal, a return, a quotient, an interval, a cell of a table) has to be a
value in a file of the task that its sentence names, as precise as it is quoted. Sections
with figures that have no file are listed with the command that makes them, which they name.
"""

import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from benchmarks import anchors
from benchmarks.results import render, render_combat, render_ddn, render_methods
from benchmarks.results.combat import COMBAT
from benchmarks.results.ddn import DDN
from benchmarks.results.methods import METHODS
from kd_offline.evaluation.intervals import wilson
from tests.docs.pages import BLOCK, GUIDE, ROOT

DOCS = ROOT / "docs"
GENERATED = {
    *("results.md", "results-combat.md", "results-ddn.md", "results-methods.md", "anchors.md")
}
# Tables between marks, of docs/status.md and the guide to masks.
WRITTEN = {
    "table": render.summary,
    "combat": lambda: render_combat.summary(COMBAT, COMBAT.cells),
    "rival": render.strongest_rival,
    "steps": lambda: render_combat.steps(COMBAT, COMBAT.cells),
}
PAGES = [
    ROOT / "README.md",
    DOCS / "status.md",
    *sorted(GUIDE.glob("*.md")),
    *sorted((DOCS / "decisions").glob("*.md")),
]
TASKS = {  # as text names them: as files do
    "simple_spread": "spread",
    "simple_speaker_listener": "speaker-listener",
    "simple_adversary": "adversary",
    "3m": "3m",
    "8m": "8m",
    "5m_vs_6m": "5m-vs-6m",
    "3s5z": "3s5z",
}
# Sections with figures that are in no file, and the words in them that say how those are made
# again, or that they were not kept.
UNFILED = {
    ("README.md", "Two commands"): "`make demo` leaves",
    (
        "docs/decisions/014-advantage.md",
        "What one pair of trainings says",
    ): "benchmarks.paired mpe/simple_adversary_v3",
    ("docs/guide/cost.md", "Training"): "`python -m benchmarks.devices`",
    ("docs/guide/sparsity.md", "What it is worth"): "python -m benchmarks.sparsity",
    ("docs/guide/robustness.md", "Seeds that differ"): "distill --method kl --hidden 16",
    ("docs/guide/cost.md", "Timed"): "`kd-offline bench latency run/ --rounds 30`",
    (
        "docs/guide/privileged-teachers.md",
        "What students of it keep",
    ): "`evaluate --episodes 512 --seed 90000`",
    ("docs/guide/experts.md", "Training"): "`--frames 4000000 --threads 1`",
    ("docs/guide/value-based-experts.md", "Training"): "| `qmix-spread.toml` |",
    ("docs/decisions/004-distillation.md", "What was decided"): "trials that were not kept",
    (
        "docs/decisions/004-distillation.md",
        "What was measured",
    ): "distill dataset.zarr -o run/ --me",
    ("docs/decisions/004-distillation.md", "Partners"): "distill dataset.zarr -o run/ --mask limit",
    (
        "docs/decisions/004-distillation.md",
        "How short a training can be",
    ): "`--epochs 10 --seeds 3`",
    (
        "docs/decisions/004-distillation.md",
        "Narrower students",
    ): "distill dataset.zarr -o run/ --hid",
    ("docs/decisions/005-evaluation.md", "Intervals"): "tests/unit/evaluation/test_intervals.py",
    ("docs/decisions/006-reading.md", "Figures"): "python -m benchmarks.reading",
    ("docs/decisions/007-value-experts.md", "Units and beginnings"): "trials that were not kept",
    ("docs/decisions/008-q-temperature.md", "What was measured"): "distill qmix.zarr -o run/",
    (
        "docs/decisions/010-budgets.md",
        "What an observation block is worth",
    ): "600 recorded episodes",
    ("docs/decisions/010-budgets.md", "Learned gates and the allocator"): "single runs",
    ("docs/decisions/011-quantisation.md", "011: Training for int8"): "bench quantisation",
    ("docs/decisions/012-kickstarting.md", "Why"): "kd-offline record smax/5m_vs_6m",
    ("docs/decisions/012-kickstarting.md", "The same under a mask"): "--set learning_rate=0.001",
    ("docs/decisions/012-kickstarting.md", "Students first, then the teacher"): "benchmarks.paired",
}

# Of a cell these are figures; training seeds by themselves, curves and times are not quoted.
SINGLES = {"normalised", "ratio", "flops_reduction", "factor", "faster", "return", "expert_return"}
LEFT_OUT = {"seeds", "curves", "held_out", "latency", "agreement", "length"}

_NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?"
INTERVAL = re.compile(rf"({_NUMBER})(?: %)? \[({_NUMBER}), ({_NUMBER})\]")
SINGLE = re.compile(
    r"(?<![\w.,/-])(?:"
    r"(\d[\d,]*\.\d+) %"  # a share
    r"|(-\d+\.\d+)(?![\w.])"  # a return
    r"|(\d+(?:\.\d+)?) times (?:fewer|as fast|faster)"  # a quotient
    r"|(\d[\d,]{2,} s)(?:econds)?(?![a-z])"  # a time
    r"|(-?\d+\.\d+) ±"
    r"|(-?\d+\.\d+)(?= \|)"  # the cell of a table
    r")"
)


def shown(value, digits):
    return f"{value:.{digits}f}"


def digits_of(text):
    return len(text.partition(".")[2])


class Files:
    """The figures of all files, by task: single ones, and means with their ends."""

    def __init__(self):
        self.single = defaultdict(set)
        self.intervals = defaultdict(set)
        for path in DOCS.glob("results/**/*.json"):
            self._walk(json.loads(path.read_text("utf-8")), task_of(path.name))
        for path in ROOT.glob("kd_offline/experts/bundled/*/*/expert.json"):
            card = json.loads(path.read_text("utf-8"))
            self._expert(card["greedy"], task_of(str(path)))
            self._seconds([card["seconds"]], task_of(str(path)))
        for name, made in json.loads((DOCS / "anchors.json").read_text("utf-8")).items():
            self._walk(made, name.split(".")[0])
        # What pages compute from the files: shares of another's win rate, quotients of costs.
        for page in GENERATED:
            for section in (DOCS / page).read_text("utf-8").split("\n## ")[1:]:
                self._page(section, task_of(section.partition("\n")[0]))

    def _walk(self, value, task):
        if isinstance(value, list):
            for each in value:
                self._walk(each, task)
        elif isinstance(value, dict):
            if {"mean", "low", "high"} <= set(value):
                self._interval([value[name] for name in ("mean", "low", "high")], task)
            for name, each in value.items():
                if name.startswith("retention") and isinstance(each, list):
                    self._interval(each, task)
                elif name == "seconds":
                    self._seconds(each if isinstance(each, list) else [each], task)
                elif name in SINGLES and isinstance(each, int | float):
                    self._add(each, task)
                elif name not in LEFT_OUT:
                    self._walk(each, task)

    def _interval(self, ends, task):
        self._add(ends[0], task)
        for scale, digits in ((1, 1), (1, 2), (1, 3), (100, 1)):
            self.intervals[task].add(tuple(shown(scale * x, digits) for x in ends))

    def _seconds(self, took, task):
        times = [*took, *([median(took)] if took else [])]
        self.single[task] |= {f"{shown(x, 0)} s" for x in times}

    def _add(self, value, task):
        self.single[task] |= {shown(value, digits) for digits in (1, 2, 3)}
        self.single[task].add(shown(100 * value, 1))

    def _expert(self, greedy, task):
        for value in (*greedy["returns"].values(), *greedy["standard_errors"].values()):
            self._add(value, task)
        if greedy["won"] is not None:
            self._interval(wilson(greedy["won"], greedy["episodes"]), task)

    def _page(self, text, task):
        self.intervals[task] |= set(INTERVAL.findall(text))
        without_ends = re.sub(r"\[[^\]]*\]", "", text)
        self.single[task] |= set(re.findall(r"(?<![\w.,])-?\d+\.\d+", without_ends))
        self.single[task] |= set(re.findall(r"(\d+) times fewer", without_ends))  # goals

    def have(self, found, tasks):
        """Tell whether a figure, or a mean with its ends, is one of a task's."""
        kind = self.intervals if isinstance(found, tuple) else self.single
        return any(found in kind[task] for task in tasks or list(kind))


def task_of(name):
    """Return the task that the name of a file, or a heading, is about."""
    said = [slug for word, slug in TASKS.items() if word in name]
    return next(iter(said), name.split(".")[0])


@cache
def files():
    return Files()


def sections(path, *, code=False):
    """Yield each heading of a page with its text, without tables that are written from files.

    Blocks of code are left out too, or stay without their comments.
    """
    text = path.read_text("utf-8")
    text = BLOCK.sub(lambda block: re.sub(r"^#.*$", "", block[0], flags=re.M) if code else "", text)
    for name in WRITTEN:
        text = re.sub(rf"<!-- {name}:begin -->.*?<!-- {name}:end -->", "", text, flags=re.DOTALL)
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def sentences(text):
    """Yield the rows of tables and the sentences of paragraphs."""
    for part in re.split(r"\n(?=\n|\||- )", text):
        if part.startswith("|"):
            yield part
        else:
            yield from re.split(r"(?<=[.;]) (?=[A-Z`])", " ".join(part.split()))


def figures(sentence):
    """Return the means with ends, and the single figures, that a sentence quotes."""
    plain = sentence.replace("**", "")
    found = [tuple(x.replace(",", "") for x in each) for each in INTERVAL.findall(plain)]
    rest = INTERVAL.sub("", plain)
    single = [next(filter(None, each)) for each in SINGLE.findall(rest)]
    return [*found, *(text.replace(",", "") for text in single)]


def unknown(heading, text):
    """Return the figures of a section that no file of the task has that the sentence names."""
    everywhere = named(heading)
    return [
        (found, sentence)
        for sentence in sentences(text)
        for found in figures(sentence)
        if not files().have(found, named(sentence) or everywhere)
    ]


def named(text):
    return [slug for name, slug in TASKS.items() if re.search(rf"(?<!\w){name}", text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_figure_is_in_a_file(path):
    page = path.relative_to(ROOT).as_posix()
    wrong = [
        (heading, *missing)
        for heading, text in sections(path)
        if (page, heading) not in UNFILED
        for missing in unknown(heading, text)
    ]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize(("page", "heading"), UNFILED, ids=lambda x: x)
def test_figures_without_a_file_have_their_command_beside_them(page, heading):
    (text,) = (text for name, text in sections(ROOT / page) if name == heading)
    (whole,) = (text for name, text in sections(ROOT / page, code=True) if name == heading)
    assert UNFILED[page, heading] in " ".join(whole.split())
    # That all are in some file may be chance, as where a new file holds an equal figure.
    assert any(figures(sentence) for sentence in sentences(text)), "take it from the list"


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_pages_are_written_from_the_files(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = COMBAT.cells
    made = {
        "results.md": render.page,
        "results-combat.md": lambda: render_combat.page(COMBAT, cells, Path("docs")),
        "results-ddn.md": lambda: render_ddn.page(DDN, DDN.cells, Path("docs")),
        "results-methods.md": lambda: render_methods.page(METHODS.cells),
        "anchors.md": lambda: anchors.page(json.loads((DOCS / "anchors.json").read_text("utf-8"))),
    }
    assert (DOCS / name).read_text("utf-8") == made[name]()


@pytest.mark.parametrize("name", WRITTEN)
def test_tables_between_marks_are_written_from_the_files(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    written = f"<!-- {name}:begin -->\n{WRITTEN[name]()}\n<!-- {name}:end -->"
    assert sum(written in page.read_text("utf-8") for page in PAGES) == 1


@pytest.mark.parametrize(
    ("page", "after"),
    [
        ("docs/status.md", "## Results\n\n<!-- results:begin -->\n"),
        ("docs/results.md", "# Results\n\n"),
        ("docs/results-combat.md", "# Results in combat\n\n"),
        (
            "docs/results-ddn.md",
            "# Results of value decomposition and the Double Distillation Network\n\n",
        ),
        ("docs/results-methods.md", "# Ways to distil, side by side\n\n"),
        ("docs/anchors.md", "# Anchors\n\n"),
        ("docs/guide/cost.md", "# What decisions cost\n\n"),
    ],
)
def test_pages_of_figures_begin_with_what_was_not_shown(page, after):
    assert f"{after}Not shown" in (ROOT / page).read_text("utf-8")


@pytest.mark.parametrize(
    "said",
    [
        "On `3m` students keep 12.3 %.",
        "In simple_spread they return -12.34 [-12.50, -12.18].",
        "On `8m` they need 99.9 times fewer FLOPs.",
        "In C they are 63 times faster.",
        "Students of simple_spread take 12,345 s.",
        "| `3m` | 99.9 [99.4, 100.0] |",  # what another map has
    ],
)
def test_a_figure_that_no_file_has_is_found(said):
    assert unknown("Results", said)


def test_figures_that_a_file_has_are_known():
    cell = json.loads((COMBAT.cells / "3m.paper.kd-marl.32-32-32.json").read_text("utf-8"))
    won = cell["greedy"]["win_rate"]["student"]
    said = "{mean:.1f} % [{low:.1f}, {high:.1f}]".format(**{k: 100 * won[k] for k in won})
    assert not unknown("Results", f"On `3m` students win {said}, or {100 * won['mean']:.1f} %.")
