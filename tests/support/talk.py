# What processes on a network do: serve, fetch, send frames of their own making, and listen to what arrives.
import hashlib, socket, struct, sys, threading, time

words = sys.argv[1:]


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def address_of(mac):
    return bytes(int(part, 16) for part in mac.split(":"))


def serve(address, port, size):
    """Sends so many bytes to each who connects, and echoes datagrams."""
    tcp = socket.socket(family(address))
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, int(port)))
    tcp.listen(16)
    udp = socket.socket(family(address), socket.SOCK_DGRAM)
    udp.bind((address, int(port)))

    def answer():
        while True:
            data, peer = udp.recvfrom(65536)
            udp.sendto(data, peer)

    threading.Thread(target=answer, daemon=True).start()
    print("serving", flush=True)
    while True:
        connection, peer = tcp.accept()
        try:
            connection.sendall((peer[0] + "\n").encode() + bytes(int(size)))
        except OSError:
            pass
        connection.close()


def fetch(address, port):
    """Who the server saw, how many bytes it sent, and their checksum."""
    connection = socket.create_connection((address, int(port)), timeout=5)
    data = b""
    while part := connection.recv(1 << 20):
        data += part
    peer, _, rest = data.partition(b"\n")
    print(peer.decode(), len(rest), hashlib.sha256(rest).hexdigest())


def echo(address, port):
    udp = socket.socket(family(address), socket.SOCK_DGRAM)
    udp.settimeout(5)
    udp.sendto(b"x" * 1200, (address, int(port)))
    print(len(udp.recvfrom(65536)[0]))


def datagrams(address, port, size):
    """So many bytes in numbered datagrams of 1,400, each echoed, up to 64 at a time: both checksums. A lost one is sent again."""
    udp = socket.socket(family(address), socket.SOCK_DGRAM)
    udp.connect((address, int(port)))
    udp.settimeout(0.2)
    count = -(-int(size) // 1400)
    sent, back = hashlib.sha256(), hashlib.sha256()
    due, returned, missing, next_in, again = 0, {}, {}, 0, 0
    while next_in < count:
        while due < count and len(missing) < 64:
            missing[due] = struct.pack("!Q", due) + hashlib.sha256(due.to_bytes(8, "big")).digest() * 43 + bytes(16)
            sent.update(missing[due])
            udp.send(missing[due])
            due += 1
        try:
            data = udp.recv(65536)
        except TimeoutError:
            again += 1
            assert again < 1000, f"only {next_in} of {count} came back"
            for lost in missing.values():
                udp.send(lost)
            continue
        number = int.from_bytes(data[:8], "big")
        if missing.pop(number, None):
            returned[number] = data
        while next_in in returned:
            back.update(returned.pop(next_in))
            next_in += 1
    print(sent.hexdigest(), back.hexdigest())


def resolve(server, name):
    """The IPv4 address that a name server has for a name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    udp = socket.socket(family(server), socket.SOCK_DGRAM)
    udp.settimeout(3)
    udp.sendto(struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1), (server, 53))
    answer = udp.recv(4096)
    flags, _, answers = struct.unpack("!HHH", answer[2:8])
    print(socket.inet_ntoa(answer[-4:]) if answers == 1 else f"none {flags & 15}")


def names(address, file):
    """Answers every question for a name with the IPv4 address in a file, good for a second."""
    udp = socket.socket(family(address), socket.SOCK_DGRAM)
    udp.bind((address, 53))
    print("serving", flush=True)
    while True:
        query, peer = udp.recvfrom(4096)
        end = 12
        while query[end]:
            end += 1 + query[end]
        question = query[12 : end + 5]
        is_address = question[-4:] == b"\0\1\0\1"
        answer = query[:2] + struct.pack("!HHHHH", 0x8180, 1, is_address, 0, 0) + question
        if is_address:
            with open(file) as content:
                answer += struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(content.read().strip())
        udp.sendto(answer, peer)


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ether(target, source, kind, payload):
    return address_of(target) + address_of(source) + struct.pack("!H", kind) + payload


def arp(source, sender_mac, sender_ip, operation=2):
    payload = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + address_of(sender_mac) + socket.inet_aton(sender_ip)
    return ether("ff:ff:ff:ff:ff:ff", source, 0x0806, payload + bytes(6) + socket.inet_aton(sender_ip))


def ipv4(source, sender, target, sport, dport, mark):
    udp = struct.pack("!HHHH", sport, dport, 8 + len(mark), 0) + mark
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    ends = socket.inet_aton(sender) + socket.inet_aton(target)
    head = head[:10] + struct.pack("!H", checksum(head + ends)) + ends
    return ether("ff:ff:ff:ff:ff:ff", source, 0x0800, head + udp)


def icmpv6(source, sender, target, kind, body):
    ends = socket.inet_pton(socket.AF_INET6, sender) + socket.inet_pton(socket.AF_INET6, target)
    message = struct.pack("!BBH", kind, 0, 0) + body
    message = message[:2] + struct.pack("!H", checksum(ends + struct.pack("!II", len(message), 58) + message)) + message[4:]
    return ether("33:33:00:00:00:01", source, 0x86DD, struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + ends + message)


def advert(source, sender, claimed):
    body = struct.pack("!I", 0x20000000) + socket.inet_pton(socket.AF_INET6, claimed) + b"\x02\x01" + address_of(source)
    return icmpv6(source, sender, "ff02::1", 136, body)


def send(interface, kind, *rest):
    """Sends one frame of a kind, three times."""
    makers = {"arp": arp, "ipv4": ipv4, "advert": advert, "icmpv6": icmpv6}
    if kind == "ipv4":
        rest = (*rest[:3], int(rest[3]), int(rest[4]), rest[5].encode())
    if kind == "router":
        frame = icmpv6(rest[0], rest[1], "ff02::1", 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0))
    elif kind == "vlan":
        inner = arp(*rest)
        frame = inner[:12] + struct.pack("!HH", 0x8100, 5) + inner[12:]
    else:
        frame = makers[kind](*rest)
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((interface, 0))
    for _ in range(3):
        raw.send(frame)


def listen(interface, source, seconds):
    """Prints what arrives that is not from this one's own card, each kind once."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.bind((interface, 0))
    print("listening", flush=True)
    end, seen = time.time() + float(seconds), set()
    while (left := end - time.time()) > 0:
        raw.settimeout(left)
        try:
            frame, where = raw.recvfrom(65536)
        except TimeoutError:
            break
        if where[2] == socket.PACKET_OUTGOING or frame[6:12] == address_of(source):
            continue
        seen.add((frame[6:12].hex(":"), frame[12:14].hex(), hashlib.sha256(frame).hexdigest()[:8]))
    for line in sorted(seen):
        print(*line)


globals()[words[0]](*words[1:])
