/* Each device used as it should be. */
#include "virtio.h"

struct request {
	u32 kind, reserved;
	u64 sector;
};

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

/* One block request; its status. */
static int block(struct device *device, u32 kind, u64 sector, void *data, u32 length)
{
	static struct request request;
	static volatile u8 status;
	struct queue *queue = device->queue;
	u16 access = kind == 0 || kind == 8 ? WRITE : 0;

	request = (struct request){ kind, 0, sector };
	status = 0xff;
	queue->desc[0] = (struct desc){ (u64)&request, sizeof request, NEXT, length ? 1 : 2 };
	queue->desc[1] = (struct desc){ (u64)data, length, access | NEXT, 2 };
	queue->desc[2] = (struct desc){ (u64)&status, 1, WRITE, 0 };
	offer(queue, 0);
	notify(device, 0);
	if (take(device, 0) < 0)
		return -1;
	return status;
}

static int block_works(struct device *device)
{
	static u8 wrote[1024], read[1024];
	u64 sectors = get(device, CONFIG);

	if (!start(device, F_INDIRECT | 1ul << 9))
		return 0;
	for (u32 at = 0; at < sizeof wrote; at++)
		wrote[at] = at * 7;
	fill(read, 0, sizeof read);
	/* Written twice and read, the identifier, a flush; then what is refused without harm. */
	return block(device, 1, 2, wrote, 1024) == 0 && block(device, 0, 2, read, 1024) == 0 &&
	       same(wrote, read, sizeof read) && block(device, 4, 0, 0, 0) == 0 &&
	       block(device, 8, 0, read, 20) == 0 && same(read, "disk0", 6) &&
	       block(device, 0, sectors, read, 512) == 1 && block(device, 1, ~0ul, wrote, 512) == 1 &&
	       block(device, 0, 0, read, 511) == 1 && block(device, 77, 0, read, 512) == 2;
}

static int rng_works(struct device *device)
{
	static u8 random[32], zero[32];
	struct queue *queue = device->queue;

	fill(random, 0, sizeof random);
	if (!start(device, F_EVENT_IDX))
		return 0;
	queue->desc[0] = (struct desc){ (u64)random, sizeof random, WRITE, 0 };
	offer(queue, 0);
	notify(device, 0);
	return take(device, 0) == sizeof random && !same(random, zero, sizeof random);
}

static struct packet inbox[4], outbox;

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
	for (u16 slot = 0; slot < 4; slot++)
		lend(device, slot);
	return 1;
}

/* Asks for a port of the host that nobody serves: the answer is a reset. */
static int socket_works(struct device *device)
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

int works(struct device *device)
{
	switch (device->id) {
	case BLOCK:
		return block_works(device);
	case RNG:
		return rng_works(device);
	case NET:
		return net_works(device);
	default:
		return socket_works(device);
	}
}

void drive_all(void)
{
	find_devices();
	for (struct device *device = machine; device->id; device++)
		report(works(device), device->name, "works");
}

/* Answers one client of the host with what it sends, until it goes. */
void echo_socket(void)
{
	struct device *device;
	u32 received = 0;

	find_devices();
	device = find(VSOCK);
	if (!report(device && start_socket(device), "vsock", "listens"))
		return;
	put("LISTENING\n");
	for (;;) {
		int slot = receive(device);
		struct packet *got = &inbox[slot];

		if (slot < 0)
			continue;
		outbox = (struct packet){ got->target_cid, got->source_cid, got->target_port, got->source_port,
					  0, 1, RST, 0, 4096, received, { 0 } };
		if (got->op == REQUEST) {
			outbox.op = RESPONSE;
		} else if (got->op == RW && got->length <= sizeof got->data) {
			received += got->length;
			outbox.op = RW;
			outbox.length = got->length;
			outbox.forwarded = received;
			memcpy(outbox.data, got->data, got->length);
		} else {
			send(device, 0);
			report(got->op == SHUTDOWN, "vsock", "closed");
			return;
		}
		send(device, outbox.length);
		lend(device, slot);
	}
}
