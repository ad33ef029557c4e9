"""Each metric is broken on purpose, and the tests of its module must notice."""

import importlib
import importlib.util
import inspect
import sys
import types
from functools import partial
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
    "of level items the later row is found first": (
        "retrieval", "(scores >= least).nonzero()[:, 0]", "(scores >= least).nonzero()[:, 0].flip(0)",
    ),
    "level items at the end of what is found are not looked at": (
        "retrieval", "| ((scores >= best[:, -1:]).sum(1) > k)", "",
    ),
    "a query finds itself": ("retrieval", "scores[rows, self.exclude[part][rows]] = -math.inf", "pass"),
    "absence counts as presence": ("zero_shot", "1.0) * (present - absent)", "1.0) * (absent - present)"),
    "an ensemble is not brought to length one": ("zero_shot", "return mean / max(", "return mean / min(1.0, 1 + "),
    "a probe learns from tested patients": ("probe", "if len(both):", "if False:"),
    "a share is of rows": ("probe", "who = np.unique(patient)", "who = patient"),
    "a shot is a row": ("probe", "np.cumsum(has) == shots", "np.cumsum(has) == shots + 1"),
    "a head ends with its last state": ("head", "best, least = (state, loss) if loss < least else (best, least)", "best = state"),
    "a head learns from held-out rows": ("head", "rows[learnt], told[learnt]", "rows, told"),
    "a head starts from zero in spite of sentences": ("head", "if start is None", "if True"),
    "a head's weights do not decay": ("head", "weight_decay=DECAY", "weight_decay=0"),
    "a head has no bias": ("head", "np.ones((len(x), 1))", "np.zeros((len(x), 1))"),
    "a head does not shuffle by its seed": ("head", "manual_seed(seed)", "manual_seed(0)"),
    "an unknown label is an absent one": ("mappings", "np.where(is_known.all(0), 0, UNKNOWN)", "np.zeros(stacked.shape[1])"),
    "the threshold is the worst": ("classification", "np.argmax(sensitivity + specificity)", "np.argmin(sensitivity + specificity)"),
    "published MAP of CT-CLIP is that of its own K": ("published", "np.mean(values[: i + 1])", "np.mean(values[i : i + 1])"),
    "published MAP of CT-CLIP lacks its own K": ("published", "np.mean(values[: i + 1])", "np.mean(values[: max(i, 1)])"),
    "published MAP of CT-CLIP takes K in any order": ("published", "if list(ks) != sorted(ks):", "if False:"),
    "published MAP keeps items without a finding": ("published", "kept = (gallery_labels == 1).any(1)", "kept = (gallery_labels >= 0).any(1)"),
    "published MAP leaves out queries without a finding": (
        "published", "float(overlap[:, :k].mean()) for k in ks}", "float(overlap[(query_labels == 1).any(1), :k].mean()) for k in ks}",
    ),
    "what is found first, itself, is not in published MAP": ("published", "overlap[:, :k].mean()", "overlap[:, 1 : k + 1].mean()"),
    "K of published MAP is one more": ("published", "overlap[:, :k].mean()", "overlap[:, : k + 1].mean()"),
    "published MAP divides by K where there are fewer": ("published", "float(overlap[:, :k].mean())", "float(overlap[:, :k].sum(1).mean() / k)"),
    "published overlap is over the labels of the query": ("published", "/ (a | b).sum(1)", "/ np.maximum(a.sum(1), 1)"),
    "published overlap is over the labels of the item": ("published", "/ (a | b).sum(1)", "/ b.sum(1)"),
    "published overlap is Dice": ("published", "(a & b).sum(1) / (a | b).sum(1)", "2 * (a & b).sum(1) / (a.sum(1) + b.sum(1))"),
    "published overlap is any shared label": ("published", "(a & b).sum(1) / (a | b).sum(1)", "(a & b).any(1).astype(float)"),
    "K of published recall is one more": ("published", "(place <= k)", "(place <= k + 1)"),
    "later recall of X2CT has each item once": ("published", 'copies=1 if version == "earlier" else 2', 'copies=1 if version == "earlier" else 1'),
    "earlier recall of X2CT has each item twice": ("published", 'copies=1 if version == "earlier" else 2', "copies=2"),
    "recall of CT-CLIP has each item twice": (
        "published", "return _recall(queries, gallery, ks, copies=1)", "return _recall(queries, gallery, ks, copies=2)",
    ),
    "a doubled list has the better items once": ("published", "copies * ahead", "ahead"),
    "published recall lets a level item of a later row ahead": ("published", "< row)", "> row)"),
    "published recall is in its own way": ("published", "< row)", "<= row)"),
    "the grid of CT-CLIP has a point more": ("published", "np.linspace(0, 1, 100)", "np.linspace(0, 1, 101)"),
    "CT-CLIP takes the first of equal thresholds": (
        "published", "np.flatnonzero(distance == distance.min())[-1]", "np.flatnonzero(distance == distance.min())[0]",
    ),
    "what equals a point of the grid is above it": ("published", "probabilities[None] > grid[:, None]", "probabilities[None] >= grid[:, None]"),
    "what equals the threshold of CT-CLIP is present": ("published", "(probabilities > threshold).astype", "(probabilities >= threshold).astype"),
    "the corner is Youden's": ("published", "np.sqrt(missed**2 + false**2)", "missed + false"),
    "the corner forgets false alarms": ("published", "np.sqrt(missed**2 + false**2)", "missed"),
    "the corner's sign is flipped": ("published", "missed = 1 - above", "missed = above"),
    "the threshold of CT-CLIP is not fitted on the test data": (
        "published", "threshold = find_corner_threshold(probabilities, labels)", "threshold = 0.5",
    ),
    "F1 of CT-CLIP is that of presence": (
        "published", 'metrics.f1_score(labels, told, average="weighted", zero_division=0)', "metrics.f1_score(labels, told, zero_division=0)",
    ),
    "F1 of CT-CLIP weighs both classes alike": ("published", 'average="weighted", zero_division=0)', 'average="macro", zero_division=0)'),
    "nothing told is precise to CT-CLIP": (
        "published", "metrics.precision_score(labels, told, zero_division=0)", "metrics.precision_score(labels, told, zero_division=1)",
    ),
    "AUROC of CT-CLIP is of decisions": ("published", "metrics.roc_auc_score(labels, probabilities)),", "metrics.roc_auc_score(labels, told)),"),
    "accuracy of CT-CLIP is balanced": ("published", "metrics.accuracy_score(labels, told)", "metrics.balanced_accuracy_score(labels, told)"),
    "the middle label stands for all of CT-CLIP": (
        "published", "float(np.mean([label[name] for label in each]))", "float(np.median([label[name] for label in each]))",
    ),
    "the interval of CT-CLIP has a width": ("published", "name: (value, value)", "name: (value - 0.01, value + 0.01)"),
    "zero-shot of X2CT is flipped": ("published", "np.tanh((present - absent) / 2)", "np.tanh((absent - present) / 2)"),
    "level prompts are present": ("published", "present > absent", "present >= absent"),
    "one half is present": ("published", "probabilities > 0.5, labels", "probabilities >= 0.5, labels"),
    "later AUC of X2CT is right": ("published", 'if version == "later":', "if False:"),
    "earlier AUC of X2CT is wrong too": ("published", 'if version == "later":', "if True:"),
    "later AUC of X2CT is of the first label": (
        "published", "metrics.roc_auc_score(labels[:, -1], probabilities[:, -1])", "metrics.roc_auc_score(labels[:, 0], probabilities[:, 0])",
    ),
    "PR-AUC of X2CT is always macro": (
        "published", "metrics.average_precision_score(labels, probabilities, average=average)", "metrics.average_precision_score(labels, probabilities)",
    ),
    "precision and recall are exchanged": ("published", "precision, recall, f1, _ =", "recall, precision, f1, _ ="),
    "nothing told is precise to X2CT": (
        "published", "labels, told, average=average, zero_division=0", "labels, told, average=average, zero_division=1",
    ),
    "the list for DeLong goes by label": ("published", "probabilities.ravel(), labels.ravel()", "probabilities.T.ravel(), labels.T.ravel()"),
    "one label is averaged": ("published", "if labels.shape[1] < 2:", "if labels.shape[1] < 1:"),
    "CT-CLIP is told by the MAP of X2CT": ("published", "measure_ctclip_map if compat == Compat.CTCLIP else measure_x2ct_map", "measure_x2ct_map"),
    "X2CT is told by the MAP of CT-CLIP": ("published", "measure_ctclip_map if compat == Compat.CTCLIP else measure_x2ct_map", "measure_ctclip_map"),
    "later recall is told by the earlier": (
        "published", 'measure_x2ct_recall(queries, gallery, version="later")', 'measure_x2ct_recall(queries, gallery, version="earlier")',
    ),
    "published recall goes back": (
        "published", 'told.append(("Recall", measure_recall(queries, gallery)))', 'told.append(("Recall", measure_recall(gallery, queries)))',
    ),
    "published MAP goes back": ("published", "measure(queries, gallery, query_labels", "measure(gallery, queries, query_labels"),
    "a fault is told of another number": ("published", "fault=FAULTS[compat, kind]", "fault=FAULTS[compat, 'MAP']"),
    "published numbers take unknown labels": ("published", "np.setdiff1d(labels, [0, 1])", "np.setdiff1d(labels, [-1, 0, 1])"),
    "published numbers take unknown labels of queries": ("published", "    _check_binary(query_labels)\n", ""),
    "published numbers take one class": ("published", "if lone.size:", "if False:"),
    "published numbers take NaN": (
        "published", "if not ((probabilities >= 0) & (probabilities <= 1)).all():", "if ((probabilities < 0) | (probabilities > 1)).any():",
    ),
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
    """List the tests that need no fixture, each case of those that have several."""
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    return [case for test in tests for case in list_cases(test)]


def list_cases(test: Any) -> list[Any]:
    """List the cases of a test; none if it needs a fixture, or more than one list of cases."""
    needs = set() if hasattr(test, "hypothesis") else set(inspect.signature(test).parameters)
    marks = getattr(test, "pytestmark", [])
    if not marks:
        return [] if needs else [test]
    names, cases = marks[0].args if marks[0].name == "parametrize" else ("", ())
    if len(marks) > 1 or isinstance(names, str) or set(names) != needs:
        return []
    return [partial(test, **dict(zip(names, case, strict=True))) for case in cases]


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
