"""``phidet serve``. Flags that TensorFlow Serving has keep its names."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_arithmetic, add_exact, share_or_auto
from phidet.core.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from phidet.serve.camera import Camera
    from phidet.serve.configuration import Limits, Source
    from phidet.serve.models.batching import BatchingParameters
    from phidet.serve.server import Network

TOKEN_VARIABLE = "PHIDET_SERVE_TOKEN"
EPILOG = f"""examples:
  phidet publish person models/person
  phidet serve --model_name person --model_base_path models/person
  phidet serve --model_config_file models.config --host 0.0.0.0 --port 8500
  phidet serve --model_name person --model_base_path models/person --watch door=rtsp://camera.local/1

The page to try a model on is at http://localhost:8501/, the API's description at /docs. Clients must show a token
(Authorization: Bearer …) when the environment has {TOKEN_VARIABLE}."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet serve``."""
    parser.epilog = EPILOG
    models = parser.add_argument_group("models")
    models.add_argument("--model_name", default="default", metavar="NAME", help="name in the paths (default: default)")
    models.add_argument("--model_base_path", type=Path, metavar="FOLDER", help="folder of numbered version folders")
    models.add_argument("--model_config_file", type=Path, metavar="FILE", help="several models, as TensorFlow Serving")
    models.add_argument(
        "--model_config_file_poll_wait_seconds", type=float, default=1.0, metavar="S",
        help="between polls of that file for changes, 0: never (default: 1)",
    )  # fmt: skip
    models.add_argument(
        "--file_system_poll_wait_seconds", type=float, default=1.0, metavar="S", help="between polls for new versions"
    )
    models.add_argument(
        "--reload_config_root", type=Path, metavar="FOLDER",
        help="let clients choose by HandleReloadConfigRequest which models below FOLDER are served (default: not)",
    )  # fmt: skip
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--score", type=share_or_auto, default=0.05,
        help="least score of an object, or auto: the best of each class that the models store (default: 0.05)",
    )  # fmt: skip
    answers.add_argument("--iou", type=float, default=0.5, help="overlap that makes a duplicate (default: 0.5)")
    answers.add_argument("--max_detections", type=int, default=100, metavar="N", help="length of answers")
    add_exact(answers)
    add_arithmetic(answers)
    answers.add_argument("--runtime", default="auto", choices=("auto", "onnxruntime", "openvino", "litert"))
    batching = parser.add_argument_group("batching")
    batching.add_argument("--enable_batching", type=_boolean, nargs="?", const=True, default=True, metavar="BOOL")
    batching.add_argument("--batching_parameters_file", type=Path, metavar="FILE", help="as TensorFlow Serving's")
    network = parser.add_argument_group("network")
    network.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    network.add_argument("--rest_api_port", type=int, default=8501, metavar="PORT", help="(default: 8501)")
    network.add_argument("--port", type=int, metavar="PORT", help="also serve gRPC, usually on 8500 (default: off)")
    network.add_argument("--prefix", default="", metavar="/PATH", help="path that a proxy has before all others")
    network.add_argument("--tls_cert", "--tls-cert", type=Path, metavar="FILE", help="PEM: TLS for HTTP and gRPC")
    network.add_argument("--tls_key", "--tls-key", type=Path, metavar="FILE", help="PEM, without a password")
    network.add_argument("--rest_api_timeout_in_ms", type=int, default=30000, metavar="MS", help="for a request")
    network.add_argument(
        "--rest_api_enable_cors_support", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL",
        help="let pages of other sites use the API",
    )  # fmt: skip
    network.add_argument(
        "--drain_seconds", type=float, default=0.0, metavar="S",
        help="after SIGTERM, answer for so long without being ready, until load balancers have noticed (default: 0)",
    )  # fmt: skip
    network.add_argument("--access_log", type=_boolean, nargs="?", const=True, default=True, metavar="BOOL")
    network.add_argument(
        "--trace_address",
        metavar="URL",
        help="send OpenTelemetry traces (OTLP over HTTP) to this collector (default: off)",
    )
    network.add_argument("--trace_share", type=float, default=1.0, metavar="X", help="of the requests (default: 1)")
    cameras = parser.add_argument_group("cameras, on the live page at /watch")
    cameras.add_argument(
        "--watch", action="append", default=[], metavar="NAME=ADDRESS",
        help="detect on and track in a camera or stream: webcam, rtsp://…, http://…; may be given several times",
    )  # fmt: skip
    cameras.add_argument(
        "--watch_place", action="append", default=[], metavar="NAME:PLACE=x1,y1,x2,y2",
        help="count at a line of that camera, with more points in a zone; shares of the image, or pixels",
    )  # fmt: skip
    cameras.add_argument("--watch_model", default="", metavar="NAME", help="the model that detects (the first one)")
    limits = parser.add_argument_group("limits of a request")
    limits.add_argument("--max_body_bytes", type=int, metavar="N", help="also when inflated")
    limits.add_argument("--max_image_pixels", type=int, metavar="N")
    limits.add_argument("--max_request_pixels", type=int, metavar="N", help="of all its images together")
    limits.add_argument("--max_instances", type=int, metavar="N", help="images in one request")
    limits.add_argument("--max_connections", type=int, metavar="N")


def run(args: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT."""
    from phidet.detections.settings import PostprocessSettings
    from phidet.inference.detector import Detector
    from phidet.inference.runtimes.open_model import check_device
    from phidet.inference.runtimes.options import RunOptions
    from phidet.serve.configuration import ServerSettings
    from phidet.serve.models.model import detector_loader
    from phidet.serve.server import run as serve

    if args.device != "cpu":  # every model would fail to load, and the server wait for one for ever
        check_device(RunOptions(None, 1, args.precision, args.device), args.runtime)
    token = os.environ.get(TOKEN_VARIABLE)
    batching = _batching(args)
    settings = ServerSettings(
        sources=_sources(args),
        batching=batching,
        limits=_limits(args),
        poll_seconds=args.file_system_poll_wait_seconds,
        config_file=args.model_config_file,
        config_poll_seconds=args.model_config_file_poll_wait_seconds,
        token=None if token is None else token.strip(),  # secrets in files end with a line break
        cors=args.rest_api_enable_cors_support,
        cameras=_cameras(args),
        reload_root=args.reload_config_root,
        prefix=args.prefix.rstrip("/"),
        trace_address=args.trace_address,
        trace_share=args.trace_share,
    )
    postprocess = PostprocessSettings(score=args.score, iou=args.iou, max_detections=args.max_detections)
    open_detector = partial(
        Detector,
        runtime=args.runtime,
        threads=batching.threads_each,
        precision=args.precision,
        device=args.device,
        at_once=batching.num_batch_threads,
        exact=args.exact,
    )
    serve(settings, detector_loader(postprocess, open_detector), _network(args), args.access_log)


def _network(args: argparse.Namespace) -> Network:
    from phidet.serve.server import Network
    from phidet.serve.tls import Certificate

    if (args.tls_cert is None) != (args.tls_key is None):
        raise ConfigError("expected --tls_cert FILE and --tls_key FILE together")
    certificate = None if args.tls_cert is None else Certificate(args.tls_cert, args.tls_key)
    if not 0 <= args.drain_seconds <= 3600:
        raise ConfigError(f"--drain_seconds must be 0 to 3600, got {args.drain_seconds:g}")
    return Network(args.host, args.rest_api_port, args.port, certificate, args.drain_seconds)


def _sources(args: argparse.Namespace) -> tuple[Source, ...]:
    from phidet.serve.config_files import read_model_config
    from phidet.serve.configuration import Source

    # One of the two, as for TensorFlow Serving: a file has names and folders of its own.
    if (args.model_base_path is None) == (args.model_config_file is None):
        raise ConfigError("expected one of --model_base_path FOLDER and --model_config_file FILE")
    if args.model_config_file is not None:
        return read_model_config(args.model_config_file)
    return (Source(args.model_name, args.model_base_path),)


def _cameras(args: argparse.Namespace) -> tuple[Camera, ...]:
    from phidet.core.addresses import without_password
    from phidet.detections.tracking.assignment import import_solver
    from phidet.detections.tracking.places import Place, parse_place
    from phidet.serve.camera import Camera

    addresses: dict[str, str] = {}
    for text in args.watch:
        name, _, address = text.partition("=")
        # An address without a name may have "=" in it, too; its password is not shown.
        if not name or not address or "://" in name or name in addresses:
            raise ConfigError(f"expected --watch NAME=ADDRESS, each name once, got {without_password(text)!r}")
        addresses[name] = address
    places: dict[str, list[Place]] = {name: [] for name in addresses}
    for text in args.watch_place:
        name, _, place = text.partition(":")
        if name not in places:
            raise UnknownNameError("camera", name, places)
        places[name].append(parse_place(place))
    if addresses:
        import_solver()  # so that a missing extra is named before anything is served
    return tuple(Camera(name, addresses[name], args.watch_model, tuple(places[name])) for name in addresses)


def _batching(args: argparse.Namespace) -> BatchingParameters:
    from phidet.serve.config_files import read_batching_parameters
    from phidet.serve.models.batching import BatchingParameters

    # The queue keeps its default length in images: 128 batches of one instead of 16 of eight.
    if not args.enable_batching:
        return BatchingParameters(max_batch_size=1, max_enqueued_batches=128)
    if args.batching_parameters_file is not None:
        return read_batching_parameters(args.batching_parameters_file)
    return BatchingParameters()


def _limits(args: argparse.Namespace) -> Limits:
    from phidet.serve.configuration import Limits

    given = {
        "body_bytes": args.max_body_bytes,
        "image_pixels": args.max_image_pixels,
        "request_pixels": args.max_request_pixels,
        "instances": args.max_instances,
        "connections": args.max_connections,
        "request_seconds": args.rest_api_timeout_in_ms / 1000,
    }
    # Only what was given: the defaults are those of Limits.
    return Limits(**{name: value for name, value in given.items() if value is not None})


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() in ("true", "1")
