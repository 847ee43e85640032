"""The .proto file: what was promised stays, and what is compiled is what is written."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from holdfast.backend.api.open_inference.messages import SERVICE, methods

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "src" / "holdfast" / "backend" / "api" / "open_inference"
BASELINE = Path(__file__).with_name("grpc_baseline.json")
TRITON = Path(os.environ.get("HOLDFAST_TEST_TRITON", ROOT / ".venv-triton")) / "bin" / "python"
FIELD = descriptor_pb2.FieldDescriptorProto


def compiled():
    (file,) = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / "grpc_service.binpb").read_bytes()).file
    return file


def described(file):
    """Everything of a file that a client relies on, as plain data."""
    found = {"package": file.package, "messages": {}, "services": {}}

    def add(kind, prefix):
        one_of = [one.name for one in kind.oneof_decl]
        found["messages"][prefix + kind.name] = {
            field.name: {
                "number": field.number,
                "type": FIELD.Type.Name(field.type),
                "label": FIELD.Label.Name(field.label),
                "of": field.type_name,
                "oneof": one_of[field.oneof_index] if field.HasField("oneof_index") else "",
            }
            for field in kind.field
        }
        for inner in kind.nested_type:
            add(inner, f"{prefix}{kind.name}.")

    for kind in file.message_type:
        add(kind, "")
    for service in file.service:
        found["services"][service.name] = {
            one.name: [one.input_type, one.output_type, one.client_streaming, one.server_streaming]
            for one in service.method
        }
    return found


def broken(before, now):
    """What a client made for `before` would miss in `now`."""
    if before["package"] != now["package"]:
        yield "package"
    for name, fields in before["messages"].items():
        if name not in now["messages"]:
            yield f"message {name} is gone"
            continue
        for field, what in fields.items():
            if now["messages"][name].get(field) != what:
                yield f"field {name}.{field} is gone or another"
        kept = {what["number"] for what in fields.values()}
        for field, what in now["messages"][name].items():
            if field not in fields and what["number"] in kept:
                yield f"field {name}.{field} took the number of another"
    for name, calls in before["services"].items():
        for call, what in calls.items():
            if now["services"].get(name, {}).get(call) != what:
                yield f"method {name}.{call} is gone or another"


def test_what_was_promised_is_still_there():
    assert list(broken(json.loads(BASELINE.read_text(encoding="utf-8")), described(compiled()))) == []


def test_what_is_new_is_promised_too():
    now = described(compiled())
    assert list(broken(now, json.loads(BASELINE.read_text(encoding="utf-8")))) == [], "record the baseline anew"


@pytest.mark.parametrize(
    "change",
    [
        lambda file: setattr(file, "package", "other"),
        lambda file: file.message_type.pop(),
        lambda file: file.message_type[1].field.pop(),
        lambda file: setattr(file.message_type[1].field[0], "number", 2),
        lambda file: setattr(file.message_type[1].field[0], "type", FIELD.TYPE_STRING),
        lambda file: setattr(file.message_type[1].field[0], "name", "alive"),
        lambda file: file.service[0].method.pop(),
        lambda file: setattr(file.service[0].method[0], "server_streaming", True),
        lambda file: file.message_type[1].field.add(name="more", number=1, type=FIELD.TYPE_BOOL),
    ],
)
def test_the_check_finds_what_would_break(change):
    before, file = described(compiled()), compiled()
    change(file)
    assert list(broken(before, described(file)))


def test_an_addition_is_compatible():
    before, file = described(compiled()), compiled()
    file.message_type[1].field.add(name="since", number=2, type=FIELD.TYPE_INT64, label=FIELD.LABEL_OPTIONAL)
    file.message_type.add(name="New")
    assert list(broken(before, described(file))) == []


def test_the_service_is_the_protocols():
    assert SERVICE == "inference.GRPCInferenceService"
    assert {"ModelInfer", "ModelReady", "ServerLive", "RepositoryIndex"} <= {name for name, *_ in methods()}


def test_what_is_compiled_is_what_is_written(tmp_path):
    if not TRITON.exists():
        pytest.skip("the compiler of .proto files is not installed; run: make .venv-triton/.ready")
    made = tmp_path / "made.binpb"
    command = [str(TRITON), "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={made}", "grpc_service.proto"]
    subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    assert file == compiled()


def test_tritons_client_agrees_on_every_message_it_shares(tmp_path):
    """The client's own descriptors: same names, numbers and types wherever both have a field."""
    if not TRITON.exists():
        pytest.skip("Triton's client is not installed beside Holdfast; run: make .venv-triton/.ready")
    program = (
        "import sys; from tritonclient.grpc import service_pb2 as s; from google.protobuf import descriptor_pb2 as d;"
        "file = d.FileDescriptorProto(); s.DESCRIPTOR.CopyToProto(file);"
        "sys.stdout.buffer.write(file.SerializeToString())"
    )
    done = subprocess.run(
        [str(TRITON), "-c", program], check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""}
    )
    theirs, ours = described(descriptor_pb2.FileDescriptorProto.FromString(done.stdout)), described(compiled())
    assert theirs["package"] == ours["package"]
    shared = 0
    for name, fields in ours["messages"].items():
        for field, what in fields.items():
            other = theirs["messages"][name].get(field)
            assert other in (None, what), (name, field)
            shared += other is not None
    assert shared > 50
    for call, what in ours["services"]["GRPCInferenceService"].items():
        assert theirs["services"]["GRPCInferenceService"][call] == what
