/* Rings and chains that break the rules: each costs the device, until its reset, and nothing else. */
#include "virtio.h"

#define HOLE 0xf0000000ul

static struct desc table[SIZE] __attribute__((aligned(16)));
static u8 buffer[4096] __attribute__((aligned(4096)));

/* A chain that is wrong, as the device's one request. */
struct chain {
	const char *what;
	u64 features;
	u16 head;
	struct desc desc[4];
	struct desc indirect[3];
};

static const struct chain chains[] = {
	{ "a descriptor that leads to itself", 0, 0, { { 0x2000, 16, NEXT, 0 } }, {} },
	{ "a loop of two", 0, 0, { { 0x2000, 16, NEXT, 1 }, { 0x2000, 16, NEXT, 0 } }, {} },
	{ "a loop of empty buffers", 0, 1, { {}, { 0x2000, 0, NEXT, 1 } }, {} },
	{ "a next descriptor outside the table", 0, 0, { { 0x2000, 16, NEXT, SIZE } }, {} },
	{ "a head outside the table", 0, 0xffff, {}, {} },
	{ "a buffer in the hole", 0, 0, { { HOLE, 16, 0, 0 } }, {} },
	{ "a buffer over memory's end", 0, 0, { { RAM - 8, 16, WRITE, 0 } }, {} },
	{ "4 GiB less one", 0, 0, { { 0, 0xffffffff, WRITE, 0 } }, {} },
	{ "an address that wraps", 0, 0, { { ~0ul - 7, 64, WRITE, 0 } }, {} },
	{ "a readable buffer after a writable", 0, 0,
	  { { 0x2000, 16, WRITE | NEXT, 1 }, { 0x3000, 16, 0, 0 } }, {} },
	{ "an indirect table not agreed on", 0, 0, { { (u64)table, 32, INDIRECT, 0 } },
	  { { 0x2000, 16, 0, 0 } } },
	{ "an indirect table in an indirect table", F_INDIRECT, 0, { { (u64)table, 32, INDIRECT, 0 } },
	  { { (u64)table, 32, INDIRECT, 0 } } },
	{ "an indirect table of odd length", F_INDIRECT, 0, { { (u64)table, 33, INDIRECT, 0 } },
	  { { 0x2000, 16, 0, 0 } } },
	{ "an empty indirect table", F_INDIRECT, 0, { { (u64)table, 0, INDIRECT, 0 } }, {} },
	{ "an indirect table of 4 GiB", F_INDIRECT, 0, { { (u64)table, 0xfffffff0, INDIRECT, 0 } }, {} },
	{ "an indirect table in the hole", F_INDIRECT, 0, { { HOLE, 64, INDIRECT, 0 } }, {} },
	{ "an indirect table that is followed", F_INDIRECT, 0, { { (u64)table, 16, INDIRECT | NEXT, 1 } },
	  { { 0x2000, 16, 0, 0 } } },
	{ "a loop in an indirect table", F_INDIRECT, 0, { { (u64)table, 32, INDIRECT, 0 } },
	  { { 0x2000, 16, NEXT, 1 }, { 0x2000, 16, NEXT, 0 } } },
};

static void break_by(struct device *device, const struct chain *chain)
{
	struct queue *queue = &device->queue[device->requests];
	int stopped = 0;

	if (start(device, chain->features)) {
		memcpy(queue->desc, chain->desc, sizeof chain->desc);
		memcpy(table, chain->indirect, sizeof chain->indirect);
		offer(queue, chain->head);
		notify(device, device->requests);
		stopped = broken(device);
	}
	if (!stopped || !works(device))
		report(0, device->name, chain->what);
}

/* One part of a queue outside of memory, or across its end. */
static void misplace(struct device *device, u32 part, u64 where)
{
	u32 index = device->requests;
	struct queue *queue = &device->queue[index];
	struct place place;

	negotiate(device, F_VERSION_1);
	place = place_of(queue);
	*(&place.desc + part) = where;
	queue->desc[0] = (struct desc){ (u64)buffer, 64, device->id == RNG ? WRITE : 0, 0 };
	queue->desc[1] = queue->desc[0];
	set_queue(device, index, SIZE, &place);
	set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	offer(queue, 1);
	notify(device, index);
	if (!broken(device) || !works(device)) {
		put_number(part);
		report(0, device->name, "a misplaced ring");
	}
}

static void overrun(struct device *device, u16 ahead)
{
	u32 index = device->requests;

	start(device, 0);
	device->queue[index].avail.index = ahead;
	notify(device, index);
	if (!broken(device) || !works(device))
		report(0, device->name, "an available index that runs ahead");
}

/* Queues whose form is wrong never become ready. */
static void malform(struct device *device)
{
	static const struct { u32 size; u64 desc, driver, device; } wrong[] = {
		{ 0, 0, 0, 0 }, { 3, 0, 0, 0 }, { 0x8000, 0, 0, 0 }, { 0x10008, 0, 0, 0 }, { ~0u, 0, 0, 0 },
		{ SIZE, 8, 0, 0 }, { SIZE, 0, 1, 0 }, { SIZE, 0, 0, 2 }, { SIZE, ~0ul - 15, 0, 0 },
	};
	u32 index = device->requests;

	for (u32 at = 0; at < sizeof wrong / sizeof wrong[0]; at++) {
		struct place place = place_of(&device->queue[index]);

		negotiate(device, F_VERSION_1);
		place.desc += wrong[at].desc;
		place.driver += wrong[at].driver;
		place.device += wrong[at].device;
		if (wrong[at].desc == ~0ul - 15)
			place.desc = ~0ul - 15;
		set_queue(device, index, wrong[at].size, &place);
		if (get(device, QUEUE_READY))
			report(0, device->name, "a queue of wrong form");
		set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
		notify(device, index);
	}
	report(works(device), device->name, "works after queues of wrong form");
}

void break_rings(void)
{
	/* In the hole, far out, and where addresses end. */
	static const u64 places[] = { HOLE, 1ul << 52, ~0ul - 0xfff };

	/* An available index on memory's last two bytes, whose ring is not memory any more. */
	*(volatile u16 *)(RAM - 2) = 1;
	find_devices();
	for (struct device *device = machine; device->id; device++) {
		for (u32 at = 0; at < sizeof chains / sizeof chains[0]; at++)
			break_by(device, &chains[at]);
		report(1, device->name, "wrong chains were tried");
		for (u32 part = 0; part < 3; part++) {
			for (u32 at = 0; at < sizeof places / sizeof places[0]; at++)
				misplace(device, part, places[at]);
			misplace(device, part, RAM - (part ? 4 : 16));
		}
		report(1, device->name, "misplaced rings were tried");
		overrun(device, SIZE + 1);
		overrun(device, 0xffff);
		malform(device);
		report(works(device), device->name, "works after broken rings");
	}
}
