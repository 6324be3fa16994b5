"""TensorFlow Serving's configuration files, as people have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from phidet.core.errors import ConfigError
from phidet.serve.config_files import read_batching_parameters, read_model_config
from phidet.serve.configuration import Policy, Source
from phidet.serve.models.batching import BatchingParameters

CONFIG = """
# two models
model_config_list: {
  config {
    name: "a" , base_path: 'models/' "a"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 42; versions: 43 } }
    version_labels { key: 'stable' value: 42 }
    version_labels < key: "canary", value: 43 >
  }
  config { name: 'b\\x62' base_path: "%s" model_version_policy: { latest { num_versions: 3 } } }
  config { name: "c" base_path: "%s" model_version_policy { all: {} } }
  config { name: "d" base_path: "%s" model_version_policy { specific { versions: [1, 2] } } }
}
"""


def test_model_config_files(tmp_path: Path) -> None:
    (tmp_path / "models" / "a").mkdir(parents=True)
    path = tmp_path / "models.config"
    path.write_text(CONFIG % (tmp_path, tmp_path, tmp_path))
    assert read_model_config(path) == (
        Source("a", tmp_path / "models/a", Policy(specific=(42, 43)), {"stable": 42, "canary": 43}),
        Source("bb", tmp_path, Policy(latest=3)),
        Source("c", tmp_path, Policy()),
        Source("d", tmp_path, Policy(specific=(1, 2))),
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "FILE: expected model_config_list { config { … } }, got no model"),
        ("model_config_list {", 'FILE, line 1, column 19: Expected "}".'),
        ("model_config_list { config { name: \"a\" \n nmae: 3 } }",
         "unknown field on line 2 of FILE: 'nmae'. Did you mean name?"),
        ("model_config_list { config { name: 3 base_path: '.' } }",
         "FILE, line 1, column 36: Expected string but found: '3'"),
        ("model_config_list { config { name 'a' } }", 'FILE, line 1, column 35: Expected ":".'),
        ("\n\nmodel_config_list { € }", "FILE, line 3, column 21: Expected identifier or number, got €."),
        ("a" + "{a" * 9999, "unknown field on line 1 of FILE: 'a'. Known: model_config_list."),
        ("model_config_list { config { name: 'a' } }", "FILE: the model a has no base_path"),
        ("model_config_list { config { base_path: '.' } }", "FILE: the model . has no name"),
        ("model_config_list { config { } }", "FILE: the model { } has no name"),
        ("model_config_list { config { name: 'a' base_path: 'nowhere' } }",
         ("model a: there is no folder FOLDER/nowhere; 'phidet publish MODEL FOLDER/nowhere' makes it and its first "
         "version")),
        ("model_config_list { config { name: 'a/b' base_path: '.' } }",
         "a model's name must be printable and have neither '/' nor ':', got 'a/b'"),
        ("model_config_list { config { name: 'a' base_path: '.' model_version_policy { latest {} all {} } } }",
         "FILE: model a: expected one of latest { }, all { }, specific { }"),
        ("model_config_list { config { name: 'a' base_path: '.' model_version_policy { } } }",
         "FILE: model a: expected one of latest { }, all { }, specific { }"),
        ("model_config_list { config { name: 'a' base_path: '.' model_version_policy { specific {} } } }",
         "FILE: model a: specific { } needs versions: NUMBER"),
        ("model_config_list { config { name: 'a' base_path: '.' model_version_policy { latest {num_versions: 0} } } }",
         "FILE: model a: num_versions must be 1 or more, got 0"),
        ("model_config_list { config { name: 'a' base_path: '.' version_labels { key: 'x' } } }",
         "FILE: model a: expected version_labels { key: 'LABEL' value: NUMBER }"),
        ("model_config_list { config { name: 'a' base_path: '.' version_labels { value: 99999999999999999999 } } }",
         "FILE, line 1, column 79: Value out of range: 99999999999999999999"),
    ],
)  # fmt: skip
def test_model_config_files_that_cannot_be_used(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "f"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_model_config(path)
    assert str(caught.value).replace(str(path), "FILE").replace(str(tmp_path), "FOLDER") == error


MODEL = "model_config_list { config { name: 'm' base_path: '.' %s } }"


@pytest.mark.parametrize(
    "extra",
    [
        "",
        "model_platform: 'tensorflow',",
        "model_type: TENSORFLOW;",
        "logging_config { sampling_config { sampling_rate: 0.1 } }",
        "logging_config { log_collector_config { type: '' filename_prefix: \"/tmp/log\" } }",
        "logging_config { sampling_config { sampling_rate: 1e-3f attributes: 0x1 } }",
        "logging_configs: [{ sampling_config: { sampling_rate: .5 } }, { }]",
        "model_version_policy: { latest: { num_versions: 1, }, },",
        "model_version_policy < latest < > > # the default\n",
    ],
)
def test_what_has_no_meaning_here_is_accepted(extra: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "f"
    path.write_text("\ufeff" + MODEL % extra, encoding="utf-8")
    assert read_model_config(path) == (Source("m", tmp_path),)
    ignored = [record.getMessage() for record in caplog.records]
    assert ignored == [f"{path}: model m: logging_config is ignored; see --access_log"] * ("logging" in extra)


BATCHING = """
max_batch_size { value: 32 } batch_timeout_micros: { value: 5000 },
num_batch_threads < value: 2 >
"""


def test_batching_parameter_files(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for extra in (
        "",
        "allowed_batch_sizes : 1\nallowed_batch_sizes : 8\nallowed_batch_sizes : 32",
        "allowed_batch_sizes: [1, 8, 32]; pad_variable_length_inputs: true",
        "thread_pool_name { value: 'batches' } enable_large_batch_splitting { value: False }",
    ):
        path.write_text(BATCHING + extra)
        assert read_batching_parameters(path) == BatchingParameters(
            max_batch_size=32, batch_timeout_micros=5000, num_batch_threads=2
        )
    path.write_text("enable_large_batch_splitting { value: true } max_execution_batch_size { value: 16 }" + BATCHING)
    assert read_batching_parameters(path).max_batch_size == 16, "of a batch that runs"
    path.write_text("")
    assert read_batching_parameters(path) == BatchingParameters()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_batch_size: 3", 'FILE, line 1, column 17: Expected "{".'),
        ("max_batch_size { value: 0 }", "max_batch_size must be 1 or more, got 0"),
        ("max_batch_size { value: 1.5 }", "FILE, line 1, column 25: Couldn't parse integer: 1.5"),
        ("\nbatch_size { value: 1 }",
         ("unknown field on line 2 of FILE: 'batch_size'. Did you mean max_batch_size, allowed_batch_sizes or "
          "max_execution_batch_size?")),
        ("max_batch_size { }", "FILE: expected max_batch_size { value: NUMBER }"),
    ],
)  # fmt: skip
def test_batching_parameter_files_that_cannot_be_used(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_batching_parameters(path)
    assert str(caught.value).replace(str(path), "FILE") == error


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file or directory"):
        read_batching_parameters(tmp_path / "missing")
    (tmp_path / "f").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"cannot read .*f: 'utf-8' codec can't decode byte 0xff"):
        read_model_config(tmp_path / "f")
