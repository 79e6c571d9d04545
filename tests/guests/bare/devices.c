/* Each device used as it should be. */
#include "virtio.h"

struct request {
	u32 kind, reserved;
	u64 sector;
};

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
