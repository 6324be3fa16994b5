"""The Dockerfile and the compose file stay true to the server, where no Docker engine runs them."""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from phidet.cli import serve
from phidet.serve.http.app import METRICS_PATH
from phidet.serve.server import GRACE_SECONDS

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines)]


def last_stage() -> dict[str, str]:
    listed = instructions()
    start = max(i for i, (word, _) in enumerate(listed) if word == "FROM")
    return dict(listed[start:])


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(words)


def test_the_image_has_the_server_and_no_pytorch() -> None:
    (install,) = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert re.search(r"pip install --no-cache-dir '\.\[serve,grpc,otel\]'$", install)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in installed}
    assert {"onnxruntime", "starlette", "uvicorn", "prometheus-client"} <= names
    assert not names & {"torch", "torchvision", "phidet", "timm"}
    assert all("pip" not in rest for word, rest in list(last_stage().items()) if word == "RUN")


def test_everything_that_is_copied_exists_and_reaches_the_build() -> None:
    shown = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in shown


def test_it_does_not_run_as_root() -> None:
    listed = [word for word, _ in instructions()]
    assert int(last_stage()["USER"]) >= 1000
    assert listed.index("USER") < listed.index("ENTRYPOINT")


def test_it_starts_the_server_with_flags_that_exist() -> None:
    stage = last_stage()
    program, command, *flags = json.loads(stage["ENTRYPOINT"])
    assert (program, command) == ("phidet", "serve")
    args = arguments([*flags, *json.loads(stage["CMD"])])
    assert args.host == "0.0.0.0"
    assert stage["EXPOSE"] == f"{args.port} {args.rest_api_port}"
    assert args.model_base_path.is_relative_to(stage["VOLUME"])
    assert f"http://127.0.0.1:{args.rest_api_port}/v2/health/ready" in stage["HEALTHCHECK"]


def test_compose() -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    server, prometheus = services["phidet"], services["prometheus"]
    args = arguments(server["command"])
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
    assert server["ports"] == [f"127.0.0.1:{port}:{port}" for port in (args.rest_api_port, args.port)]
    assert server["volumes"] == ["./models:/models:ro"]
    assert args.model_base_path.is_relative_to("/models")
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert serve.TOKEN_VARIABLE in server["environment"]
    assert int(server["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
    source = prometheus["volumes"][0].split(":")[0]
    (job,) = yaml.safe_load((ROOT / source).read_text())["scrape_configs"]
    assert job["metrics_path"] == METRICS_PATH
    assert job["static_configs"] == [{"targets": [f"phidet:{args.rest_api_port}"]}]
