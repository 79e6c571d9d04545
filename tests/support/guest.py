# Stands in for hull-vmm and the guest in it: takes a plan with its descriptors, speaks the agent's and the control
# protocol, and has the plan's network cards in a network namespace of its own, set up as the agent is told to.
import ctypes, fcntl, json, os, socket, struct, subprocess, sys, threading, time

plan = json.loads(os.pread(3, 1 << 20, 0))
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
CLONE_NEWNET, TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x40000000, 0x400454CA, 2, 0x1000
# What it was told, by its number on the host: alone in a PID namespace it is process 1.
told = f"/tmp/hull-guest-{os.readlink('/proc/self')}.json"
HEADER = 12  # struct virtio_net_hdr_v1
ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0 or sys.exit("no namespace")
cards = {}


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def carry(source, sink, take, put):
    """From one end to the other, without so many bytes of header and with so many."""
    while True:
        try:
            os.write(sink, bytes(put) + os.read(source, 70000)[take:])
        except OSError:
            time.sleep(0.01)  # one of the ends is not up


for number, net in enumerate(plan.get("nets", [])):
    card = os.open("/dev/net/tun", os.O_RDWR)
    name = f"card{number}"
    fcntl.ioctl(card, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    ip("link", "set", name, "address", net["mac"])
    cards[net["mac"]] = name
    os.set_blocking(net["tap"], True)
    threading.Thread(target=carry, args=(net["tap"], card, HEADER, 0), daemon=True).start()
    threading.Thread(target=carry, args=(card, net["tap"], 0, HEADER), daemon=True).start()
if cards:
    ip("link", "set", "lo", "up")


def set_up(setup):
    with open(told, "w") as file:
        json.dump(setup, file)
    for card in setup.get("interfaces", []):
        name = card["name"]
        ip("link", "set", cards[card["mac"]], "name", name)
        with open(f"/proc/sys/net/ipv6/conf/{name}/accept_ra", "w") as file:
            file.write("0")
        ip("link", "set", name, "mtu", str(card["mtu"]), "up")
        for address in card["addresses"]:
            ip("addr", "add", f"{address['address']}/{address['prefix']}", "dev", name, *(["nodad"] if ":" in address["address"] else []))
        for gateway in card["gateways"]:
            ip("-6" if ":" in gateway else "-4", "route", "add", "default", "via", gateway, "dev", name)


def read_exactly(connection, length):
    got = b""
    while len(got) < length:
        part = connection.recv(length - len(got))
        if not part:
            raise EOFError
        got += part
    return got


def send(connection, message):
    body = json.dumps(message).encode()
    connection.sendall(struct.pack("<I", len(body)) + body)


running, streams, control = [], [], None


def leave():
    os.path.exists(told) and os.unlink(told)
    os._exit(0)


def serve(connection):
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(connection, 1)
    connection.sendall(b"OK 1\n")
    if line == b"CONNECT 1025\n":
        streams.append(connection)
        return
    process = [{"id": name, "exit": None} for name in running]
    send(connection, {"ready": {"version": 3, "kernel": "stand-in", "processes": process}})
    while True:
        try:
            request = json.loads(read_exactly(connection, struct.unpack("<I", read_exactly(connection, 4))[0]))
        except EOFError:
            return
        command, exited = request["command"], None
        kind = command if isinstance(command, str) else next(iter(command))
        if kind == "setup":
            set_up(command["setup"])
        elif kind == "start":
            running.append(command["start"]["id"])
        elif kind == "signal":
            exited = 128 + command["signal"]["signal"]
        send(connection, {"reply": {"seq": request["seq"], "result": {"Ok": None}}})
        if kind == "shutdown":
            leave()
        if exited:
            for stream in streams:
                stream.close()
            send(connection, {"event": {"exited": {"process": running.pop(), "exit": {"status": exited, "oom_killed": False}}}})


def obey():
    listener = socket.socket(fileno=plan["control"])
    while True:
        connection, _ = listener.accept()
        while packet := connection.recv(4096):
            if json.loads(packet)["command"] == "kill":
                leave()


threading.Thread(target=obey, daemon=True).start()
listener = socket.socket(fileno=plan["vsock"]["listener"])
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
