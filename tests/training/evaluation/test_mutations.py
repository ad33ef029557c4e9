"""Each metric is broken on purpose, and the tests of its module must notice."""

import importlib
import importlib.util
import inspect
import sys
import types
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PACKAGE = "drrgen_training.evaluation"
MUTATIONS = {
    "a tie counts as won": ("statistics", "above + negative / 2", "above + negative"),
    "the sign of AUROC is flipped": (
        "statistics", "(total[1][:, None] - above + negative / 2)", "(above - negative / 2)",
    ),
    "rows are drawn, not patients": (
        "statistics", "np.unique(patient, return_index=True", "np.unique(np.arange(len(patient)), return_index=True",
    ),
    "DeLong forgets that models are paired": ("statistics", "- 2 * covariance[0, 1]", "+ 0 * covariance[0, 1]"),
    "Holm is Bonferroni": ("statistics", "np.arange(len(order), 0, -1)", "len(order)"),
    "a level item stands behind": ("retrieval", "ahead.double() + level / 2", "ahead.double() + 0 * level"),
    "a worse item stands ahead": ("retrieval", "(scores > best)", "(scores < best)"),
    "a query finds itself": ("retrieval", "scores[rows, self.exclude[part][rows]] = -math.inf", "pass"),
    "absence counts as presence": ("zero_shot", "@ (present - absent)", "@ (absent - present)"),
    "an ensemble is not brought to length one": ("zero_shot", "return mean / max(", "return mean / min(1.0, 1 + "),
    "a probe learns from tested patients": ("probe", "if len(both):", "if False:"),
    "a share is of rows": ("probe", "who = np.unique(patient)", "who = patient"),
    "a shot is a row": ("probe", "np.cumsum(has) == shots", "np.cumsum(has) == shots + 1"),
    "an unknown label is an absent one": ("mappings", "np.where(is_known.all(0), 0, UNKNOWN)", "np.zeros(stacked.shape[1])"),
    "the threshold is the worst": ("classification", "np.argmax(sensitivity + specificity)", "np.argmin(sensitivity + specificity)"),
}  # fmt: skip


def mutate(name: str, old: str, new: str) -> types.ModuleType:
    """Make a module anew with something wrong in it."""
    module = importlib.import_module(f"{PACKAGE}.{name}")
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{name} has {old!r} {source.count(old)} times"
    broken = types.ModuleType(f"{PACKAGE}.broken_{name}")
    sys.modules[broken.__name__] = broken  # where its dataclasses look for their hints
    exec(compile(source.replace(old, new), f"broken {name}", "exec"), broken.__dict__)
    return broken


def load_tests(name: str) -> types.ModuleType:
    """Load a file of tests, apart from pytest's own copy."""
    spec = importlib.util.spec_from_file_location(f"mutated_{name}", HERE / f"test_{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def list_plain_tests(module: types.ModuleType) -> list[Any]:
    """List the tests that need no fixture."""
    return [
        test for name, test in vars(module).items()
        if name.startswith("test_") and not hasattr(test, "pytestmark")
        and (hasattr(test, "hypothesis") or not inspect.signature(test).parameters)
    ]  # fmt: skip


def count_failures(tests: list[Any]) -> int:
    """Run tests; count those that fail."""
    failed = 0
    for test in tests:
        try:
            test()
        except BaseException as error:  # pytest's own failures are no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
    return failed


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(MUTATIONS))
def test_a_broken_metric_is_noticed(what: str) -> None:
    name, old, new = MUTATIONS[what]
    broken, tests = mutate(name, old, new), load_tests(name)
    whole = list_plain_tests(tests)
    assert whole and count_failures(whole) == 0
    for attribute, value in vars(broken).items():
        if getattr(vars(tests).get(attribute), "__module__", "").endswith(f"evaluation.{name}"):
            setattr(tests, attribute, value)
    assert count_failures(whole) > 0
