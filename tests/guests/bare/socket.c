/* The socket device: used as it should be, answering a client of the host, and flooded. */
#include "virtio.h"

/* virtio 1.2, section 5.10.6; naturally aligned, 44 bytes on the wire. */
struct packet {
	u64 source_cid, target_cid;
	u32 source_port, target_port, length;
	u16 kind, op;
	u32 flags, space, forwarded;
	u8 data[64];
};

#define HEADER 44
enum op { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW };

#define INBOX 4

static struct packet inbox[INBOX], outbox;

/* Gives the device the buffer for one packet. */
static void lend(struct device *device, u16 slot)
{
	device->queue[0].desc[slot] = (struct desc){ (u64)&inbox[slot], sizeof inbox[0], WRITE, 0 };
	offer(&device->queue[0], slot);
	notify(device, 0);
}

/* The next packet; its buffer's number, or -1. */
static int receive(struct device *device)
{
	struct queue *queue = device->queue;
	u16 at = queue->seen % SIZE;

	return take(device, 0) < HEADER ? -1 : (int)queue->used.ring[at].head;
}

static int send(struct device *device, u32 length)
{
	device->queue[1].desc[0] = (struct desc){ (u64)&outbox, HEADER + length, 0, 0 };
	offer(&device->queue[1], 0);
	notify(device, 1);
	return take(device, 1) >= 0;
}

static int start_socket(struct device *device)
{
	if (!start(device, 1))
		return 0;
	for (u16 slot = 0; slot < INBOX; slot++)
		lend(device, slot);
	return 1;
}

/* Asks for a port of the host that nobody serves: the answer is a reset. */
int socket_works(struct device *device)
{
	int slot;

	if (!start_socket(device))
		return 0;
	outbox = (struct packet){ get(device, CONFIG), 2, 1111, 2222, 0, 1, REQUEST, 0, 4096, 0, { 0 } };
	if (!send(device, 0))
		return 0;
	slot = receive(device);
	return slot >= 0 && inbox[slot].op == RST && inbox[slot].target_port == 1111 &&
	       inbox[slot].source_port == 2222;
}

/* What a client of the host is answered: what it sends. Whether it goes. */
static int answer(const struct packet *got, struct packet *to)
{
	static u32 received;

	*to = (struct packet){ got->target_cid, got->source_cid, got->target_port, got->source_port,
			       0, 1, RST, 0, 4096, received, { 0 } };
	if (got->op == REQUEST) {
		received = 0;
		to->op = RESPONSE;
		to->forwarded = 0;
	} else if (got->op == RW && got->length <= sizeof got->data) {
		received += got->length;
		to->op = RW;
		to->length = got->length;
		to->forwarded = received;
		memcpy(to->data, got->data, got->length);
	} else {
		report(got->op == SHUTDOWN, "vsock", "closed");
		return 1;
	}
	return 0;
}

/* Answers one client of the host, until it goes. */
void echo_socket(void)
{
	struct device *device;
	int gone = 0;

	find_devices();
	device = find(VSOCK);
	if (!report(device && start_socket(device), "vsock", "listens"))
		return;
	put("LISTENING\n");
	while (!gone) {
		int slot = receive(device);

		if (slot < 0)
			continue;
		gone = answer(&inbox[slot], &outbox);
		send(device, outbox.length);
		lend(device, slot);
	}
}

/* How many connections are asked for, and how many of them by a guest that takes no answers. */
#define FLOOD 100000
#define DEAF 10000
/* The size of the queues of a flood. */
#define WIDE 128
/* How often a device is looked at before it counts as one that holds back. */
#define PATIENCE 500

struct wide {
	struct desc desc[WIDE] __attribute__((aligned(16)));
	struct {
		volatile u16 flags, index, ring[WIDE], used_event;
	} avail __attribute__((aligned(4)));
	struct {
		volatile u16 flags, index;
		volatile struct {
			u32 head, length;
		} ring[WIDE];
		volatile u16 avail_event;
	} used __attribute__((aligned(4)));
	u16 seen;
};

/* To the guest and from it; the packet of each descriptor. */
static struct wide wide[2];
static struct packet taken[WIDE], asked[WIDE];

static void offer_wide(struct wide *queue, u16 head)
{
	queue->avail.ring[queue->avail.index % WIDE] = head;
	BARRIER();
	queue->avail.index++;
	BARRIER();
}

/* Starts the device with wide queues, in which a request is behind each descriptor but the first. */
static int start_flood(struct device *device)
{
	int good = negotiate(device, F_VERSION_1 | 1);
	u32 cid = get(device, CONFIG);

	fill(wide, 0, sizeof wide);
	for (u16 at = 0; at < WIDE; at++) {
		asked[at] = (struct packet){ cid, 2, 0, 9999, 0, 1, REQUEST, 0, 4096, 0, { 0 } };
		wide[0].desc[at] = (struct desc){ (u64)&taken[at], sizeof taken[at], WRITE, 0 };
		wide[1].desc[at] = (struct desc){ (u64)&asked[at], HEADER, 0, 0 };
	}
	for (u32 index = 0; index < 2; index++) {
		struct place place = { (u64)wide[index].desc, (u64)&wide[index].avail, (u64)&wide[index].used };

		set_queue(device, index, WIDE, &place);
	}
	set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	return good && !(get(device, STATUS) & NEEDS_RESET);
}

/* Asks for connections, each from another port, as many as there is room for; how many of the packets were taken. */
static u32 ask(struct device *device, u32 port)
{
	struct wide *queue = &wide[1];
	u16 before = queue->seen;

	/* Those that were not taken yet come first. */
	for (u16 at = 1; at < WIDE && (u16)(queue->avail.index - queue->used.index) < WIDE; at++) {
		asked[at].source_port = port + at;
		offer_wide(queue, at);
	}
	notify(device, 1);
	for (u32 tries = PATIENCE; queue->used.index != queue->avail.index && tries; tries--)
		nap(1);
	queue->seen = queue->used.index;
	return (u16)(queue->seen - before);
}

/* Sees to what came from the host: refusals are not looked at, a client is answered. Whether it has gone. */
static int see_to_answers(struct device *device)
{
	struct wide *queue = &wide[0];
	int gone = 0;

	while (queue->used.index != queue->seen) {
		u16 slot = queue->used.ring[queue->seen++ % WIDE].head % WIDE;

		if (taken[slot].op != RST) {
			gone |= answer(&taken[slot], &asked[0]);
			wide[1].desc[0].length = HEADER + asked[0].length;
			offer_wide(&wide[1], 0);
		}
		offer_wide(queue, slot);
	}
	notify(device, 0);
	return gone;
}

static int others_work(void)
{
	int good = 1;

	for (struct device *device = machine; device->id; device++)
		good &= device->id == VSOCK || works(device);
	return good;
}

/* 100,000 connections that are asked for and never spoken on. At first no answer is taken: the device stops taking
 * requests, as it may, and is started anew. Then all answers are taken, the other devices are used, and a client of the host
 * has to be served before the flood ends. */
void flood_sockets(void)
{
	struct device *device = find(VSOCK);
	u32 count = 0, held = 0, turns = 0;
	int served = 0, good;

	good = device && start_flood(device);
	while (good && count < DEAF) {
		u32 took = ask(device, 1024 + count);

		count += took;
		if (took == WIDE - 1)
			continue;
		held++;
		good = start_flood(device);
	}
	if (!report(good && held, "vsock", "holds back who takes no answers"))
		return;
	start_flood(device);
	for (u16 slot = 0; slot < WIDE; slot++)
		offer_wide(&wide[0], slot);
	put("LISTENING\n");
	while (count < FLOOD || !served) {
		count += ask(device, 1024 + count);
		served |= see_to_answers(device);
		if (turns++ % 256 == 0)
			good &= others_work();
	}
	report(good, "devices", "work in a flood");
	report(1, "vsock", "asked for 100000 connections");
	report(works(device), "vsock", "works after a flood");
}
