"""Both protocols over gRPC: answers equal HTTP's bit for bit, statuses, versions, streams, health, reflection."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phidet.serve.configuration import Policy, Source
from phidet.serve.messages import message, pool
from serve_server import (
    CLASSES,
    Server,
    b64,
    encoded,
    model_of,
    one_model,
    picture,
    serving,
    settings_for,
    until,
    write_version,
)

grpc = pytest.importorskip("grpc", reason="no grpcio here: pip install 'phidet[grpc]'")
from serve_grpc import (  # noqa: E402
    HEALTH,
    IMAGE,
    INFER,
    INFERENCE,
    ON,
    PREDICT,
    SERVING,
    Client,
    client,
    code_of,
    infer_request,
    predict_pixels,
    predict_request,
    tensors_of,
)

STATUS = f"/{SERVING}.ModelService/GetModelStatus"
RELOAD = f"/{SERVING}.ModelService/HandleReloadConfigRequest"
METADATA = f"/{SERVING}.PredictionService/GetModelMetadata"
SERVICE = f"/{INFERENCE}.GRPCInferenceService"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("m")
    write_version(base, 7, "800")
    write_version(base, 9, "900")
    source = Source("m", base, Policy(), {"stable": 7})
    with serving(settings_for(base, sources=(source,)), network=ON) as running:
        yield running


@pytest.fixture(scope="module")
def asked(server: Server) -> Iterator[Client]:
    with client(server) as found:
        yield found


def over_http(server: Server, images: list[bytes], path: str = "/v1/models/m:predict") -> dict[str, Any]:
    answer = server.post(path, {"inputs": [b64(image) for image in images]}).json["outputs"]
    return {name: np.array(value, np.float32) for name, value in answer.items()}


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Equal to the last bit, and in shape."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes(), name


# Answers


@pytest.mark.parametrize("count", [1, 3])
def test_answers_are_those_of_http_bit_for_bit(server: Server, asked: Client, count: int) -> None:
    images = [encoded(picture(40 + i, 60, seed=i), "PNG") for i in range(count)]
    wanted = over_http(server, images)
    assert wanted["num_detections"].tolist() == [2] * count
    same(asked.predict(predict_request(*images)), wanted)
    same(asked.predict(predict_request(*images, tensor="input_tensor")), wanted)
    same(asked.infer(infer_request(*images)), wanted)


def test_pixels_give_the_same_in_each_form(server: Server, asked: Client) -> None:
    pixels = np.stack([picture(20, 30, seed) for seed in (1, 2)])
    wanted = over_http(server, [encoded(image) for image in pixels])
    request = predict_pixels(pixels)
    same(asked.predict(request), wanted)
    request.inputs["input_tensor"].tensor_content = b""
    request.inputs["input_tensor"].int_val.extend(pixels.ravel().tolist())
    same(asked.predict(request), wanted)
    infer = message(f"{INFERENCE}.ModelInferRequest")(model_name="m")
    given = infer.inputs.add(name="input_tensor", datatype="UINT8", shape=pixels.shape)
    infer.raw_input_contents.append(pixels.tobytes())
    same(asked.infer(infer), wanted)
    del infer.raw_input_contents[:]
    given.contents.uint_contents.extend(pixels.ravel().tolist())
    same(asked.infer(infer), wanted)


def test_masks_come_as_over_http(tmp_path: Path) -> None:
    with one_model(tmp_path, "900 0 masks", network=ON) as server, client(server) as asked:
        wanted = over_http(server, [IMAGE])
        assert wanted["detection_masks"].any()
        same(asked.predict(predict_request(IMAGE)), wanted)
        same(asked.infer(infer_request(IMAGE)), wanted)


def test_only_the_outputs_that_are_asked_for_come(asked: Client) -> None:
    request = predict_request(IMAGE)
    request.output_filter.extend(["num_detections", "detection_scores"])
    assert asked.predict(request).keys() == {"num_detections", "detection_scores"}
    infer = infer_request(IMAGE, request_id="one")
    infer.outputs.add(name="num_detections")
    infer.outputs.add(name="detection_boxes")
    answer = asked.ask(INFER, infer, f"{INFERENCE}.ModelInferResponse")
    assert [output.name for output in answer.outputs] == ["num_detections", "detection_boxes"]
    assert (answer.id, answer.model_name, answer.model_version) == ("one", "m", "9")


def test_a_version_is_a_number_a_label_or_the_latest(asked: Client) -> None:
    def score(change: Callable[[Any], None]) -> float:
        request = predict_request(IMAGE)
        change(request.model_spec)
        return round(float(asked.predict(request)["detection_scores"][0, 0]), 3)

    assert score(lambda spec: None) == 0.9
    assert score(lambda spec: setattr(spec.version, "value", 7)) == 0.8
    assert score(lambda spec: setattr(spec.version, "value", 0)) == 0.9, "ovmsclient's way to say the latest"
    assert score(lambda spec: setattr(spec, "version_label", "stable")) == 0.8
    infer = infer_request(IMAGE)
    infer.model_version = "7"
    assert round(float(asked.infer(infer)["detection_scores"][0, 0]), 3) == 0.8


# What is not right


def changed(change: Callable[[Any], object], request: Any = None) -> Any:
    request = predict_request(IMAGE) if request is None else request
    change(request)
    return request


def infer(change: Callable[[Any], object]) -> Any:
    return changed(change, infer_request(IMAGE))


def raw(request: Any) -> None:
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(b"\0")


NUMBERS = message(f"{INFERENCE}.ModelInferRequest")(
    model_name="m", inputs=[{"name": "input_tensor", "datatype": "UINT8", "shape": [1, 1, 1, 3]}]
)
BROKEN_PREDICT = {
    "0 images in one request": predict_request(),
    "65 images in one request": predict_request(*[IMAGE] * 65),
    'got ["x"]': predict_request(IMAGE, tensor="x"),
    "is not an image that can be read": predict_request(b"not an image"),
    "expected one input, input_tensor or image_bytes, got []": changed(lambda r: r.inputs.clear()),
    "Unrecognized servable version label: x": changed(lambda r: setattr(r.model_spec, "version_label", "x")),
    '"x" not found in signature def': changed(lambda r: setattr(r.model_spec, "signature_name", "x")),
    "output tensor alias not found in signature: x": changed(lambda r: r.output_filter.append("x")),
    "1 values do not fill shape [2]": changed(
        lambda r: setattr(r.inputs["image_bytes"].tensor_shape.dim[0], "size", 2)
    ),
    "shape [-1] is not possible": changed(lambda r: setattr(r.inputs["image_bytes"].tensor_shape.dim[0], "size", -1)),
    "must be DT_STRING, got DT_FLOAT": changed(lambda r: setattr(r.inputs["image_bytes"], "dtype", 1)),
    "must be DT_STRING, got 77": changed(lambda r: setattr(r.inputs["image_bytes"], "dtype", 77)),
    "1800 values do not fill shape [1, 20, 31, 3]": changed(
        lambda r: setattr(r.inputs["input_tensor"].tensor_shape.dim[2], "size", 31), predict_pixels(picture()[None])
    ),
}
BROKEN_INFER = {
    "a version is a number": infer(lambda r: setattr(r, "model_version", "x")),
    "expected one input": infer(lambda r: r.inputs.add(name="x")),
    "unknown output": infer(lambda r: r.outputs.add(name="x")),
    "must have datatype BYTES": infer(lambda r: setattr(r.inputs[0], "datatype", "FP32")),
    "expected its data once": infer(lambda r: r.raw_input_contents.append(b"\0")),
    "the binary data ends inside a length": infer(raw),
    "0 values do not fill shape [1]": infer(lambda r: r.inputs[0].ClearField("contents")),
    "the parameter classification is not supported": infer(
        lambda r: setattr(r.parameters["classification"], "int64_param", 2)
    ),
    "the value 256 is out of range": changed(lambda r: r.inputs[0].contents.uint_contents.append(256), NUMBERS),
}
BROKEN = [
    *((PREDICT, request, "INVALID_ARGUMENT", text) for text, request in BROKEN_PREDICT.items()),
    *((INFER, request, "INVALID_ARGUMENT", text) for text, request in BROKEN_INFER.items()),
    (PREDICT, predict_request(IMAGE, name="x"), "NOT_FOUND", "Servable not found for request: Latest(x)"),
    (PREDICT, changed(lambda r: setattr(r.model_spec.version, "value", 8)), "NOT_FOUND", "Specific(m, 8)"),
    (INFER, infer(lambda r: setattr(r, "model_name", "x")), "NOT_FOUND", "Latest(x)"),
]


@pytest.mark.parametrize(("path", "request_", "code", "text"), BROKEN, ids=[text for *_, text in BROKEN])
def test_a_request_that_is_not_right_gets_its_status(
    asked: Client, path: str, request_: Any, code: str, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        asked.raw(path, request_.SerializeToString())
    assert code_of(error) == code
    assert text in error.value.details()


@pytest.mark.parametrize("name", ["Classify", "Regress", "MultiInference"])
def test_a_detector_does_not_classify(asked: Client, name: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        asked.raw(f"/{SERVING}.PredictionService/{name}", predict_request(IMAGE).SerializeToString())
    assert (code_of(error), error.value.details()) == (
        "INVALID_ARGUMENT", f"a detector has no signature for {name}: use Predict",
    )  # fmt: skip


def test_what_there_is_not_is_unimplemented(asked: Client) -> None:
    with pytest.raises(grpc.RpcError) as error:
        asked.raw(f"{SERVICE}/RepositoryModelLoad", b"")
    assert (code_of(error), error.value.details()) == (
        "UNIMPLEMENTED", f"there is no method {SERVICE}/RepositoryModelLoad",
    )  # fmt: skip


def test_what_is_no_message_is_invalid(asked: Client) -> None:
    with pytest.raises(grpc.RpcError) as error:
        asked.raw(PREDICT, b"\xff\xff\xff")
    assert (code_of(error), error.value.details()) == (
        "INVALID_ARGUMENT", "the message is not a valid tensorflow.serving.PredictRequest",
    )  # fmt: skip


def test_a_model_that_fails_is_internal(asked: Client) -> None:
    with pytest.raises(grpc.RpcError) as error:
        asked.predict(predict_request(encoded(picture(13, 13))))
    assert (code_of(error), error.value.details()) == ("INTERNAL", "the model failed: RuntimeError")


# What else there is


def test_what_is_said_of_models_is_what_http_says(server: Server, asked: Client) -> None:
    from google.protobuf import json_format  # noqa: PLC0415

    def said(name: str, /, **fields: str) -> Any:
        request = message(f"{INFERENCE}.{name}Request")(**fields)
        answer = asked.ask(f"{SERVICE}/{name}", request, f"{INFERENCE}.{name}Response")
        return json_format.MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

    assert said("ServerLive") == {"live": True}
    assert said("ServerReady") == {"ready": True}
    assert said("ServerMetadata") == server.get("/v2").json
    for version in ("", "7"):
        assert said("ModelReady", name="m", version=version) == {"ready": True}
        found = server.get("/v2/models/m" + (version and f"/versions/{version}")).json
        metadata = said("ModelMetadata", name="m", version=version)
        assert metadata["versions"] == found["versions"] == ["7", "9"]
        assert [int(side) for side in metadata["inputs"][0]["shape"]] == found["inputs"][0]["shape"]
        assert [output["name"] for output in metadata["outputs"]] == [output["name"] for output in found["outputs"]]
    config = said("ModelConfig", name="m")["config"]
    assert json.loads(config["parameters"]["class_names"]["string_value"]) == list(CLASSES)
    assert config["max_batch_size"] == server.get("/v2/models/m/config").json["max_batch_size"]
    assert said("RepositoryIndex")["models"] == server.post("/v2/repository/index", b"").json
    asked.infer(infer_request(IMAGE))
    (latest,) = said("ModelStatistics", name="m", version="9")["model_stats"]
    assert int(latest["inference_stats"]["success"]["count"]) >= 1
    assert len(said("ModelStatistics")["model_stats"]) == 2
    with pytest.raises(grpc.RpcError) as error:
        said("ModelReady", name="x")
    assert code_of(error) == "NOT_FOUND"


def test_status_and_metadata_of_tensorflow_serving(server: Server, asked: Client) -> None:
    from google.protobuf import json_format  # noqa: PLC0415

    request = message(f"{SERVING}.GetModelStatusRequest")()
    request.model_spec.name = "m"
    found = asked.ask(STATUS, request, f"{SERVING}.GetModelStatusResponse").model_version_status
    assert [(status.version, status.state, status.status.error_code) for status in found] == [(7, 30, 0), (9, 30, 0)]
    wanted = message(f"{SERVING}.GetModelMetadataRequest")(metadata_field=["signature_def"])
    wanted.model_spec.name = "m"
    packed = asked.ask(METADATA, wanted, f"{SERVING}.GetModelMetadataResponse").metadata["signature_def"]
    signatures = message(f"{SERVING}.SignatureDefMap")()
    assert packed.Unpack(signatures), "its type is named as TensorFlow Serving's clients know it"
    said = server.get("/v1/models/m/metadata").json["metadata"]["signature_def"]
    assert json_format.ParseDict(said, message(f"{SERVING}.SignatureDefMap")()) == signatures
    wanted.metadata_field[:] = ["x"]
    with pytest.raises(grpc.RpcError) as error:
        asked.ask(METADATA, wanted, f"{SERVING}.GetModelMetadataResponse")
    assert code_of(error) == "INVALID_ARGUMENT"


def test_clients_choose_models_only_where_they_may(tmp_path: Path) -> None:
    for name, content in (("a", "900"), ("b", "800")):
        write_version(tmp_path / "models" / name, 1, content)
    write_version(tmp_path / "secret", 1, "700")

    def reload(asked: Client, *pairs: tuple[str, str]) -> None:
        request = message(f"{SERVING}.ReloadConfigRequest")()
        for name, base_path in pairs:
            config = request.config.model_config_list.config.add(name=name, base_path=base_path)
            config.version_labels.add(key="only", value=1)
        asked.ask(RELOAD, request, f"{SERVING}.ReloadConfigResponse")

    def score(asked: Client, name: str) -> float:
        found = asked.predict(predict_request(IMAGE, name=name))
        return round(float(found["detection_scores"][0, 0]), 3)

    source = Source("m", tmp_path / "models" / "a")
    settings = settings_for(tmp_path, sources=(source,), reload_root=tmp_path / "models")
    with serving(settings, network=ON) as server, client(server) as asked:
        reload(asked, ("m", "a"), ("n", str(tmp_path / "models" / "b")))
        assert (score(asked, "m"), score(asked, "n")) == (0.9, 0.8), "they answer as soon as the call has ended"
        reload(asked, ("m", "b"))
        assert score(asked, "m") == 0.8
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            score(asked, "n")
        for outside in ("../secret", str(tmp_path / "secret"), "/nowhere"):
            with pytest.raises(grpc.RpcError, match="leads out of --reload_config_root") as error:
                reload(asked, ("m", outside))
            assert code_of(error) == "PERMISSION_DENIED"
        (tmp_path / "models" / "empty").mkdir()
        with pytest.raises(grpc.RpcError, match="model e: its folder has no version") as error:
            reload(asked, ("m", "b"), ("e", "empty"))
        assert code_of(error) == "INTERNAL"
        for pairs, text in (((), "got no model"), ((("m", "nothing"),), "there is no folder")):
            with pytest.raises(grpc.RpcError, match=text) as error:
                reload(asked, *pairs)
            assert code_of(error) == "INVALID_ARGUMENT"
        assert score(asked, "m") == 0.8
    with one_model(tmp_path / "closed", network=ON) as server, client(server) as asked:
        with pytest.raises(grpc.RpcError, match="chosen where it was started") as error:
            reload(asked, ("m", "a"))
        assert code_of(error) == "PERMISSION_DENIED"


def test_a_stream_answers_in_order_and_goes_on_after_an_error(server: Server, asked: Client) -> None:
    images = [encoded(picture(20 + i, 30, seed=i)) for i in range(6)]
    requests = [infer_request(image, request_id=str(i)) for i, image in enumerate(images)]
    requests.insert(3, infer_request(b"not an image", request_id="bad"))
    requests[-1].parameters["triton_enable_empty_final_response"].bool_param = True
    answers = list(asked.stream(requests))
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "", "3", "4", "5"]
    assert "is not an image that can be read" in answers[3].error_message
    assert answers[-1].infer_response.parameters["triton_final_response"].bool_param
    del answers[3]
    for image, answer in zip(images, answers, strict=True):
        assert not answer.error_message
        same(tensors_of(answer.infer_response), over_http(server, [image]))


def test_health_follows_readiness(tmp_path: Path) -> None:
    request, response = message(f"{HEALTH}.HealthCheckRequest"), f"{HEALTH}.HealthCheckResponse"
    base = tmp_path / "m"
    base.mkdir()
    with serving(settings_for(base, token="t"), ready=False, network=ON) as server, client(server) as asked:
        watching = asked.channel.unary_stream(f"/{HEALTH}.Health/Watch")(request().SerializeToString(), timeout=600)
        seen = map(message(response).FromString, watching)
        assert next(seen).status == 2, "not serving"
        write_version(base, 1, "900")
        assert next(seen).status == 1, "serving"
        for name in ("", f"{SERVING}.PredictionService", f"{INFERENCE}.GRPCInferenceService"):
            assert asked.ask(f"/{HEALTH}.Health/Check", request(service=name), response).status == 1
        with pytest.raises(grpc.RpcError) as error:
            asked.ask(f"/{HEALTH}.Health/Check", request(service="x"), response)
        assert code_of(error) == "NOT_FOUND"


def test_reflection_describes_what_is_served(asked: Client) -> None:
    """As grpcurl does it: the services, then the files of one, from which its requests can be made."""
    kind, package = message("grpc.reflection.v1.ServerReflectionRequest"), "grpc.reflection.v1"
    for served in (package, "grpc.reflection.v1alpha"):
        requests = [
            kind(list_services=""),
            kind(file_containing_symbol=f"{SERVING}.PredictionService"),
            kind(file_by_filename="inference.proto"),
            kind(file_containing_symbol="x.Y"),
        ]
        call = asked.channel.stream_stream(f"/{served}.ServerReflection/ServerReflectionInfo")
        replies = call(iter([request.SerializeToString() for request in requests]), timeout=600)
        names, by_symbol, by_name, unknown = map(message(f"{package}.ServerReflectionResponse").FromString, replies)
        assert {service.name for service in names.list_services_response.service} >= {
            f"{SERVING}.PredictionService", f"{SERVING}.ModelService", f"{INFERENCE}.GRPCInferenceService",
            "grpc.health.v1.Health",
        }  # fmt: skip
        from google.protobuf import descriptor_pb2, descriptor_pool  # noqa: PLC0415

        fresh = descriptor_pool.DescriptorPool()
        for data in by_symbol.file_descriptor_response.file_descriptor_proto:
            fresh.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        method = fresh.FindServiceByName(f"{SERVING}.PredictionService").FindMethodByName("Predict")
        assert [f.name for f in method.input_type.fields] == ["model_spec", "inputs", "output_filter"]
        assert by_name.file_descriptor_response.file_descriptor_proto[-1] == (
            pool().FindFileByName("inference.proto").serialized_pb
        )
        assert unknown.error_response.error_code == 5


def test_a_version_that_goes_finishes_what_it_began(tmp_path: Path) -> None:
    with one_model(tmp_path, network=ON) as server, client(server) as asked:
        old = model_of(server)
        old.go_on.clear()
        begun = asked.future(PREDICT, predict_request(IMAGE))
        until(lambda: old.batches[-1:] == [1] and len(old.batches) == 2)  # the first was the trial
        write_version(tmp_path / "m", 2, "800")
        until(lambda: 2 in server.service.repository.models["m"].available)
        assert round(float(asked.predict(predict_request(IMAGE))["detection_scores"][0, 0]), 3) == 0.8
        old.go_on.set()
        answer = message(f"{SERVING}.PredictResponse").FromString(begun.result())
        assert answer.model_spec.version.value == 1
        until(lambda: old.closed)


def test_triton_s_raw_images_are_the_bytes_of_http(server: Server, asked: Client) -> None:
    request = message(f"{INFERENCE}.ModelInferRequest")(model_name="m")
    request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(IMAGE).to_bytes(4, "little") + IMAGE)
    body = {"inputs": [{"name": "image_bytes", "shape": [1, 1], "datatype": "BYTES",
                        "data": [base64.b64encode(IMAGE).decode()]}]}  # fmt: skip
    outputs = server.post("/v2/models/m/infer", body).json["outputs"]
    wanted = {o["name"]: np.array(o["data"], np.float32).reshape(o["shape"]) for o in outputs}
    same(asked.infer(request), wanted)
