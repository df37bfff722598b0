"""Every page's commands parse and its links lead somewhere; a page where they do not is caught."""

import re
import subprocess
import sys

import pytest

from tests.readme.__main__ import as_markdown, run_page
from tests.readme.pages import ROOT, anchors, blocks, copy_tracked, link_problems, pages
from tests.readme.parsing import command_problems, make_commands

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git says which pages there are")
PAGES = pages() if (ROOT / ".git").exists() else []


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    """What a clone holds, with the environment that a reader activates. Runs write nothing into it."""
    folder = tmp_path_factory.mktemp("copy")
    copy_tracked(ROOT, folder)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_page_parse(page, copy, tmp_path):
    assert command_problems((ROOT / page).read_text(), page, copy, tmp_path) == []


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_the_page_lead_somewhere(page, copy):
    assert link_problems((ROOT / page).read_text(), page, copy) == []


def page_with(*commands: str, above: str = "") -> str:
    """A page whose commands begin in line 4."""
    return "\n".join(["# Page", above, "```bash", *commands, "```", ""])


@pytest.fixture
def problems(copy, tmp_path):
    def problems_of(*commands: str, **page) -> list[str]:
        return command_problems(page_with(*commands, **page), "page.md", copy, tmp_path)

    return problems_of


def test_a_page_that_is_right_has_no_problems(problems):
    assert (
        problems(
            "source .venv/bin/activate",
            'TASK="--dataset synthetic',
            '    --n 5"  # several lines',
            "python tfml.py $TASK --path runs/a && ./tfml.sh",
            "for search in full onnas; do",
            "    python onnas.py $TASK --search $search --meta_cell runs/a/meta_cell.pt \\",
            "        --path runs/$search",
            "done",
            "torchrun --standalone --nproc_per_node 2 tfml.py --seed 3",
            "python onnas.py --meta_cell FILE --export runs/b/network",
            'python -m utils.compare --methods full --meta_cell runs/a/meta_cell.pt --flags full " --schedule leanest"',
            "python -m tests.benchmarks.random_genotype --data_path photographs --seeds 1 --epochs 30",
            "python -m utils.quickstart_table --trained runs/full --untrained runs/onnas --tfml runs",
            "python torchmeta_loader.py --help",
            "python -m pip install tqdm",
        )
        == []
    )


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("python tfml.py --no_such_flag 1", "unrecognized arguments: --no_such_flag"),
        ("python tfml.py --layers none", "argument --layers: expected a whole number"),
        ("python onnas.py --search full", "argument --meta_cell: --task fewshot needs one"),
        ("python -m search_space.memory_table --no_such_flag", "unrecognized arguments: --no_such_flag"),
        ("python -m utils.compare --meta_cell FILE --no_such_flag 1", "unrecognized arguments: --no_such_flag"),
        ('python -m utils.compare --meta_cell FILE --flags full " --no 1"', "unrecognized arguments: --no 1"),
        ("python -m tests.benchmarks.random_genotype --no_such_flag 1", "unrecognized arguments: --no_such_flag"),
        ("./onnas_full_task.sh --no_such_flag", "unrecognized arguments: --no_such_flag"),
        ("torchrun --no_such_flag 1 tfml.py", "unrecognized arguments: --no_such_flag"),
        ("torchrun tfml.py --no_such_flag 1", "unrecognized arguments: --no_such_flag"),
        ("python no_such_script.py", "there is no script no_such_script.py"),
        ("python -m utils.no_such_module", "there is no module utils.no_such_module"),
        ("python -m utils.errors", "utils.errors is not a script"),
        ("./no_such_script.sh", "No such file or directory"),
        ("no_such_command", "no_such_command: command not found"),
        ("no_such_command | cat", "no_such_command: command not found"),
        ("echo $NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE: unbound variable"),
        ("done", "syntax error"),
        ("false", "ends with status 1"),
        ("python onnas.py --meta_cell runs/none/meta_cell.pt", "runs/none/meta_cell.pt is written by nothing above"),
        ("python onnas.py --meta_cell checkpoints/none.pt", "checkpoints/none.pt is written by nothing above"),
    ],
)
def test_a_wrong_command_is_caught(problems, command, problem):
    found = problems("python tfml.py", command)
    assert problem in found[0]
    assert re.match(r"page\.md: (-c: )?(line [56]|a command)", found[0])


def test_a_block_that_is_only_parsed_may_read_what_the_reader_brings(problems):
    mark = "<!-- check: parse only, needs a GPU -->"
    assert problems("python onnas.py --meta_cell runs/my/meta_cell.pt", above=mark) == []


def test_only_the_parsing_of_a_marked_block_is_left(problems):
    assert "--no_such_flag" in problems("python tfml.py --no_such_flag 1", above="<!-- check: parse only, long -->")[0]


def test_a_mistyped_mark_is_caught(problems):
    assert "check:" in problems("python tfml.py", above="<!-- check: parsed only, long -->")[0]


def test_blocks_are_found_by_their_language():
    text = "```python\nx\n```\n\n  ```bash\n  a\n  ```\n````text\n```bash\nb\n```\n````\n```sh\nc\n```\n"
    assert [(block.line, block.text.strip()) for block in blocks(text)] == [(6, "a"), (14, "c")]


def test_links_are_followed(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("## 1. What, if `x`?\n")
    (tmp_path / "picture.png").touch()
    right = (
        "[a](page.md) [`b`](#here-it-is) [c](page.md#1-what-if-x) [d](https://site/x) ![e](../picture.png)\n"
        '<img src="../picture.png"> [f](..) `[code](nowhere)`\n```\n[more](nowhere)\n```\n# Here it is\n'
    )
    assert link_problems(right, "docs/page.md", tmp_path) == []
    wrong = '[a](no.md) [b](#gone) [c](page.md#gone) ![d](picture.png) <img src="none.png">'
    assert [re.search("the link (.*) leads", text)[1] for text in link_problems(wrong, "docs/page.md", tmp_path)] == [
        "#gone",
        "no.md",
        "none.png",
        "page.md#gone",
        "picture.png",
    ]


def test_anchors_are_those_of_headings_outside_code():
    assert anchors("# On-NAS: a_b\n```bash\n# comment\n```\n") == {"on-nas-a_b"}


def test_blocks_are_run_in_one_session(tmp_path, capfd):
    """... each with a status of its own; what is not run still sets its variables."""
    make_commands(tmp_path / "commands")
    (tmp_path / "page.md").write_text(
        page_with(
            "source activate",
            "A=1",
            "python only_written_down",
            "touch must_not_be",
            above="<!-- check: parse only, long -->",
        )
        + page_with("B=2  # only sets", "echo must not be said")
        + page_with("(exit 3)", 'echo "run $A$B|"')
        + page_with("test $A$B = 12  # run")
        + page_with("exit 4  # run")
        + page_with("echo run")
    )
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    (tmp_path / "activate").write_text(f"PATH={environment['PATH']}")
    rows = run_page("page.md", "run", tmp_path, tmp_path, environment)
    assert [(place, status) for place, _, status, _ in rows] == [
        ("page.md:18", "3"),
        ("page.md:24", "0"),
        ("page.md:29", "not run"),
        ("page.md:34", "not run"),
    ]
    said = capfd.readouterr().out
    assert "must not" not in said
    assert "--- page.md, line 18\nrun 12|\n" in said
    assert not (tmp_path / "must_not_be").exists()
    assert '| page.md:18 | (exit 3)<br>echo "run $A$B\\|" | 3 | ' in as_markdown(rows)
    (parsed, *_) = run_page("page.md", "", tmp_path, tmp_path, environment)
    assert parsed[2] == "parse only"


def test_the_slow_check_names_a_page_that_is_not_there():
    command = [sys.executable, "-m", "tests.readme", "--page", "no.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tests.readme: error: --page no.md is none of README.md")
