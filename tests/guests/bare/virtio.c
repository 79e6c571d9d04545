/* The driver's half of a device: set-up, requests, answers. */
#include "virtio.h"

#define WINDOWS 0xd0000000ul
#define WINDOW 0x1000
/* How often a device is asked before it counts as stuck: seconds, wherever this runs. */
#define PATIENCE 50000
#define NO_DEVICE 0x80

struct device machine[20];

/* Whether to ask again. Reading a register is no exit: this is one, so that patience is time which the host has, too. */
static int again(u32 *tries)
{
	inb(NO_DEVICE);
	return (*tries)++ < PATIENCE;
}

static const char *name_of(u32 id)
{
	switch (id) {
	case NET:
		return "net";
	case BLOCK:
		return "block";
	case RNG:
		return "rng";
	default:
		return "vsock";
	}
}

void find_devices(void)
{
	u32 count = 0;

	for (u32 slot = 0; slot < 18; slot++) {
		struct device *device = &machine[count];

		device->base = WINDOWS + slot * WINDOW;
		if (get(device, MAGIC) != 0x74726976 || get(device, VERSION) != 2)
			continue;
		device->id = get(device, DEVICE_ID);
		device->name = name_of(device->id);
		device->queues = device->id == VSOCK || device->id == NET ? 3 : 1;
		device->requests = device->id == VSOCK || device->id == NET ? 1 : 0;
		count++;
	}
	machine[count].id = 0;
	put("DEVICES ");
	put_number(count);
	put("\n");
}

struct device *find(u32 id)
{
	for (struct device *device = machine; device->id; device++)
		if (device->id == id)
			return device;
	return 0;
}

void reset(struct device *device)
{
	set(device, STATUS, 0);
	for (u32 tries = 0; get(device, STATUS) && again(&tries);)
		;
	fill(device->queue, 0, sizeof device->queue);
}

int negotiate(struct device *device, u64 features)
{
	reset(device);
	set(device, STATUS, ACKNOWLEDGE);
	set(device, STATUS, ACKNOWLEDGE | DRIVER);
	set(device, DRIVER_FEATURES_SEL, 0);
	set(device, DRIVER_FEATURES, (u32)features);
	set(device, DRIVER_FEATURES_SEL, 1);
	set(device, DRIVER_FEATURES, (u32)(features >> 32));
	set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	return !!(get(device, STATUS) & FEATURES_OK);
}

struct place place_of(struct queue *queue)
{
	return (struct place){ (u64)queue->desc, (u64)&queue->avail, (u64)&queue->used };
}

static void set_address(struct device *device, u32 reg, u64 address)
{
	set(device, reg, (u32)address);
	set(device, reg + 4, (u32)(address >> 32));
}

void set_queue(struct device *device, u32 index, u32 size, const struct place *place)
{
	set(device, QUEUE_SEL, index);
	set(device, QUEUE_SIZE, size);
	set_address(device, DESC_LOW, place->desc);
	set_address(device, DRIVER_LOW, place->driver);
	set_address(device, DEVICE_LOW, place->device);
	set(device, QUEUE_READY, 1);
}

int start(struct device *device, u64 features)
{
	if (!negotiate(device, features | F_VERSION_1))
		return 0;
	for (u32 index = 0; index < device->queues; index++) {
		struct place place = place_of(&device->queue[index]);

		set_queue(device, index, SIZE, &place);
	}
	set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	return !!(get(device, STATUS) & DRIVER_OK);
}

void offer(struct queue *queue, u16 head)
{
	queue->avail.ring[queue->avail.index % SIZE] = head;
	BARRIER();
	queue->avail.index++;
	BARRIER();
}

void notify(struct device *device, u32 queue)
{
	set(device, QUEUE_NOTIFY, queue);
}

long take(struct device *device, u32 index)
{
	struct queue *queue = &device->queue[index];

	for (u32 tries = 0; again(&tries);) {
		if (queue->used.index != queue->seen)
			return queue->used.ring[queue->seen++ % SIZE].length;
		if (get(device, STATUS) & NEEDS_RESET)
			return -1;
	}
	return -1;
}

int broken(struct device *device)
{
	/* First it says so, then it interrupts (virtio 1.2, section 2.1.2). */
	for (u32 tries = 0; again(&tries);)
		if (get(device, STATUS) & NEEDS_RESET && get(device, INTERRUPT_STATUS) & 2)
			return 1;
	return 0;
}
