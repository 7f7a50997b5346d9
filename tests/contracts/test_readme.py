"""What the pages name exists: commands, options, settings, files, and the ends of links."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from factorlake.cli import app
from factorlake.config.loader import build, load_settings
from factorlake.pipelines.jobs import JOBS

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
SHELL = ("sh", "bash", "console")
VERBS: dict[str, Any] = dict(get_command(app).commands)  # type: ignore[attr-defined]
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def documents() -> list[Path]:
    """Return every tracked or new page, but none of an environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def commands(text: str) -> list[list[str]]:
    """Return the words of each command in a page: lines of shell blocks, and inline code that reads like one.

    A backslash at a line's end joins the next line; a comment and what follows |, && or > end a command.
    """
    lines = []
    for kind, body in FENCE.findall(text):
        if kind in SHELL:
            lines += body.replace("\\\n", " ").splitlines()
    lines += INLINE.findall(FENCE.sub("", text))
    found = []
    for line in lines:
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:
            continue  # inline code with a lone quote is no command
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        ends = [at for at, word in enumerate(words) if re.match(r"\||&&|>", word)]
        words = words[: ends[0]] if ends else words
        if words:
            found.append([words[0].rpartition(".venv/bin/")[2], *words[1:]])
    return found


def faults(words: list[str]) -> list[str]:
    """Return what is wrong with one command: a verb, option, target, file or setting that does not exist."""
    wrong = []
    arguments: list[str] = []
    verb = ""
    if words[0] == "factorlake" and len(words) > 1:
        verb, arguments = words[1], words[2:]
        if verb == "VERB":
            return []
        if verb not in VERBS:
            return [f"factorlake has no verb {verb}"]
    elif words[0] == "make" and len(words) > 1:
        targets = [word for word in words[1:] if "=" not in word]
        return [f"make has no target {target}" for target in targets if target not in MAKE_TARGETS]
    jobs = [word for word in words if re.fullmatch(r"(?:\S*/)?jobs/\w+\.py", word)]
    for job in jobs:
        path = job[job.index("jobs/") :]
        if not (ROOT / path).exists():
            return [f"there is no {path}"]
        verb = next(name for name, known in JOBS.items() if f"jobs/{known.script}.py" == path)
        arguments = words[words.index(job) + 1 :]
    wrong += [
        f"there is no {word}"
        for word in words
        if re.fullmatch(r"(?:conf/base|deploy|benchmarks|docs|tests)/[\w./-]*\w", word) and not (ROOT / word).exists()
    ]
    wrong += [
        f"there is no module {word}"
        for before, word in pairwise(words)
        if before == "-m" and word.startswith(("benchmarks.", "docs."))
        if not (ROOT / f"{word.replace('.', '/')}.py").exists()
    ]
    if verb:
        known = {option for parameter in VERBS[verb].params for option in parameter.opts}
        wrong += [
            f"{verb} has no option {word}"
            for word in arguments
            if word.startswith("--") and word.partition("=")[0] not in {*known, "--help"}
        ]
        wrong += [fault for fault in map(_setting_fault, _settings(arguments)) if fault]
    return wrong


def _settings(arguments: list[str]) -> list[str]:
    return [value for name, value in pairwise(arguments) if name == "--set"]


def _setting_fault(override: str) -> str | None:
    key, _, value = override.partition("=")
    # A word in capitals stands for a value of the reader's.
    if not value or re.fullmatch(r"[A-Z_.]+", value):
        return None
    try:
        load_settings((), [override], {})
    except Exception as error:
        return f"--set {key}: {error}"
    return None


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings: lower case, no signs, - for a blank."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(text)}


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page whose file or heading does not exist."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_page_names_what_exists(page: Path) -> None:
    found = {" ".join(words): faults(words) for words in commands(page.read_text(encoding="utf-8"))}
    assert {command: wrong for command, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("factorlake fly --config conf/base/demo.yaml", "no verb fly"),
        ("factorlake train --config conf/base/none.yaml", "no conf/base/none.yaml"),
        ("factorlake train --fast", "no option --fast"),
        ("factorlake train --set train.rnak=3", "did you mean 'train.rank'"),
        ("spark-submit jobs/train_sgd_fast.py", "no jobs/train_sgd_fast.py"),
        ("spark-submit --master local[2] jobs/train_als.py --accept x", "train has no option --accept"),
        ("make demos", "no target demos"),
        ("JAVA=install make demo soaks", "no target soaks"),
        ("python -m benchmarks.train_fast --peers pyspark_ml", "no module benchmarks.train_fast"),
        (".venv/bin/factorlake train --set ingest.pattern='*.csv'", "no valid YAML"),
    ],
)
def test_the_check_of_commands_sees_what_is_wrong(command: str, told: str) -> None:
    (words,) = commands(f"```sh\n{command}\n```\n")
    assert any(told in fault for fault in faults(words))


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_of_a_conf_file_and_of_python_is_read_without_error(page: Path) -> None:
    for kind, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            ast.parse(body)
        if kind == "yaml":
            example = yaml.safe_load(body)
            # A mapping is a conf file, a list a suite of expectations.
            if isinstance(example, dict):
                build(example)
            else:
                assert all(isinstance(item["type"], str) for item in example)


def test_readme_shows_both_forms_of_every_job() -> None:
    found = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    scripts = {word.removeprefix("jobs/") for words in found for word in words if word.startswith("jobs/")}
    verbs = {words[1] for words in found if words[0] == "factorlake" and len(words) > 1}
    assert scripts >= {f"{job.script}.py" for job in JOBS.values()}
    assert verbs >= set(VERBS)
