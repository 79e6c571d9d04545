"""Runs a microVM by the client that was generated from the API's document. Argument: the daemon's socket."""

import sys

import httpx
from generated import Client
from generated.api.microvms import (
    create_microvm,
    inspect_microvm,
    kill_microvm,
    list_microvms,
    remove_microvm,
    start_microvm,
    stop_microvm,
    update_microvm,
)
from generated.api.system import show_system
from generated.api.volumes import create_volume, list_volumes, remove_volume
from generated.models import ContainerSpec, MicrovmPatch, MicrovmSpec, NetworkingSpec, Problem, State, VolumeSpec

socket = sys.argv[1]
client = Client(
    base_url="http://hull",
    httpx_args={"transport": httpx.HTTPTransport(uds=socket)},
    timeout=httpx.Timeout(60),
    # An answer that the document does not know is an exception.
    raise_on_unexpected_status=True,
)


def ok(operation, status, *names, **what):
    answer = operation.sync_detailed(*names, client=client, **what)
    assert answer.status_code == status, (operation.__name__, answer)
    return answer.parsed


assert ok(show_system, 200).microvms == 0
volume = ok(create_volume, 201, body=VolumeSpec(name="data", size=32 << 20))
assert [one.name for one in ok(list_volumes, 200)] == [volume.name]

container = ContainerSpec.from_dict(
    {"image": "tree", "command": ["stay"], "mounts": [{"type": "volume", "source": "data", "target": "/data"}]}
)
spec = MicrovmSpec(name="first", memory=96 << 20, container=container, networking=NetworkingSpec(networks=[]))
made = ok(create_microvm, 201, body=spec, idempotency_key="once")
assert ok(create_microvm, 201, body=spec, idempotency_key="once").id == made.id, "the key makes one"
assert (made.name, made.state, made.spec.container.command) == ("first", "created", ["stay"]), made

assert ok(start_microvm, 200, made.id).state == "running"
assert [one.id for one in ok(list_microvms, 200, state=State("running"))] == [made.id]
assert ok(update_microvm, 200, "first", body=MicrovmPatch(name="second")).name == "second"
assert ok(show_system, 200).running == 1

# What is refused is a value as well.
refused = ok(remove_microvm, 409, "second")
assert isinstance(refused, Problem) and refused.type_ == "/problems/conflict", refused
refused = ok(kill_microvm, 400, "second", signal="NONE")
assert isinstance(refused, Problem) and "NONE" in refused.detail, refused

stopped = ok(stop_microvm, 200, "second", grace=5)
assert stopped.state == "stopped" and stopped.exit_.status == 143, stopped
ok(remove_microvm, 204, made.id)
assert isinstance(ok(inspect_microvm, 404, made.id), Problem)
ok(remove_volume, 204, "data")
assert ok(list_microvms, 200) == []
