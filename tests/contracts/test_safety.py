"""No code runs what it is given: nothing is unpickled or evaluated, no shell, no SQL pasted from input; and what is
installed is pinned by hash."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
LOCKS = [ROOT / "requirements.lock", ROOT / "deploy" / "airflow" / "requirements.lock"]
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "pty"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all"),
    *("pd.read_pickle", "pandas.read_pickle"),
}
# Where Spark takes text for SQL.
SQL = {"sql", "expr", "selectExpr", "_change"}
# What writes a value as SQL: quoted, or a number.
QUOTING = {"_quoted", "_escaped", "_told", "float", "int"}
ALLOWED = {
    # What tasks tell the driver passes the driver's own JVM; no file is read so.
    ("lib/factorlake/spark/task_farm.py", "import pickle"),
    # The same by file, of which the task tells the digest on that way.
    ("lib/factorlake/spark/stored_rows.py", "import pickle"),
    # Commands of our own for the system's package manager, without a word of input.
    ("lib/factorlake/spark/java.py", "a shell"),
    # Conditions are parsed and written out anew (quality/conditions.py).
    ("lib/factorlake/quality/rules.py", "expr(compile_condition(rule.condition or '', rule.name).sql)"),
    # Statements of this module, each checked where it is made.
    ("lib/factorlake/tables/delta_io.py", "sql(statement)"),
    # Names and types of our own schemas, a constant, and a name made of random digits.
    ("lib/factorlake/tables/delta_io.py", "_change({EVERY_COMMIT})"),
    ("lib/factorlake/tables/delta_io.py", "sql({columns})"),
    ("lib/factorlake/tables/delta_io.py", "_change({equal})"),
    ("lib/factorlake/tables/delta_io.py", "_change({source})"),
}


def found_in(source: str) -> Iterator[str]:
    """Yield what a module does that none may, in a few words."""
    tree = ast.parse(source)
    safe_loaders = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "yaml.SafeLoader" for base in node.bases)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"import {name}" for name in names if name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            yield from _in_call(node, safe_loaders)
        elif isinstance(node, ast.List) and [_text(item) for item in node.elts[:2]] in (["sh", "-c"], ["bash", "-c"]):
            yield "a shell"


def _in_call(call: ast.Call, safe_loaders: set[str]) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {word.arg: word.value for word in call.keywords}
    if name in BUILTINS or name in CALLS:
        yield f"{name}()"
    if name == "yaml.load" and ast.unparse(given.get("Loader", ast.Constant(None))) not in safe_loaders:
        yield "yaml.load"
    if name in ("np.load", "numpy.load") and ast.unparse(given.get("allow_pickle", ast.Constant(None))) != "False":
        yield "np.load that may unpickle"
    if "shell" in given and ast.unparse(given["shell"]) != "False":
        yield "a shell"
    verb = name.rpartition(".")[2]
    if verb in SQL and ("." in name or verb.startswith("_")):
        for text in call.args:
            yield from _pasted(verb, text)
    elif verb in ("where", "filter"):
        yield from (f"{verb} of pasted text" for text in call.args if isinstance(text, ast.JoinedStr))


def _pasted(verb: str, text: ast.expr) -> Iterator[str]:
    """Yield what of a statement's text is neither written here nor quoted."""
    if isinstance(text, ast.JoinedStr):
        for part in text.values:
            value = part.value if isinstance(part, ast.FormattedValue) else None
            if value is not None and not (isinstance(value, ast.Call) and ast.unparse(value.func) in QUOTING):
                yield f"{verb}({{{ast.unparse(value)}}})"
    elif not isinstance(text, ast.Constant) and ast.unparse(text) != "spark":
        yield f"{verb}({ast.unparse(text)})"


def _text(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(['sh', '-c', text])",
        "spark.sql(f'SELECT * FROM {table}')",
        "spark.sql('SELECT * FROM ' + table)",
        "F.expr(text)",
        "frame.where(f'user_id = {user}')",
    ],
)
def test_the_check_sees_what_it_bans(source: str) -> None:
    assert list(found_in(source))


@pytest.mark.parametrize(
    "source",
    [
        "class L(yaml.SafeLoader):\n    pass\nyaml.load(text, Loader=L)",
        "yaml.safe_load(text)",
        "np.load(path, allow_pickle=False)",
        "spark.sql(f'VACUUM {_quoted(path)} RETAIN {float(hours)!r} HOURS')",
        "frame.where('rank = 1')",
    ],
)
def test_the_check_passes_what_is_safe(source: str) -> None:
    assert list(found_in(source)) == []


def test_no_module_runs_what_it_is_given() -> None:
    found = {(str(path.relative_to(ROOT)), what) for path in FILES for what in found_in(path.read_text("utf-8"))}
    assert sorted(found - ALLOWED) == []
    # An exception that nothing needs any more is struck out.
    assert sorted(ALLOWED - found) == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_package_of_a_lock_file_is_pinned_by_version_and_hash(lock: Path) -> None:
    text = re.sub(r" *\\\n\s*", " ", lock.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) > 20
    # Neither an address, nor a repository, nor an option: what is installed is what the hashes say, from any index.
    pinned = re.compile(
        r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,_-]+\])?==[0-9][\w.+!]*( ; [^#]+?)?( --hash=sha256:[0-9a-f]{64})+\Z"
    )
    assert [line[:80] for line in lines if not pinned.match(line)] == []
    names = [line.partition("==")[0] for line in lines if " ; " not in line]
    assert sorted(set(names)) == sorted(names)
