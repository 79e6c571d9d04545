/* A driver's half of virtio-mmio (virtio 1.2, section 4.2) and of the split virtqueue (section 2.7). */
#pragma once
#include "bare.h"

enum reg {
	MAGIC = 0x000, VERSION = 0x004, DEVICE_ID = 0x008,
	DEVICE_FEATURES = 0x010, DEVICE_FEATURES_SEL = 0x014,
	DRIVER_FEATURES = 0x020, DRIVER_FEATURES_SEL = 0x024,
	QUEUE_SEL = 0x030, QUEUE_SIZE_MAX = 0x034, QUEUE_SIZE = 0x038, QUEUE_READY = 0x044,
	QUEUE_NOTIFY = 0x050, INTERRUPT_STATUS = 0x060, INTERRUPT_ACK = 0x064, STATUS = 0x070,
	DESC_LOW = 0x080, DRIVER_LOW = 0x090, DEVICE_LOW = 0x0a0, CONFIG = 0x100,
};

#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8
#define NEEDS_RESET 64

#define F_INDIRECT (1ul << 28)
#define F_EVENT_IDX (1ul << 29)
#define F_VERSION_1 (1ul << 32)

#define NEXT 1
#define WRITE 2
#define INDIRECT 4

#define SIZE 8
#define QUEUES 3

enum { NET = 1, BLOCK = 2, RNG = 4, VSOCK = 19 };

struct desc {
	u64 address;
	u32 length;
	u16 flags, next;
};

struct queue {
	struct desc desc[SIZE] __attribute__((aligned(16)));
	struct {
		volatile u16 flags, index, ring[SIZE], used_event;
	} avail __attribute__((aligned(4)));
	struct {
		volatile u16 flags, index;
		volatile struct {
			u32 head, length;
		} ring[SIZE];
		volatile u16 avail_event;
	} used __attribute__((aligned(4)));
	u16 seen;
};

/* Where a queue's three parts are said to be. */
struct place {
	u64 desc, driver, device;
};

struct device {
	u64 base;
	u32 id;
	const char *name;
	u32 queues;
	/* The queue on which requests are made. */
	u32 requests;
	struct queue queue[QUEUES];
};

/* The devices there are, by slot; the first slot without one has id 0. */
extern struct device machine[20];
void find_devices(void);
struct device *find(u32 id);

static inline u32 get(const struct device *device, u32 reg)
{
	return read32(device->base + reg);
}

static inline void set(const struct device *device, u32 reg, u32 value)
{
	write32(device->base + reg, value);
}

void reset(struct device *device);
/* Resets and goes as far as FEATURES_OK; whether the device agrees. */
int negotiate(struct device *device, u64 features);
struct place place_of(struct queue *queue);
void set_queue(struct device *device, u32 index, u32 size, const struct place *place);
/* Resets, negotiates, sets every queue up and starts. */
int start(struct device *device, u64 features);

/* Makes the chain that starts at a descriptor available. */
void offer(struct queue *queue, u16 head);
void notify(struct device *device, u32 queue);
/* Waits for the next used chain; its length, or -1 if none comes or the device gave up. */
long take(struct device *device, u32 queue);
/* Waits until the device asks for a reset. */
int broken(struct device *device);

/* Uses the device as it should be, from its reset on; whether it did as asked. */
int works(struct device *device);
int net_works(struct device *device);
int socket_works(struct device *device);
void flood_sockets(void);
