"""Reads a daemon's metrics by a strict parser, and looks at what they say.

Arguments: the daemon's socket, its port on 127.0.0.1, a token of the tenant `acme`, which may ask once a second. Two microVMs of
the host's own tenant run: `carded`, with a network card, and `alone`, without.
"""

import socket
import sys
import time

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families

path, port, token = sys.argv[1:]
host = httpx.Client(base_url="http://hull", transport=httpx.HTTPTransport(uds=path), timeout=60)
stranger = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

ONE = ["id", "name", "tenant"]
# Every family: its type, its unit, its labels.
FAMILIES = {
    "hull_http_requests": ("counter", "", ["method", "route", "status"]),
    "hull_http_request_duration_seconds": ("histogram", "seconds", ["route"]),
    "hull_connections_refused": ("counter", "", ["status"]),
    "hull_boot_duration_seconds": ("histogram", "seconds", []),
    "hull_boot_phase_duration_seconds": ("histogram", "seconds", ["phase"]),
    "hull_microvm_exits": ("counter", "", ["reason"]),
    "hull_microvm_restarts": ("counter", "", []),
    "hull_microvms": ("gauge", "", ["state", "tenant"]),
    "hull_host_memory_promised_bytes": ("gauge", "bytes", []),
    "hull_host_memory_limit_bytes": ("gauge", "bytes", []),
    "hull_host_cpus_promised": ("gauge", "", []),
    "hull_host_cpus_limit": ("gauge", "", []),
    "hull_tenant_memory_promised_bytes": ("gauge", "bytes", ["tenant"]),
    "hull_tenant_memory_limit_bytes": ("gauge", "bytes", ["tenant"]),
    "hull_tenant_cpus_promised": ("gauge", "", ["tenant"]),
    "hull_tenant_cpus_limit": ("gauge", "", ["tenant"]),
    "hull_microvm_cpu_seconds": ("counter", "seconds", ONE),
    "hull_microvm_throttled_seconds": ("counter", "seconds", ONE),
    "hull_microvm_memory_bytes": ("gauge", "bytes", ONE),
    "hull_microvm_disk_read_bytes": ("counter", "bytes", ONE),
    "hull_microvm_disk_written_bytes": ("counter", "bytes", ONE),
    "hull_microvm_network_receive_bytes": ("counter", "bytes", ONE),
    "hull_microvm_network_receive_packets": ("counter", "packets", ONE),
    "hull_microvm_network_transmit_bytes": ("counter", "bytes", ONE),
    "hull_microvm_network_transmit_packets": ("counter", "packets", ONE),
}
# A host without control groups counts no such time, and one that nobody troubles no such connections.
OPTIONAL = {"hull_microvm_throttled_seconds", "hull_connections_refused"}
# Where no microVM with a card runs, there are none.
NETWORK = {name for name in FAMILIES if "_network_" in name}
SUFFIXES = {"counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_count", "_sum"}}


def read(maybe=OPTIONAL):
    """All samples, by name and labels, once the parser and the conventions have let them pass."""
    answer = host.get("/metrics")
    assert answer.status_code == 200, answer
    media = answer.headers["content-type"]
    assert media == "application/openmetrics-text; version=1.0.0; charset=utf-8", media
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert set(families) | maybe == set(FAMILIES), set(families) ^ set(FAMILIES)
    samples = {}
    for name, family in families.items():
        kind, unit, labels = FAMILIES[name]
        assert (family.type, family.unit) == (kind, unit), (name, family.type, family.unit)
        assert family.documentation.endswith("."), family
        for sample in family.samples:
            assert sample.name.removeprefix(name) in SUFFIXES[kind], sample
            assert sorted(set(sample.labels) - {"le"}) == labels, sample
            assert all(sample.labels.values()) and sample.value >= 0, sample
            assert sample.timestamp is None and sample.exemplar is None, sample
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{sample} is there twice"
            samples[key] = sample.value
    return samples


def of(samples, metric, /, **labels):
    """The values of the samples that have these labels, and maybe more."""
    return [value for (found, has), value in samples.items() if found == metric and labels.items() <= has]


def one(samples, metric, /, **labels):
    values = of(samples, metric, **labels)
    assert len(values) == 1, (metric, labels, values)
    return values[0]


now = read()

# What there is, by state and tenant: all of both, also where there is none.
assert len(of(now, "hull_microvms")) == 2 * 8
assert one(now, "hull_microvms", state="running", tenant="default") == 2 == sum(of(now, "hull_microvms"))
assert one(now, "hull_tenant_memory_promised_bytes", tenant="default") == 2 * (96 << 20)
assert one(now, "hull_tenant_memory_promised_bytes", tenant="acme") == 0
assert one(now, "hull_tenant_memory_limit_bytes") == 1 << 30 and one(now, "hull_tenant_cpus_limit") == 4
promised, limit = one(now, "hull_host_memory_promised_bytes"), one(now, "hull_host_memory_limit_bytes")
assert 2 * (96 << 20) < promised < limit, (promised, limit)
assert one(now, "hull_host_cpus_promised") == one(now, "hull_tenant_cpus_promised", tenant="default") == 2

# What each one uses, as the API says it.
stats = {stat["name"]: stat for stat in host.get("/v1/stats").json()}
for name in ["carded", "alone"]:
    labels = {"id": stats[name]["id"], "name": name, "tenant": "default"}
    assert one(now, "hull_microvm_memory_bytes", **labels) > 100_000
    assert one(now, "hull_microvm_cpu_seconds_total", **labels) <= stats[name]["cpu_ns"] / 1e9
    assert one(now, "hull_microvm_disk_written_bytes_total", **labels) <= stats[name]["disk_written"]
assert one(now, "hull_microvm_network_receive_bytes_total", name="carded") <= stats["carded"]["net"]["received"]
assert one(now, "hull_microvm_network_transmit_packets_total", name="carded") <= stats["carded"]["net"]["sent_packets"]
assert "net" not in stats["alone"] and not of(now, "hull_microvm_network_receive_bytes_total", name="alone")

# Both starts, and where their time went: the phases are all of it.
assert one(now, "hull_boot_duration_seconds_count") == 2
for phase in ["network", "prepare", "vmm", "guest", "setup", "process"]:
    assert one(now, "hull_boot_phase_duration_seconds_count", phase=phase) == 2, phase
phases, whole = sum(of(now, "hull_boot_phase_duration_seconds_sum")), one(now, "hull_boot_duration_seconds_sum")
assert 0.5 * whole < phases < whole + 0.5, (phases, whole)

# Every answer counts once: those of the API, those of the door, and those of methods and paths that nobody knows.
before = read()
asked = [
    (host.get("/v1/nowhere/secret"), 404),
    (host.request("BREW", "/v1/microvms"), 405),
    (host.request("BREW", "/v1/nowhere/secret"), 404),
    (host.get("/v1/openapi.json"), 200),
    (host.get("/v1/microvms", headers={"Hull-Tenant": "nobody"}), 404),
    (stranger.get("/v1/microvms/secret"), 401),
    (stranger.request("BREW", "/secret", headers={"Authorization": "Bearer secret"}), 401),
]
hasty = [stranger.get("/v1/kernels", headers={"Authorization": f"Bearer {token}"}) for _ in range(20)]
assert {answer.status_code for answer in hasty} == {200, 429}, hasty
for answer, status in asked:
    assert answer.status_code == status, answer
after = read()
grown = {key: value - before.get(key, 0) for key, value in after.items() if key[0] == "hull_http_requests_total"}
# The first of both readings was answered after it had been counted up.
assert sum(grown.values()) == len(asked) + len(hasty) + 1, grown


def counted(method, route, status):
    return one(grown, "hull_http_requests_total", method=method, route=route, status=str(status))


assert counted("GET", "none", 404) == counted("other", "none", 404) == 1
assert counted("other", "/v1/microvms", 405) == 1
assert counted("GET", "/v1/openapi.json", 200) == counted("GET", "/metrics", 200) == 1
assert counted("GET", "refused", 401) == counted("other", "refused", 401) == counted("GET", "refused", 404) == 1
late = sum(answer.status_code == 429 for answer in hasty)
assert counted("GET", "refused", 429) == late and counted("GET", "/v1/kernels", 200) == len(hasty) - late
assert not any("secret" in value for _, labels in after for _, value in labels), "a client's words are a label"
answers, times = sum(of(after, "hull_http_requests_total")), sum(of(after, "hull_http_request_duration_seconds_count"))
assert answers == times, (answers, times)

# What is no request at all.
with socket.create_connection(("127.0.0.1", int(port))) as connection:
    connection.sendall(b"no HTTP at all\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 400")
while not (refused := of(after, "hull_connections_refused_total", status="400")):
    time.sleep(0.05)
    after = read()
assert refused == [1], refused

# Who may not administer the host may not read all this.
time.sleep(2)
assert stranger.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == 403

# What has ended is counted, and not measured any more.
assert one(now, "hull_microvm_exits_total", reason="power-off") == 0
assert host.post("/v1/microvms/carded/stop").json()["state"] == "stopped"
last = read(OPTIONAL | NETWORK)
assert one(last, "hull_microvm_exits_total", reason="power-off") == 1 == sum(of(last, "hull_microvm_exits_total"))
assert one(last, "hull_microvms", state="stopped", tenant="default") == 1
assert not any(("name", "carded") in labels for _, labels in last)
