"""What is asked of Kubernetes, held against its schemas; nothing is asked of a cluster."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from drrgen.errors import ConfigError, EngineError
from drrgen.jobs.kubernetes import make_manifest, open_kubernetes, write_manifest
from drrgen.jobs.sites import KubernetesSite

validate = pytest.importorskip("kubernetes_validate")
jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")
pytest.importorskip("dask_kubernetes")

TEMPLATES = Path(__file__).parents[2] / "pipelines" / "kubernetes"
OLDEST, NEWEST = "1.30", validate.latest_version()
JOBS = ("plan", "shards", "merge", "driver")
SITES = [
    KubernetesSite(),
    KubernetesSite(
        claim="ct", gpus=1, secret="s3", service_account="drrgen", namespace="imaging",
        node_selector=("kind=gpu",), tolerations=("spot=true",), preemptible=True, cores=0.5,
    ),
]  # fmt: skip


def read_template(name: str) -> dict[str, Any]:
    found = yaml.safe_load((TEMPLATES / f"{name}.yaml").read_text())
    assert isinstance(found, dict)
    return found


def retrieve(uri: str) -> Any:
    """Find what the operator's schema refers to: its own templates, and Kubernetes' pods."""
    if uri.endswith("templates.yaml"):
        folder = resources.files("dask_kubernetes") / "operator" / "customresources"
        found = yaml.safe_load((folder / "templates.yaml").read_text())
    else:
        folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
        text = (folder / f"v{NEWEST}-local-strict" / "_definitions.json").read_text()
        kinds = json.loads(text.replace("#/$defs/", "#/definitions/"))["$defs"]
        found = {"definitions": kinds}
    return referencing.Resource.from_contents(
        found, default_specification=referencing.jsonschema.DRAFT7
    )


def check_dask_cluster(manifest: dict[str, Any]) -> None:
    """Hold a manifest against the schema that the operator installs."""
    folder = resources.files("dask_kubernetes") / "operator" / "customresources"
    crd = yaml.safe_load((folder / "daskcluster.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    registry = referencing.Registry(retrieve=retrieve)
    jsonschema.Draft7Validator(schema, registry=registry).validate(manifest)
    assert manifest["kind"] == crd["spec"]["names"]["kind"]
    assert manifest["apiVersion"] == "kubernetes.dask.org/v1"
    for part in ("worker", "scheduler"):
        spec = manifest["spec"][part]["spec"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": part}, "spec": spec}
        for version in (OLDEST, NEWEST):
            validate.validate(pod, version, strict=True)


def find_pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"]
    if manifest["kind"] == "DaskCluster":
        return [spec["worker"]["spec"], spec["scheduler"]["spec"]]
    return [spec["template"]["spec"]]


@pytest.mark.parametrize("site", SITES)
def test_what_a_dry_run_prints_fits_the_schema_of_the_operator(site: KubernetesSite) -> None:
    manifest = yaml.safe_load(write_manifest(site, 3))
    check_dask_cluster(manifest)
    assert manifest["spec"]["worker"]["replicas"] == 3


def test_the_schema_would_notice_a_wrong_word() -> None:
    manifest = make_manifest(KubernetesSite(), 1)
    manifest["spec"]["worker"]["spec"]["containers"][0]["comand"] = []
    with pytest.raises(Exception, match="comand"):
        check_dask_cluster(manifest)


def test_a_worker_has_one_thread_a_card_when_wanted_and_the_memory_of_its_pod() -> None:
    cpu, card = (
        make_manifest(site, 1)["spec"]["worker"]["spec"]["containers"][0] for site in SITES
    )
    for container in (cpu, card):
        command = container["command"]
        assert command[command.index("--nthreads") + 1] == "1"
        limit = int(command[command.index("--memory-limit") + 1])
        assert container["resources"]["limits"]["memory"] == f"{limit >> 20}Mi"
    assert "--resources" not in cpu["command"]
    assert "GPU=1" in card["command"]
    assert card["resources"]["limits"]["nvidia.com/gpu"] == "1"
    forgiven = [e["value"] for c in (cpu, card) for e in c["env"] if e["name"].endswith("FAILURES")]
    assert forgiven == ["0", "5"]


@pytest.mark.parametrize("name", [*JOBS, "claim"])
def test_the_templates_fit_the_schemas_of_kubernetes(name: str) -> None:
    for version in (OLDEST, NEWEST):
        validate.validate(read_template(name), version, strict=True)


def test_the_template_of_the_operator_is_what_drrgen_writes() -> None:
    written = read_template("dask-cluster")
    check_dask_cluster(written)
    assert written == make_manifest(KubernetesSite(claim="ct"), 4), "write it anew: see its head"


@pytest.mark.parametrize("name", [*JOBS, "dask-cluster"])
def test_no_pod_is_root_or_may_write_to_its_image(name: str) -> None:
    for pod in find_pods(read_template(name)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] and container["resources"]["limits"]


def test_every_index_of_the_job_is_a_shard_and_the_number_of_shards_is_the_same() -> None:
    spec = read_template("shards")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["completionMode"] == "Indexed"
    command = " ".join(container["command"])
    assert f'drrgen run /data/CXR --shard "$JOB_COMPLETION_INDEX/{spec["completions"]}"' in command


def test_a_manifest_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("kind: DaskCluster\nmetadata: {name: mine}\n")
    site = KubernetesSite(manifest=str(path))
    assert make_manifest(site, 9)["metadata"]["name"] == "mine"
    path.write_text("kind: Pod\n")
    with pytest.raises(ConfigError, match="holds no DaskCluster"):
        make_manifest(site, 9)


CONTEXT = """\
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: me, user: {}}]
contexts: [{name: now, context: {cluster: here, user: me}}]
current-context: now
"""


def test_a_cluster_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(CONTEXT)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with (
        pytest.raises(EngineError, match=r"ConnectError.*see that kubectl reaches"),
        open_kubernetes(KubernetesSite(), 1),
    ):
        pass
