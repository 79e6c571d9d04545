/* Registers of every device, as no driver uses them. */
#include "virtio.h"

static const int widths[] = { 1, 2, 4, 8 };

/* Every offset and width, read and written, ending with a device that works. */
static void touch_all(struct device *device)
{
	static const u64 values[] = { 0, ~0ul, 0x0101010101010101ul };

	/* Odd offsets beyond the first registers say no more than the first ones do. */
	for (u32 offset = 0; offset < 0x180; offset += offset < 0x20 ? 1 : 4)
		for (int width = 0; width < 4; width++)
			read_wide(device->base + offset, widths[width]);
	for (u32 value = 0; value < 3; value++)
		for (u32 offset = 0; offset < 0x180; offset += offset < 0x20 ? 1 : 4)
			for (int width = 0; width < 4; width++)
				write_wide(device->base + offset, widths[width], values[value]);
	/* The window's end, an access across it, and the hole behind the last window. */
	for (int width = 0; width < 4; width++) {
		read_wide(device->base + 0xfff, widths[width]);
		read_wide(device->base + 0x12000, widths[width]);
		write_wide(device->base + 0xffd, widths[width], ~0ul);
	}
	report(get(device, MAGIC) == 0x74726976, device->name, "keeps its registers");
	report(works(device), device->name, "works after every access");
}

static void refuse_features(struct device *device)
{
	report(!negotiate(device, ~0ul), device->name, "refuses features it did not offer");
	set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	report(!(get(device, STATUS) & DRIVER_OK), device->name, "does not start with them");
	report(!negotiate(device, 1ul << 63 | F_VERSION_1), device->name, "refuses one such feature");
	report(!negotiate(device, F_INDIRECT), device->name, "refuses legacy drivers");
	reset(device);
	set(device, STATUS, DRIVER_OK);
	report(!(get(device, STATUS) & DRIVER_OK), device->name, "starts step by step only");
	set(device, STATUS, 0xffffffff);
	report(works(device), device->name, "works after wrong set-ups");
}

/* What is written to a queue's registers once the device runs changes nothing. */
static void move_rings(struct device *device)
{
	struct place away = { 0xf0000000, 0xf0001000, 0xf0002000 };
	u32 index = device->requests;

	report(works(device), device->name, "works");
	set_queue(device, index, 256, &away);
	set(device, QUEUE_READY, 0);
	set(device, QUEUE_SIZE, 0);
	set(device, DRIVER_FEATURES, 0xffffffff);
	set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	/* The last request again, on the rings as they were. */
	offer(&device->queue[index], 0);
	notify(device, index);
	report(take(device, index) >= 0, device->name, "keeps its rings");
	report(works(device), device->name, "works after its rings were moved");
}

void try_registers(void)
{
	find_devices();
	for (struct device *device = machine; device->id; device++) {
		touch_all(device);
		refuse_features(device);
		move_rings(device);
	}
}

/* Notifications of queues that are and are not, before, while and after the device runs; resets in between. */
static void storm(struct device *device)
{
	reset(device);
	for (u32 count = 0; count < 200; count++)
		notify(device, count % 5);
	works(device);
	for (u32 count = 0; count < 2000; count++)
		notify(device, device->requests);
	for (u32 count = 0; count < 500; count++)
		notify(device, count * 0x01010101);
	report(!(get(device, STATUS) & NEEDS_RESET), device->name, "bears a storm");
	for (u32 count = 0; count < 20; count++) {
		struct queue *queue = &device->queue[device->requests];

		start(device, 0);
		/* A request that is under way, or not yet looked at, when the reset comes. */
		queue->desc[0] = (struct desc){ SPARE, 1 << 20, device->id == RNG ? WRITE : 0, 0 };
		offer(queue, 0);
		notify(device, device->requests);
		set(device, STATUS, 0);
		if (get(device, STATUS))
			report(0, device->name, "resets at once");
	}
	report(works(device), device->name, "works after a storm and resets");
}

void storm_all(void)
{
	find_devices();
	for (struct device *device = machine; device->id; device++)
		storm(device);
}
