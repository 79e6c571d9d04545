/* Requests that are well formed as chains and wrong as requests. */
#include "virtio.h"

static u8 junk[4096] __attribute__((aligned(4096)));

/* What became of a chain of one readable and one writable buffer, either of which may be missing. */
static void ask(struct device *device, u32 readable, u32 writable)
{
	u32 index = device->requests;
	struct queue *queue = &device->queue[index];
	u16 head = readable ? 0 : 1;

	if (!start(device, 0)) {
		report(0, device->name, "starts");
		return;
	}
	queue->desc[0] = (struct desc){ (u64)junk, readable, writable ? NEXT : 0, 1 };
	queue->desc[1] = (struct desc){ SPARE, writable, WRITE, 0 };
	offer(queue, head);
	notify(device, index);
	/* Answered or broken; never stuck. */
	if (take(device, index) < 0 && !(get(device, STATUS) & NEEDS_RESET))
		report(0, device->name, "answers or breaks");
	if (!works(device))
		report(0, device->name, "works after a wrong request");
}

void break_requests(void)
{
	static const u32 lengths[] = { 0, 1, 15, 16, 17, 43, 44, 45, 511, 512, 4096 };
	static const u8 bytes[] = { 0, 1, 4, 8, 11, 13, 0xff };

	find_devices();
	for (struct device *device = machine; device->id; device++) {
		for (u32 byte = 0; byte < sizeof bytes; byte++) {
			fill(junk, bytes[byte], sizeof junk);
			/* As a kind of request this is small; elsewhere it stays odd. */
			fill(junk + 1, bytes[byte] == 0xff ? 0xff : 0, 7);
			for (u32 at = byte % 3; at < 11; at += 3) {
				ask(device, lengths[at], 512);
				ask(device, lengths[at], 0);
			}
			ask(device, 0, 16 << 20);
		}
		report(works(device), device->name, "works after wrong requests");
	}
}
