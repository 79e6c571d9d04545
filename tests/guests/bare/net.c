/* The network card: frames to the host and from it, as they should be and as nobody may send them. The host is
 * 10.77.0.1, this guest 10.77.0.2, its neighbour 10.77.0.3. */
#include "virtio.h"

#define F_MAC (1ul << 5)
#define F_MRG_RXBUF (1ul << 15)
#define HEADER 12
#define ETHERNET 14
#define BUFFERS 8

static u8 outbox[2048], inbox[BUFFERS][2048];

static const u8 host[4] = { 10, 77, 0, 1 };
static const u8 guest[4] = { 10, 77, 0, 2 };
static const u8 neighbour[4] = { 10, 77, 0, 3 };
static const u8 other_card[6] = { 2, 0, 0, 0, 0, 0x99 };

static void lend(struct device *device, u16 slot)
{
	device->queue[0].desc[slot] = (struct desc){ (u64)inbox[slot], sizeof inbox[0], WRITE, 0 };
	offer(&device->queue[0], slot);
}

static int start_card(struct device *device)
{
	if (!start(device, F_MAC | F_MRG_RXBUF))
		return 0;
	for (u16 slot = 0; slot < BUFFERS; slot++)
		lend(device, slot);
	notify(device, 0);
	return 1;
}

/* Sends so many bytes of the frame in the outbox; whether the device took it. */
static int send(struct device *device, u32 length)
{
	device->queue[1].desc[0] = (struct desc){ (u64)outbox, HEADER + length, 0, 0 };
	offer(&device->queue[1], 0);
	notify(device, 1);
	return take(device, 1) >= 0;
}

/* The next frame, its length with the header, and its buffer. */
static u8 *receive(struct device *device, u32 *length, u16 *slot)
{
	struct queue *queue = &device->queue[0];
	u16 at = queue->seen % SIZE;
	long got = take(device, 0);

	if (got < HEADER + ETHERNET)
		return 0;
	*length = got;
	*slot = queue->used.ring[at].head;
	return inbox[*slot];
}

/* An Ethernet header from this card to everybody; where the rest goes. */
static u8 *put_ethernet(struct device *device, u16 kind)
{
	u8 *frame = outbox + HEADER;

	fill(outbox, 0, sizeof outbox);
	fill(frame, 0xff, 6);
	for (u32 at = 0; at < 6; at++)
		frame[6 + at] = read_wide(device->base + CONFIG + at, 1);
	frame[12] = kind >> 8;
	frame[13] = (u8)kind;
	return frame + ETHERNET;
}

static u32 put_arp(struct device *device, u8 operation, const u8 *sender, const u8 *target)
{
	static const u8 fixed[] = { 0, 1, 8, 0, 6, 4, 0 };
	u8 *body = put_ethernet(device, 0x0806);

	memcpy(body, fixed, sizeof fixed);
	body[7] = operation;
	memcpy(body + 8, outbox + HEADER + 6, 6);
	memcpy(body + 14, sender, 4);
	memcpy(body + 24, target, 4);
	return ETHERNET + 28;
}

/* An IPv4 packet of UDP with 8 bytes to the host. */
static u32 put_udp(struct device *device, const u8 *sender, u16 from, u16 to)
{
	u8 *ip = put_ethernet(device, 0x0800), *udp = ip + 20;
	u32 sum = 0;

	ip[0] = 0x45;
	ip[3] = 36;
	ip[8] = 64;
	ip[9] = 17;
	memcpy(ip + 12, sender, 4);
	memcpy(ip + 16, host, 4);
	for (u32 at = 0; at < 20; at += 2)
		sum += ip[at] << 8 | ip[at + 1];
	sum = ~((sum & 0xffff) + (sum >> 16));
	ip[10] = sum >> 8;
	ip[11] = (u8)sum;
	udp[0] = from >> 8;
	udp[1] = (u8)from;
	udp[2] = to >> 8;
	udp[3] = (u8)to;
	udp[5] = 16;
	memcpy(udp + 8, "hullhull", 8);
	return ETHERNET + 36;
}

/* A message of ICMPv6 from the link-local address of 02:00:00:00:00:07, in its shortest form. */
static u32 put_icmpv6(struct device *device, u8 kind)
{
	static const u8 local[16] = { 0xfe, 0x80, [11] = 0xff, [12] = 0xfe, [15] = 7 };
	u8 *ip = put_ethernet(device, 0x86dd);

	ip[0] = 0x60;
	ip[5] = 16;
	ip[6] = 58;
	ip[7] = 255;
	memcpy(ip + 8, local, 16);
	ip[24] = 0xff;
	ip[25] = 2;
	ip[39] = 1;
	ip[40] = kind;
	return ETHERNET + 56;
}

/* Asks the host for its card's address, and gets the answer. */
int net_works(struct device *device)
{
	if (!start_card(device) || !send(device, put_arp(device, 1, guest, host)))
		return 0;
	for (u32 tries = 0; tries < BUFFERS; tries++) {
		u32 length;
		u16 slot;
		u8 *got = receive(device, &length, &slot);

		if (!got)
			return 0;
		/* One buffer, an answer, by the host, to this guest. */
		if (got[10] == 1 && got[HEADER + 13] == 6 && got[HEADER + ETHERNET + 7] == 2)
			return same(got + HEADER + ETHERNET + 14, host, 4) &&
			       same(got + HEADER, outbox + HEADER + 6, 6);
		lend(device, slot);
		notify(device, 0);
	}
	return 0;
}

static void forge(struct device *device, u32 length, const char *what)
{
	if (!send(device, length))
		report(0, "net", what);
}

/* What pretends to come from elsewhere; nothing of it may arrive. Then something honest. */
void forge_frames(void)
{
	struct device *device;
	u32 length;

	find_devices();
	device = find(NET);
	if (!report(device && start_card(device), "net", "starts"))
		return;
	forge(device, put_arp(device, 2, host, guest), "an ARP answer for the host");
	forge(device, put_arp(device, 1, neighbour, host), "an ARP request for a neighbour");
	forge(device, put_udp(device, neighbour, 7, 7), "a neighbour's packet");
	length = put_udp(device, guest, 7, 7);
	memcpy(outbox + HEADER + 6, other_card, 6);
	forge(device, length, "another card's frame");
	length = put_arp(device, 2, guest, host);
	memcpy(outbox + HEADER + ETHERNET + 8, other_card, 6);
	forge(device, length, "another card in ARP");
	forge(device, put_udp(device, guest, 67, 68), "an address server's answer");
	forge(device, put_icmpv6(device, 134), "a router advertisement");
	forge(device, put_icmpv6(device, 137), "a redirect");
	put_ethernet(device, 0x8100);
	forge(device, 60, "a VLAN tag");
	put_ethernet(device, 0x0026);
	forge(device, 60, "a spanning tree");
	length = put_arp(device, 1, guest, host);
	outbox[0] = 1;
	outbox[6] = ETHERNET;
	outbox[8] = 16;
	forge(device, length, "a checksum over an address");
	report(send(device, put_udp(device, guest, 7, 7777)), "net", "forged");
}

/* Sends frames as fast as it can. */
void flood_host(void)
{
	struct device *device;
	int good = 1;

	find_devices();
	device = find(NET);
	if (!report(device && start_card(device), "net", "starts"))
		return;
	put_udp(device, guest, 7, 7777);
	for (u32 count = 0; count < 1000 && good; count++)
		good = send(device, ETHERNET + 36);
	report(good, "net", "flooded");
}

/* Receives until a packet begins with "END"; packets between are counted, those out of order complained of. */
void receive_flood(void)
{
	struct device *device;
	u32 count = 0;

	find_devices();
	device = find(NET);
	if (!report(device && start_card(device), "net", "starts"))
		return;
	put("LISTENING\n");
	for (;;) {
		u32 length;
		u16 slot;
		u8 *got = receive(device, &length, &slot);
		u8 *data = got + HEADER + ETHERNET + 28;

		if (!got)
			continue;
		if (length >= HEADER + ETHERNET + 31 && same(data, "END", 3))
			break;
		count++;
		lend(device, slot);
		notify(device, 0);
	}
	report(count > 0, "net", "received");
}
