"""What schemathesis must know of the API beyond its document."""

import http.client
import os
import urllib.error
import urllib.request
import zlib
from urllib.parse import quote

import schemathesis
from schemathesis import GenerationMode

URL = os.environ["HULL_URL"]
# What these requests need themselves.
OWN = {os.environ["HULL_TOKEN_ID"], os.environ["HULL_MICROVM"], os.environ["HULL_KERNEL"], "keeper", "data", "tree"}

# What there is: names that lead somewhere, unlike nearly all that are made up.
KNOWN = {
    "microvms": os.environ["HULL_MICROVM"],
    "images": "tree",
    "kernels": os.environ["HULL_KERNEL"],
    "networks": "default",
    "volumes": "data",
    "tenants": "someone",
    "problems": "not-found",
}
# What is not asked for by a name that leads somewhere: what others need would be gone, or nobody would answer.
SPARED = {
    ("DELETE", "/v1/microvms/{id}"),
    ("POST", "/v1/microvms/{id}/stop"),
    ("POST", "/v1/microvms/{id}/kill"),
    ("GET", "/v1/microvms/{id}/wait"),
    ("DELETE", "/v1/kernels/{name}"),
    ("DELETE", "/v1/tenants/{name}"),
    ("DELETE", "/v1/images/{name}"),
    ("DELETE", "/v1/tokens/{id}"),
}
# Streams without an end are asked for what is there.
STREAMS = {
    "/v1/events": {"follow": "false"},
    "/v1/stats": {"stream": "false"},
    "/v1/microvms/{id}/stats": {"stream": "false"},
    "/v1/microvms/{id}/logs": {"follow": "false"},
    "/v1/microvms/{id}/console": {"follow": "false"},
}


schemathesis.serializer.alias("application/x-tar", "application/octet-stream")


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Over TCP nobody comes without a token: what is optional over the unix socket is not here."""
    for item in raw_schema["paths"].values():
        for operation in item.values():
            operation["security"] = [one for one in operation["security"] if one]


@schemathesis.hook
def filter_case(context, case):
    """What all these requests need is not to be removed, nor to be waited for."""
    spared = (case.method, case.operation.path) in SPARED
    return not (spared and OWN.intersection(map(str, (case.path_parameters or {}).values())))


@schemathesis.hook
def before_call(context, case, kwargs):
    path, method = case.operation.path, case.method
    query = case.query
    for name, value in STREAMS.get(path, {}).items():
        if query.get(name, value) in (True, "true") or (name == "follow" and name not in query):
            query[name] = value
    if isinstance(case.body, (dict, list)):
        case.body = whole(case.body)
    headers = case.headers or {}
    # A header that nobody knows is nobody's fault, and an empty one is none.
    unknown = headers.pop("X-Schemathesis-Unknown-Property", None) is not None
    if headers.get("If-Match") == "":
        del headers["If-Match"]
    valid = unknown or case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE
    if valid:
        known_name(path, method, case.path_parameters)
        if isinstance(case.body, dict):
            possible(path, case.body)
        if path == "/v1/microvms/{id}/wait":
            end(str(case.path_parameters["id"]))
        if path == "/v1/exec/{id}/start" and "Upgrade" not in (case.headers or {}):
            query["detach"] = "true"
    if "Hull-Tenant" in headers and (valid or method != case.operation.method.upper()):
        # Where there is no such tenant there is nothing to ask for.
        if chance(headers["Hull-Tenant"]) or method != case.operation.method.upper():
            headers["Hull-Tenant"] = "default"


def end(microvm):
    """Ends a microVM's process, so that nobody waits for it for ever."""
    for step in ("unpause", "kill"):
        ask = urllib.request.Request(f"{URL}/v1/microvms/{quote(microvm, safe='')}/{step}", method="POST")
        ask.add_header("Authorization", f"Bearer {os.environ['HULL_TOKEN']}")
        try:
            urllib.request.urlopen(ask, timeout=30).close()
        except urllib.error.HTTPError:
            pass


def whole(value):
    """For JSON Schema 2.0 is as whole as 2; the document says that it is written 2."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def chance(text, of=2):
    """Whether it is this one's turn: one in so many, always the same for the same text."""
    return zlib.crc32(str(text).encode()) % of == 0


def known_name(path, method, names):
    """Half of what is made up becomes the name of something."""
    if "secret" in (names or {}) and chance(names["secret"]):
        names["secret"] = "key"
    parts = path.split("/")
    kind = parts[1] if parts[1] == "problems" else parts[2] if len(parts) > 2 else ""
    for place in names or {}:
        if place in ("id", "name", "kind") and kind in KNOWN and (method, path) not in SPARED:
            if len(str(names[place])) < 32 and chance(names[place]):
                names[place] = KNOWN[kind]


def possible(path, body):
    """What no schema says: what only some values of several fields together mean, or what is on this host."""
    if path == "/v1/microvms" and isinstance(body.get("container"), dict):
        microvm(body)
    elif path == "/v1/networks":
        egress(body.get("egress"))
        for family, subnet in (("subnet", "10.99.{}.0/24"), ("subnet6", "fd99:{}::/64")):
            if body.get(family) is not None:
                body[family] = subnet.format(zlib.crc32(str(body["name"]).encode()) % 256)
    elif path == "/v1/networks/{name}/cards":
        body.pop("ip", None)
        body.pop("ip6", None)
    elif path == "/v1/microvms/{id}" and body.get("restart") in ("always", "unless-stopped"):
        body["restart"] = "on-failure:2"
    elif path.startswith("/v1/tenants") and body.get("uids"):
        body["uids"] = [1000 + uid % 60000 for uid in body["uids"]]


def microvm(body):
    container = body["container"]
    if body.get("restart", "no") != "no":
        body.pop("auto_remove", None)
        body["restart"] = "on-failure:2"
    if chance(container["image"], 4) or len(container["image"]) < 3:
        container["image"] = "tree"
    # It ends by itself soon: nobody waits for ever.
    container["command"] = ["sleep", "200"]
    if container.get("entrypoint"):
        container["entrypoint"] = []
    if container.get("mounts"):
        container["mounts"] = container["mounts"][:8]
    for number, mount in enumerate(container.get("mounts", [])):
        mount["target"] = f"/mnt/{number}"
        if mount["type"] == "bind":
            mount["read_only"] = True
    for number, secret in enumerate(container.get("secrets", [])):
        secret["name"] = f"{number}{secret['name']}"[:64]
        secret.pop("target", None)
    if container.get("health") is not None:
        container["health"]["test"] = {"command": ["true"]}
    networking = body.get("networking") or {}
    if networking.get("networks") == []:
        networking.pop("publish", None)
    if networking.get("networks"):
        networking["networks"] = [{"network": "default", "aliases": networking["networks"][0].get("aliases", [])}]
    for number, port in enumerate(networking.get("publish", [])):
        port.pop("host_ip", None)
        if port.get("host_port") is not None:
            port["host_port"] = 20000 + (zlib.crc32(str(body).encode()) + number) % 20000
    egress(networking.get("egress"))


def egress(policy):
    for number, rule in enumerate((policy or {}).get("rules", [])):
        if rule.get("cidr") is not None:
            rule["cidr"] = f"192.0.2.{number % 256}/32"
            rule.pop("name", None)


def closes(response):
    """A connection that has become a stream carries no further request."""
    return response.status == http.client.SWITCHING_PROTOCOLS or closed(response)


closed = http.client.HTTPResponse._check_close
http.client.HTTPResponse._check_close = closes
