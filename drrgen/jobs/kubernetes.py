"""Workers in Kubernetes' pods, through the Dask operator: what is asked of it, and the asking."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from dask.utils import parse_bytes
from distributed import Client

from drrgen.errors import ConfigError, EngineError
from drrgen.jobs.sites import KubernetesSite

INSTALL = "pip install 'drrgen[kubernetes]'"
SCHEDULER_BYTES = 2 * 2**30
_MIB = 2**20
_USER = 1000  # of the image in docker/
_SCHEDULER_PORT, _DASHBOARD_PORT = 8786, 8787
_PREEMPTIBLE_FAILURES = "5"


def make_manifest(site: KubernetesSite, workers: int) -> dict[str, Any]:
    """Describe a scheduler and workers as the operator's DaskCluster.

    Args:
        site: Image, resources and where the data are.
        workers: How many pods.

    Raises:
        ConfigError: The site's own manifest cannot be read.
    """
    if site.manifest is not None:
        return _read_manifest(Path(site.manifest))
    worker = {"replicas": workers, "spec": _make_pod(site, _make_worker(site))}
    selector = {"dask.org/cluster-name": site.name, "dask.org/component": "scheduler"}
    service = {"type": "ClusterIP", "selector": selector, "ports": _make_ports("service")}
    scheduler = {"spec": _make_pod(site, _make_scheduler(site)), "service": service}
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": site.name, **_name_space(site)},
        "spec": {"worker": worker, "scheduler": scheduler},
    }


def write_manifest(site: KubernetesSite, workers: int) -> str:
    """Write what would be asked of the operator as YAML.

    Raises:
        ConfigError: The site's own manifest cannot be read.
    """
    text: str = yaml.safe_dump(make_manifest(site, workers), sort_keys=False)
    return text


@contextmanager
def open_kubernetes(site: KubernetesSite, workers: int) -> Iterator[Client]:
    """Ask the operator for workers; give them back in the end.

    Args:
        site: What to ask.
        workers: How many pods.

    Raises:
        EngineError: No dask-kubernetes, no cluster to be reached, or no operator in it.
        ConfigError: The site's own manifest cannot be read.
    """
    try:
        import kr8s
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise EngineError(
            f"--cluster kubernetes needs dask-kubernetes, which is not installed; {INSTALL}"
        ) from error
    manifest = make_manifest(site, workers)
    try:
        kr8s.api(namespace=site.namespace).version()  # a KubeCluster that fails is noisy at exit
        cluster = KubeCluster(
            custom_cluster_spec=manifest, namespace=site.namespace, quiet=True,
            shutdown_on_close=True,
        )  # fmt: skip
    except Exception as error:  # its clients raise whatever their transport does
        raise EngineError(
            f"Kubernetes gave no workers ({type(error).__name__}: {error}); see that kubectl "
            "reaches the cluster, that the Dask operator is installed in it, and look at the "
            "manifest with --dry-run"
        ) from error
    with cluster, Client(cluster) as client:
        yield client


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read a DaskCluster that the user wrote."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the manifest {path}: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != "DaskCluster":
        raise ConfigError(f"{path} holds no DaskCluster; see pipelines/kubernetes/")
    return found


def _name_space(site: KubernetesSite) -> dict[str, str]:
    """Name the namespace, where one is given."""
    return {"namespace": site.namespace} if site.namespace else {}


def _make_pod(site: KubernetesSite, container: dict[str, Any]) -> dict[str, Any]:
    """Describe a pod that may do little: no root, no token, no writing but to its own folders."""
    volumes: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {}}]
    if site.claim is not None:
        claim = {"claimName": site.claim}
        volumes.append({"name": "data", "persistentVolumeClaim": claim})
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }  # fmt: skip
    if site.service_account is not None:
        pod["serviceAccountName"] = site.service_account
    if site.node_selector:
        pod["nodeSelector"] = dict(pair.split("=", 1) for pair in site.node_selector)
    if site.tolerations:
        pairs = [pair.split("=", 1) for pair in site.tolerations]
        pod["tolerations"] = [{"key": k, "operator": "Equal", "value": v} for k, v in pairs]
    return pod


def _make_container(site: KubernetesSite, name: str, command: list[str]) -> dict[str, Any]:
    """Describe what scheduler and worker have in common."""
    mounts = [{"name": "scratch", "mountPath": "/tmp"}]  # noqa: S108  a folder of the pod alone
    if site.claim is not None:
        mounts.append({"name": "data", "mountPath": site.mount})
    container: dict[str, Any] = {
        "name": name,
        "image": site.image,
        "command": command,
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            {"name": "NUMBA_CACHE_DIR", "value": "/tmp/numba"},  # noqa: S108
            {"name": "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES",
             "value": _PREEMPTIBLE_FAILURES if site.preemptible else "0"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }  # fmt: skip
    if site.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": site.secret}}]
    return container


def _make_worker(site: KubernetesSite) -> dict[str, Any]:
    """Describe a worker: one thread, and the memory that its pod has."""
    limit = parse_bytes(site.memory)
    command = [
        "dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", "1",
        "--memory-limit", str(limit), "--no-dashboard", "--death-timeout", "300",
        "--local-directory", "/tmp",  # noqa: S108
        *(["--resources", "GPU=1"] if site.gpus else []),
    ]  # fmt: skip
    cards = {"nvidia.com/gpu": str(site.gpus)} if site.gpus else {}
    amount = {"cpu": f"{site.cores:g}", "memory": f"{limit // _MIB}Mi"}
    resources = {"requests": amount | cards, "limits": {"memory": amount["memory"]} | cards}
    return _make_container(site, "worker", command) | {"resources": resources}


def _make_scheduler(site: KubernetesSite) -> dict[str, Any]:
    """Describe the scheduler."""
    command = ["dask", "scheduler", "--host", "0.0.0.0"]  # noqa: S104  of the pod's own network
    memory = f"{SCHEDULER_BYTES // _MIB}Mi"
    return _make_container(site, "scheduler", command) | {
        "resources": {"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory}},
        "ports": _make_ports("container"),
        "readinessProbe": _ask_health(periodSeconds=1, timeoutSeconds=300),
        "livenessProbe": _ask_health(initialDelaySeconds=15, periodSeconds=20),
    }


def _ask_health(**times_s: int) -> dict[str, Any]:
    """Describe how the scheduler is asked whether it is well."""
    return {"httpGet": {"port": "http-dashboard", "path": "/health"}, **times_s}


def _make_ports(where: Literal["container", "service"]) -> list[dict[str, Any]]:
    """List the scheduler's ports, of its container or of its service."""
    ports = {"tcp-comm": _SCHEDULER_PORT, "http-dashboard": _DASHBOARD_PORT}
    if where == "container":
        return [{"name": n, "containerPort": p, "protocol": "TCP"} for n, p in ports.items()]
    return [{"name": n, "port": p, "targetPort": n, "protocol": "TCP"} for n, p in ports.items()]
