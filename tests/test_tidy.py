"""Rules about the source itself that no linter here knows: layers, banned calls, and documents that match the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from schemas.topics import TOPICS
from stockflow.settings import KAFKA_PREFIX, PREFIX, Settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stockflow", "dataflows", "serving", "operations", "sources", "sinks", "schemas", "stock")
PYTHON_FOLDERS = (*PACKAGES, "benchmarks", "tests")

MAY_READ_THE_ENVIRONMENT = ("stockflow/settings.py", "tests/services.py", "tests/chaos/failing.py")
# Operations may wait with a deadline; the time they judge by is still an argument.
MAY_READ_A_CLOCK = ("stockflow/", "dataflows/", "operations/", "sources/", "sinks/", "benchmarks/", "tests/")
MAY_PRINT = ("benchmarks/",)
MAY_NAME_TOPICS = ("schemas/topics.py", "benchmarks/", "tests/")

ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
CLOCKS = {
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
    *(
        f"time.{name}{unit}"
        for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime")
        for unit in ("", "_ns")
    ),
    "time.gmtime",
    "time.localtime",
}
# Bytes from outside become data, never code.
MAKES_CODE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
TOPIC_NAME = re.compile("|".join(rf"(?<![\w-]){re.escape(topic.name)}(?!\w)" for topic in TOPICS))

# In pieces, so that this file does not break its own rule.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("yarnpkg", "com"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("gcr", "io"),
        ("registry", "k8s", "io"),
        ("repo", "maven", "apache", "org"),
        ("repo1", "maven", "org"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
        ("anaconda", "org"),
    )
)
LOCK_NAMES = re.compile(r"(\.lock|-lock\.json|-lock\.yaml|go\.sum)$")

METRIC = re.compile(r"(?<![\w/.-])stockflow_[a-z0-9_]+(?![\w/.-]*\.py)")
VARIABLE = re.compile(r"(?<!\w)STOCKFLOW_[A-Z0-9_]+")
# What Prometheus adds to a declared name, and what prometheus_client adds to a counter's.
SAMPLE_SUFFIX = re.compile(r"_(info|total|bucket|sum|count|created)$")


def tracked_files() -> list[str]:
    """Every file that is or would be committed, relative to the root."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def python_files() -> list[str]:
    return [name for name in tracked_files() if name.endswith(".py") and name.partition("/")[0] in PYTHON_FOLDERS]


def documents() -> list[str]:
    return [
        name
        for name in tracked_files()
        if name in ("README.md", "ARCHITECTURE.md") or (name.startswith(("docs/", "k8s/")) and name.endswith(".md"))
    ]


# Each rule takes a file's name and tree and gives (line, what is wrong).
Finding = tuple[int, str]
Rule = Callable[[str, ast.Module], Iterable[Finding]]


def references(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every dotted name that is used, with imports resolved: `from time import time as now; now()` is `time.time`."""
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                meaning[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts = [node.attr]
            inner: ast.expr = node.value
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in meaning:
                yield node.lineno, ".".join([meaning[inner.id], *reversed(parts)])


def environment_is_read_in_one_place(name: str, tree: ast.Module) -> Iterator[Finding]:
    if name not in MAY_READ_THE_ENVIRONMENT:
        for line, used in references(tree):
            if used in ENVIRONMENT:
                yield line, f"{used}: take it as an argument; only stockflow/settings.py reads the environment"


def time_is_an_argument(name: str, tree: ast.Module) -> Iterator[Finding]:
    if not name.startswith(MAY_READ_A_CLOCK):
        for line, used in references(tree):
            if used in CLOCKS:
                yield line, f"{used}: take the time, or a clock, as an argument"


def bytes_never_become_code(name: str, tree: ast.Module) -> Iterator[Finding]:
    if name.startswith("tests/"):
        return
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RUNS_TEXT:
            yield node.lineno, f"{node.func.id}: text that is run may come from outside"
        for module in modules:
            if module.partition(".")[0] in MAKES_CODE:
                yield node.lineno, f"{module}: what it reads may run as code; use msgspec"


def nothing_is_printed(name: str, tree: ast.Module) -> Iterator[Finding]:
    if not name.startswith(MAY_PRINT):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield node.lineno, "print: log it, or write it to a rich Console"


def no_error_is_swallowed(name: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield node.lineno, "bare except: name the exceptions"
            elif catches_everything(node.type) and all(does_nothing(one) for one in node.body):
                yield node.lineno, "an error of any kind is dropped: log it, count it or let it pass"
        elif isinstance(node, ast.Call) and any(catches_everything(one) for one in node.args):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "suppress":
                yield node.lineno, "an error of any kind is suppressed: name the exceptions"


def catches_everything(caught: ast.expr) -> bool:
    each = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(one, ast.Name) and one.id in ("Exception", "BaseException") for one in each)


def does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, (ast.Pass, ast.Continue)) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def topics_are_named_in_the_registry_only(name: str, tree: ast.Module) -> Iterator[Finding]:
    if not name.startswith(MAY_NAME_TOPICS):
        for line, text in string_literals(tree):
            if found := TOPIC_NAME.search(text):
                yield line, f"{found[0]!r}: use schemas.topics"


def string_literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every text in the code, without docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and id(node) not in prose:
            yield node.lineno, node.value if isinstance(node.value, str) else node.value.decode(errors="replace")


def every_module_says_what_it_owns(name: str, tree: ast.Module) -> Iterator[Finding]:
    if not ast.get_docstring(tree):
        yield 1, "no module docstring"


def every_test_says_its_rule(name: str, tree: ast.Module) -> Iterator[Finding]:
    if name.startswith("tests/"):
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                text = ast.get_docstring(node)
                if not text or "\n" in text:
                    yield node.lineno, f"{node.name}: needs a docstring of one line"


RULES: tuple[Rule, ...] = (
    environment_is_read_in_one_place,
    time_is_an_argument,
    bytes_never_become_code,
    nothing_is_printed,
    no_error_is_swallowed,
    topics_are_named_in_the_registry_only,
    every_module_says_what_it_owns,
    every_test_says_its_rule,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_source_keeps_the_rule_that(rule: Rule) -> None:
    """No file of the project breaks it."""
    broken = [
        f"{name}:{line}: {problem}"
        for name in python_files()
        for line, problem in rule(name, ast.parse((ROOT / name).read_text(encoding="utf-8")))
    ]
    assert broken == []


DOCUMENTED = '"""A module."""\n'


@pytest.mark.parametrize(
    ("text", "rule", "name", "source", "lines"),
    [
        ("environment", environment_is_read_in_one_place, "sinks/x.py", "import os\nos.environ['A']", [2]),
        ("getenv", environment_is_read_in_one_place, "stockflow/x.py", "import os as o\no.getenv('A')", [2]),
        ("imported", environment_is_read_in_one_place, "tests/x.py", "from os import environ", [1]),
        ("its one place", environment_is_read_in_one_place, "stockflow/settings.py", "import os\nos.environ", []),
        ("another thing of os", environment_is_read_in_one_place, "sinks/x.py", "import os\nos.getpid()", []),
        ("now", time_is_an_argument, "stock/x.py", "from datetime import datetime\ndatetime.now()", [2]),
        ("now, long", time_is_an_argument, "schemas/x.py", "import datetime\ndatetime.datetime.now()", [2]),
        ("utcnow", time_is_an_argument, "stock/x.py", "from datetime import datetime as d\nd.utcnow()", [2]),
        ("clock as a default", time_is_an_argument, "serving/x.py", "import time\nf = time.monotonic", [2]),
        ("clock in serving", time_is_an_argument, "serving/x.py", "from time import time_ns", [1]),
        ("clock at the edge", time_is_an_argument, "sources/x.py", "import time\ntime.monotonic()", []),
        ("a field called time", time_is_an_argument, "stock/x.py", "def f(event):\n    return event.time.time", []),
        ("sleeping", time_is_an_argument, "operations/x.py", "import time\ntime.sleep(1)", []),
        ("pickle", bytes_never_become_code, "sinks/x.py", "import pickle", [1]),
        ("part of it", bytes_never_become_code, "operations/x.py", "from pickle import loads as l", [1]),
        ("below it", bytes_never_become_code, "stock/x.py", "import joblib.numpy_pickle as p", [1]),
        ("eval", bytes_never_become_code, "stock/x.py", "f = eval('1')", [1]),
        ("a method of that name", bytes_never_become_code, "stock/x.py", "import re\nre.compile('a')", []),
        ("json", bytes_never_become_code, "stock/x.py", "import json", []),
        ("print", nothing_is_printed, "operations/x.py", "print(1)", [1]),
        ("print of a benchmark", nothing_is_printed, "benchmarks/x.py", "print(1)", []),
        ("method called print", nothing_is_printed, "operations/x.py", "console.print(1)", []),
        ("bare", no_error_is_swallowed, "sinks/x.py", "try:\n    f()\nexcept:\n    g()", [3]),
        ("pass", no_error_is_swallowed, "sinks/x.py", "try:\n    f()\nexcept Exception:\n    pass", [3]),
        ("dots", no_error_is_swallowed, "tests/x.py", "try:\n    f()\nexcept BaseException:\n    ...", [3]),
        ("in a tuple", no_error_is_swallowed, "sinks/x.py", "try:\n    f()\nexcept (Exception, A):\n    pass", [3]),
        ("suppress", no_error_is_swallowed, "sinks/x.py", "with contextlib.suppress(Exception):\n    f()", [1]),
        ("named", no_error_is_swallowed, "sinks/x.py", "try:\n    f()\nexcept OSError:\n    pass", []),
        ("logged", no_error_is_swallowed, "sinks/x.py", "try:\n    f()\nexcept Exception:\n    log.exception('f')", []),
        ("topic", topics_are_named_in_the_registry_only, "sinks/x.py", "t = 'availability.v1'", [1]),
        ("topic with a prefix", topics_are_named_in_the_registry_only, "sinks/x.py", "t = f'{p}pos-sales.v1'", [1]),
        ("topic as bytes", topics_are_named_in_the_registry_only, "operations/x.py", "t = b'stock-state.v1'", [1]),
        ("topic in a docstring", topics_are_named_in_the_registry_only, "sinks/x.py", "'''Of availability.v1.'''", []),
        ("the registry", topics_are_named_in_the_registry_only, "schemas/topics.py", "t = 'availability.v1'", []),
        ("no docstring", every_module_says_what_it_owns, "sinks/x.py", "import os", [1]),
        ("an empty module", every_module_says_what_it_owns, "tests/__init__.py", "", [1]),
        ("a docstring", every_module_says_what_it_owns, "sinks/x.py", DOCUMENTED, []),
        ("test without", every_test_says_its_rule, "tests/x.py", "def test_a():\n    pass", [1]),
        (
            "test in a class",
            every_test_says_its_rule,
            "tests/x.py",
            "class T:\n    def test_a(self):\n        pass",
            [2],
        ),
        ("two lines", every_test_says_its_rule, "tests/x.py", "def test_a():\n    '''A.\n\n    B.'''", [1]),
        ("test with", every_test_says_its_rule, "tests/x.py", "def test_a():\n    '''A rule.'''", []),
    ],
)
def test_rule_finds_what_it_is_for(text: str, rule: Rule, name: str, source: str, lines: list[int]) -> None:
    """Each rule above is shown a file that breaks it and one that only looks like it."""
    assert [line for line, _ in rule(name, ast.parse(source))] == lines, text


def test_imports_point_one_way() -> None:
    """The layers and the bans on infrastructure in the core, as pyproject.toml states them."""
    result = subprocess.run(
        [str(Path(sysconfig.get_path("scripts")) / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 3 kept, 0 broken." in result.stdout


def test_every_package_is_in_a_layer() -> None:
    """A new top-level package has to be placed before it can be used."""
    found = {name.split("/")[0] for name in tracked_files() if re.fullmatch(r"[a-z_]+/__init__\.py", name)}
    assert found - {"benchmarks", "tests"} == set(PACKAGES)
    layers = (ROOT / "pyproject.toml").read_text().partition('type = "layers"')[2].partition("\n]")[0]
    assert set(re.findall(r"[a-z]+", layers.partition("[")[2])) == set(PACKAGES)


def test_lock_files_hold_no_addresses() -> None:
    """Whoever installs decides from where; the hashes decide what."""
    locks = [name for name in tracked_files() if LOCK_NAMES.search(name)]
    assert "requirements.lock" in locks
    assert [name for name in locks if "://" in (ROOT / name).read_text(encoding="utf-8")] == []


def test_no_file_names_a_package_registry() -> None:
    """Mirrors and private registries work without a change to the project."""
    named = [
        f"{name}: {host}"
        for name in tracked_files()
        for host in REGISTRY_HOSTS
        if host in (ROOT / name).read_text(encoding="utf-8", errors="replace")
    ]
    assert named == []


def test_documents_name_exactly_the_metrics_there_are() -> None:
    """A metric without a word about it cannot be used, and a documented one that is gone breaks a dashboard."""
    declared = declared_metrics()
    named = {
        base_name(found, declared)
        for name in documents()
        for found in METRIC.findall((ROOT / name).read_text(encoding="utf-8"))
    }
    assert sorted(declared - named) == [], "in the code, but in no document"
    assert sorted(named - declared) == [], "in a document, but not in the code"


def declared_metrics() -> set[str]:
    """Names in the texts of the one file that declares metrics, as Prometheus shows them without a suffix."""
    file = ROOT / "stockflow" / "metrics.py"
    if not file.exists():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {base_name(found, set()) for _, text in string_literals(tree) for found in METRIC.findall(text)}


def base_name(metric: str, declared: set[str]) -> str:
    """The name without what a sample adds to it, unless the name is itself declared like that."""
    return metric if metric in declared else SAMPLE_SUFFIX.sub("", metric)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`stockflow_events_total{outcome}`", ["stockflow_events_total"]),
        ("rate(stockflow_lag_records[1m])", ["stockflow_lag_records"]),
        ("tests/stockflow_app/ and stockflow_app.py", []),
        ("stockflow run", []),
    ],
)
def test_metric_names_are_found_in_prose(text: str, found: list[str]) -> None:
    """Names with labels and in queries count, paths do not."""
    assert METRIC.findall(text) == found


def test_readme_explains_every_setting() -> None:
    """Each variable that the program reads stands in README.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(variables() - set(VARIABLE.findall(readme))) == []
    assert KAFKA_PREFIX in readme


def test_documents_name_no_setting_that_does_not_exist() -> None:
    """A variable in a document or a manifest is one that the program, or the tests, read."""
    of_tests = set(VARIABLE.findall((ROOT / "tests/services.py").read_text(encoding="utf-8")))
    unknown = [
        f"{name}: {found}"
        for name in [*documents(), "CONTRIBUTING.md", *(one for one in tracked_files() if one.startswith("k8s/"))]
        for found in VARIABLE.findall((ROOT / name).read_text(encoding="utf-8"))
        if found.removesuffix("_FILE") not in variables() | of_tests and not found.startswith(KAFKA_PREFIX)
    ]
    assert unknown == []


def variables() -> set[str]:
    """Those with a name of their own: spans are asked for by OpenTelemetry's."""
    return {PREFIX + one.name.upper() for one in fields(Settings) if one.name not in ("kafka", "export_spans")}
