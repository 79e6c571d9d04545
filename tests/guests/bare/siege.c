/* Storms that go on until somebody on the host ends them: the VMM has to bear each. */
#include "virtio.h"

static struct desc table[256] __attribute__((aligned(16)));
static u8 buffer[4096] __attribute__((aligned(4096)));

static u32 seed = 0x9e3779b9;

/* Marsaglia's xorshift, 32 bits. */
static u32 dice(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed;
}

/* Notifications of every queue of devices that run, at the highest rate. */
static void notifications(void)
{
	for (struct device *device = machine; device->id; device++)
		start(device, 0);
	for (;;)
		for (struct device *device = machine; device->id; device++)
			for (u32 queue = 0; queue < device->queues; queue++)
				notify(device, queue);
}

/* Queues that are always full, of the largest requests there can be: all of the disk at once, as much entropy, frames
 * and packets of a GiB. */
static void requests(void)
{
	static struct {
		u32 kind, reserved;
		u64 sector;
	} header;

	for (;;)
		for (struct device *device = machine; device->id; device++) {
			struct queue *queue = &device->queue[device->requests];
			u32 length = device->id == BLOCK ? 1 << 20 : 4 << 20;
			u16 access = device->id == BLOCK || device->id == RNG ? WRITE : 0;
			u32 count = device->id == BLOCK ? 3 : device->id == RNG ? 64 : 256;

			for (u32 at = 0; at < count; at++)
				table[at] = (struct desc){ SPARE, length, access | NEXT, at + 1 };
			if (device->id == BLOCK) {
				table[0] = (struct desc){ (u64)&header, sizeof header, NEXT, 1 };
				table[2].length = 1;
			}
			table[count - 1].flags = access;
			start(device, F_INDIRECT);
			for (u16 slot = 0; slot < SIZE; slot++) {
				queue->desc[slot] = (struct desc){ (u64)table, count * sizeof *table, INDIRECT, 0 };
				offer(queue, slot);
			}
			notify(device, device->requests);
			/* As long as it answers, again and again. */
			for (u32 again = 0; again < 64 && take(device, device->requests) >= 0; again++) {
				offer(queue, queue->used.ring[(queue->seen - 1) % SIZE].head);
				notify(device, device->requests);
			}
		}
}

/* Resets while requests are under way, and rings that move between two starts. */
static void resets(void)
{
	for (;;)
		for (struct device *device = machine; device->id; device++) {
			struct queue *queue = &device->queue[device->requests];
			struct place away = { dice(), dice(), dice() };

			start(device, F_EVENT_IDX);
			queue->desc[0] = (struct desc){ SPARE, 1 << 20, WRITE, 0 };
			offer(queue, 0);
			notify(device, device->requests);
			set_queue(device, device->requests, SIZE, &away);
			set(device, STATUS, dice() & 1 ? 0 : 0xff);
		}
}

/* Every address from the first window to the end of the 4 GiB, every width: the windows densely, the rest in strides. */
static void addresses(void)
{
	static const int widths[] = { 1, 2, 4, 8 };

	for (;;) {
		u64 at = dice() % 3 ? 0xd0000000ul + dice() % 0x14000 : 0xc0000000ul + dice() % 0x3fb00000;
		int width = widths[dice() % 4];

		/* The interrupt controllers are KVM's; ends of the VM are ports. */
		if (at >= 0xfebff000)
			continue;
		if (dice() & 1)
			read_wide(at, width);
		else
			write_wide(at, width, dice() & 1 ? dice() : ~0ul);
	}
}

/* Every port at every width, but those that end the VM. */
static void ports(void)
{
	for (;;) {
		u16 port = dice() % (dice() & 1 ? 0x800 : PORTS);
		u32 value = dice();

		if (port > 0x5f0 && port < 0x610)
			continue;
		if ((port > 0x60 && port < 0x68) || (port > 0x500 && port < 0x508))
			value = 0;
		switch (dice() % 6) {
		case 0:
			outb(port, value);
			break;
		case 1:
			outw(port, value);
			break;
		case 2:
			outl(port, value);
			break;
		case 3:
			inb(port);
			break;
		case 4:
			inw(port);
			break;
		default:
			inl(port);
		}
	}
}

/* Text without end, in whole pages. */
static void print(void)
{
	fill(buffer, 'x', sizeof buffer);
	for (;;) {
		const void *from = buffer;
		u64 length = sizeof buffer;

		__asm__ volatile("rep outsb" : "+S"(from), "+c"(length) : "d"(0x3f8) : "memory");
	}
}

/* Neither an exit nor an interrupt ever. */
static void masked(void)
{
	__asm__ volatile("cli");
	for (;;)
		;
}

/* Asleep for good. */
static void asleep(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* Faults are skipped: both instructions that are probed have two bytes. */
void skip_fault(void);
__asm__(".globl skip_fault\n"
	"skip_fault:\n"
	"	add	$8, %rsp\n"
	"	addq	$2, (%rsp)\n"
	"	iretq\n");

struct gate {
	u16 low, selector, kind, middle;
	u32 high, reserved;
};

/* Every model-specific register that means something somewhere, read and written back; every leaf of CPUID. */
static void probe(void)
{
	static struct gate gates[32] __attribute__((aligned(16)));
	static const u32 starts[] = { 0, 0x1a0, 0x200, 0x400, 0x480, 0x600, 0x800, 0x40000000, 0x4b564d00, 0xc0000080,
				      0xc0010000, 0xc0011000 };
	struct __attribute__((packed)) {
		u16 limit;
		u64 base;
	} place = { sizeof gates - 1, (u64)gates };
	u16 code;

	__asm__ volatile("mov %%cs, %0" : "=r"(code));
	gates[13] = (struct gate){ (u16)(u64)skip_fault, code, 0x8e00, (u64)skip_fault >> 16, 0, 0 };
	__asm__ volatile("lidt %0" ::"m"(place));
	for (u32 range = 0; range < sizeof starts / sizeof starts[0]; range++)
		for (u32 msr = starts[range]; msr < starts[range] + 0x40; msr++) {
			u32 low = 0, high = 0;

			__asm__ volatile("rdmsr" : "+a"(low), "+d"(high) : "c"(msr) : "memory");
			/* Where paging, segments and the system call come from stays: this guest still needs them. */
			if (msr >= 0xc0000080 && msr < 0xc0000110)
				continue;
			__asm__ volatile("wrmsr" ::"a"(low), "d"(high), "c"(msr) : "memory");
		}
	report(1, "msr", "probed");
	for (u32 base = 0; base < 4; base++)
		for (u32 leaf = 0; leaf < 0x40; leaf++)
			for (u32 sub = 0; sub < 4; sub++) {
				u32 a = (u32[]){ 0, 0x40000000, 0x80000000, 0xfffffff0 }[base] + leaf, b, c = sub, d;

				__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
			}
	report(1, "cpuid", "probed");
}

static const struct {
	const char *name;
	void (*run)(void);
} storms[] = {
	{ "notifications", notifications }, { "requests", requests }, { "resets", resets }, { "addresses", addresses },
	{ "ports", ports }, { "print", print }, { "masked", masked }, { "asleep", asleep }, { "sockets", flood_sockets },
	{ "probe", probe },
};

/* Has the host give all the memory there is: a bound on what it holds beside that is one only then. */
static void touch_memory(void)
{
	for (u64 at = OWN; at < RAM; at += 4096)
		*(volatile u8 *)at = *(volatile u8 *)at;
}

int lay_siege(const char *name)
{
	find_devices();
	touch_memory();
	for (u32 at = 0; at < sizeof storms / sizeof storms[0]; at++) {
		const char *want = storms[at].name, *got = name;

		while (*want && *want == *got)
			want++, got++;
		if (*want || (*got && *got != ' '))
			continue;
		put("STORM\n");
		storms[at].run();
		return 1;
	}
	return 0;
}
