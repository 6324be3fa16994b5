"""The manifests for Kubernetes, KServe, Seldon and KEDA stay true to the server, where no cluster runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from phidet.serve.http.app import METRICS_PATH
from phidet.serve.metrics import Metrics
from phidet.serve.server import GRACE_SECONDS
from test_serve_docker import arguments

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CLIENTS = ROOT / ".venv-clients" / "bin" / "kubernetes-validate"
KUBECTL = shutil.which("kubectl")
KUBERNETES = re.compile(r"v1|apps/v1|policy/v1|autoscaling/v2")
"""What Kubernetes itself knows; the others are of KServe, Seldon, KEDA and tools."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


FILES = sorted(DEPLOY.rglob("*.yaml"))
ALL = [(path, document) for path in FILES for document in documents(path)]


def containers(node: Any) -> list[dict[str, Any]]:
    """Every container in a manifest, wherever it stands."""
    if isinstance(node, dict):
        own = node["containers"] if isinstance(node.get("containers"), list) else []
        return [*own, *(found for value in node.values() for found in containers(value) if found not in own)]
    return [found for value in node for found in containers(value)] if isinstance(node, list) else []


SERVERS = [(path.name, one) for path, document in ALL for one in containers(document)]


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = document["spec"]["template"]["spec"]
    return pod


def only(name: str) -> dict[str, Any]:
    (found,) = (document for path, document in ALL if path.name == name)
    return found


@pytest.mark.skipif(not CLIENTS.exists(), reason="no kubernetes-validate here: make clients")
def test_kubernetes_would_take_them(tmp_path: Path) -> None:
    """Every field is one that the schemas of Kubernetes know, in strict mode."""
    for i, (_, document) in enumerate(ALL):
        if KUBERNETES.fullmatch(document.get("apiVersion", "")):
            (tmp_path / f"{i}.yaml").write_text(yaml.safe_dump(document))
    files = sorted(map(str, tmp_path.glob("*.yaml")))
    assert len(files) == 6
    done = subprocess.run([str(CLIENTS), "--strict", *files], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl here")
def test_kustomize_puts_the_values_in() -> None:
    assert KUBECTL is not None
    done = subprocess.run(
        [KUBECTL, "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, timeout=600, check=True
    )
    made = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    assert {document["metadata"].get("namespace", "phidet") for document in made.values()} == {"phidet"}
    (server,) = pod_of(made["Deployment"])["containers"]
    assert server["image"] == "registry.example/phidet:latest"
    secret = server["env"][0]["valueFrom"]["secretKeyRef"]["name"]
    assert secret == made["Secret"]["metadata"]["name"] != "phidet-token", "changed values make new pods"


def test_every_manifest_is_listed_or_is_for_something_else() -> None:
    listed = set(only("kustomization.yaml")["resources"])
    assert listed == {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {
        "kustomization.yaml", "adapter.yaml", "scaledobject.yaml",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "server"), SERVERS, ids=[name for name, _ in SERVERS])
def test_servers_start_with_flags_that_exist_and_listen_where_they_are_asked(name: str, server: dict[str, Any]) -> None:
    args = arguments(server["args"])
    listening = {args.rest_api_port} | ({args.port} if args.port else set())
    ports = {port.get("name", port["containerPort"]): port["containerPort"] for port in server["ports"]}
    assert set(ports.values()) <= listening, name
    assert args.drain_seconds > 0, "it is taken out of service before it stops"
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = server.get(kind, {})
        if "grpc" in probe:
            assert probe["grpc"]["port"] == args.port
        elif probe:
            wanted = "/v2/health/live" if kind == "livenessProbe" else "/v2/health/ready"
            port = probe["httpGet"]["port"]
            assert (probe["httpGet"]["path"], ports.get(port, port)) == (wanted, args.rest_api_port)
    mounts = [mount["mountPath"] for mount in server.get("volumeMounts", [])] or ["/mnt/models"]
    assert any(args.model_base_path.is_relative_to(mount) for mount in mounts)


def test_a_pod_has_time_to_drain_and_to_finish() -> None:
    pods = [pod_of(only("deployment.yaml")), only("seldon.yaml")["spec"]["predictors"][0]["componentSpecs"][0]["spec"]]
    for pod in pods:
        args = arguments(pod["containers"][0]["args"])
        assert pod["terminationGracePeriodSeconds"] > args.drain_seconds + GRACE_SECONDS
        readiness = pod["containers"][0]["readinessProbe"]
        noticed = readiness.get("periodSeconds", 10) * readiness.get("failureThreshold", 3)
        assert args.drain_seconds >= noticed or "periodSeconds" not in readiness


def test_the_deployment_gives_no_more_than_it_must() -> None:
    pod = pod_of(only("deployment.yaml"))
    (server,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert server["env"][0]["name"] == "PHIDET_SERVE_TOKEN"
    annotations = only("deployment.yaml")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == METRICS_PATH
    assert {service["spec"]["ports"][-1]["targetPort"] for _, service in ALL if service.get("kind") == "Service"} == {
        "grpc"
    }


def test_autoscaling_asks_for_metrics_that_there_are() -> None:
    known = set(re.findall(r"^# TYPE (\w+)", Metrics().text().decode(), re.MULTILINE))
    asked = set()
    for name in ("autoscaling.yaml", "adapter.yaml", "scaledobject.yaml"):
        asked |= set(re.findall(r"\bphidet_\w+", (DEPLOY / "kubernetes" / name).read_text()))
    assert asked == {"phidet_queued_pictures", "phidet_requests_total"}
    assert asked <= known | {f"{name}_total" for name in known}
