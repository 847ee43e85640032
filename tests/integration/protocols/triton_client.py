"""Run by Triton's Python: asks a server with `tritonclient` and prints what it says as JSON.

`python triton_client.py http|grpc ADDRESS` with `{"target", "rows", "types"}` on standard input.
"""

import importlib
import json
import sys

import numpy as np

NUMPY = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_, "FP32": np.float32}


def controlled(client, target, ask, refused, as_json):
    """Unload the target and load it again."""
    said = {}
    client.unload_model(target)
    said["unloaded"] = client.is_model_ready(target)
    said["index unloaded"] = client.get_model_repository_index(**as_json)
    said["while unloaded"] = refused(ask)
    said["unloaded twice"] = refused(lambda: client.unload_model(target))
    client.load_model(target)
    said["loaded"] = client.is_model_ready(target)
    said["upload"] = refused(lambda: client.load_model(target, config="{}"))
    return said


def main(kind, address):
    asked = json.load(sys.stdin)
    module = importlib.import_module(f"tritonclient.{kind}")
    from tritonclient.utils import InferenceServerException

    client = module.InferenceServerClient(address)
    target, said = asked["target"], {}

    def inputs(rows, **settings):
        made = []
        for name, datatype in asked["types"].items():
            values = [row[name] for row in rows]
            tensor = module.InferInput(name, [len(values), 1], datatype)
            array = np.array(values, NUMPY[datatype]).reshape(-1, 1)
            tensor.set_data_from_numpy(array, **settings)
            made.append(tensor)
        return made

    def refused(call):
        try:
            call()
        except InferenceServerException as error:
            return [str(error.status()), error.message()]
        raise AssertionError("it was not refused")

    def plain(result, names):
        return {name: [str(v, "utf-8") if isinstance(v, bytes) else v for v in result.as_numpy(name).ravel().tolist()]
                for name in names}  # fmt: skip

    def asking(rows, **more):
        return client.infer(target, inputs(rows), **more)

    as_json = {"as_json": True} if kind == "grpc" else {}
    said["live"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready(target)]
    said["unknown"] = client.is_model_ready("nope")
    said["server"] = client.get_server_metadata(**as_json)
    said["metadata"] = client.get_model_metadata(target, **as_json)
    names = [output["name"] for output in said["metadata"]["outputs"]]
    found = asking(asked["rows"], request_id="请求 7" if kind == "http" else "7")
    response = found.get_response(as_json=True) if kind == "grpc" else found.get_response()
    said["id"], said["version"] = response["id"], response["model_version"]
    said["raw"] = plain(found, names)
    if kind == "http":
        wanted = [module.InferRequestedOutput(name, binary_data=False) for name in names]
        found = client.infer(target, inputs(asked["rows"], binary_data=False), outputs=wanted)
        said["json"] = plain(found, names)
    wanted = [module.InferRequestedOutput("explanation")]
    explained = asking(asked["rows"][:1], outputs=wanted, parameters={"explain": True})
    said["explanation"] = plain(explained, ["explanation"])["explanation"]
    version = said["version"]
    said["by version"] = plain(asking(asked["rows"], model_version=version), names[:1])
    said["other version"] = refused(lambda: asking(asked["rows"], model_version="dep_1"))
    said["no target"] = refused(lambda: client.infer("nope", inputs(asked["rows"])))
    said["strict"] = refused(lambda: asking([asked["odd"]], parameters={"strict": True}))
    said["index"] = client.get_model_repository_index(**as_json)
    if asked.get("control"):
        said |= controlled(client, target, lambda: asking(asked["rows"]), refused, as_json)
        said["again"] = plain(asking(asked["rows"]), names[:1])
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
