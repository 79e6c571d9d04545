/* Console, ports, interrupts, and the ways to end. */
#include "bare.h"

#define SERIAL 0x3f8
#define PANIC 0x505
#define SLEEP 0x600
#define RESET 0x602
#define KEYBOARD 0x64

#define IOAPIC 0xfec00000ul
#define LOCAL_APIC 0xfee00000ul
#define BUTTON_PIN 5
#define BUTTON_VECTOR 0x45

u64 read_wide(u64 address, int width)
{
	u64 value = 0;

	switch (width) {
	case 1:
		__asm__ volatile("movb (%1), %b0" : "+r"(value) : "r"(address) : "memory");
		break;
	case 2:
		__asm__ volatile("movw (%1), %w0" : "+r"(value) : "r"(address) : "memory");
		break;
	case 4:
		value = read32(address);
		break;
	default:
		__asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(address) : "memory");
	}
	return value;
}

void write_wide(u64 address, int width, u64 value)
{
	switch (width) {
	case 1:
		__asm__ volatile("movb %b0, (%1)" ::"r"(value), "r"(address) : "memory");
		break;
	case 2:
		__asm__ volatile("movw %w0, (%1)" ::"r"(value), "r"(address) : "memory");
		break;
	case 4:
		write32(address, value);
		break;
	default:
		__asm__ volatile("movq %0, (%1)" ::"r"(value), "r"(address) : "memory");
	}
}

void put(const char *text)
{
	while (*text)
		outb(SERIAL, *text++);
}

void put_number(u64 number)
{
	char digits[21];
	int at = 20;

	digits[at] = 0;
	do {
		digits[--at] = '0' + number % 10;
		number /= 10;
	} while (number);
	put(digits + at);
}

int report(int good, const char *what, const char *how)
{
	put(good ? "ok " : "FAIL ");
	put(what);
	put(" ");
	put(how);
	put("\n");
	return good;
}

int same(const void *a, const void *b, u64 length)
{
	const u8 *x = a, *y = b;

	while (length--)
		if (*x++ != *y++)
			return 0;
	return 1;
}

void fill(void *to, u8 value, u64 length)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(value) : "memory");
}

/* The compiler may call these. */
void *memset(void *to, int value, u64 length)
{
	fill(to, value, length);
	return to;
}

void *memcpy(void *to, const void *from, u64 length)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length)::"memory");
	return start;
}

void nap(u32 count)
{
	while (count--)
		inb(0x61);
}

static u64 devices[512] __attribute__((aligned(4096)));

void map_devices(void)
{
	u64 root, *level3;

	__asm__ volatile("mov %%cr3, %0" : "=r"(root));
	level3 = (u64 *)(*(u64 *)(root & ~0xffful) & ~0xffful);
	/* The fourth GiB: virtio windows, what lies beside them, IOAPIC, local APIC; uncached. */
	for (u64 page = 0; page < 512; page++)
		devices[page] = (0xc0000000ul + (page << 21)) | 0x9b;
	level3[3] = (u64)devices | 3;
	BARRIER();
}

/* Every port below 0x800 at every width, and far ones, with a value that ends nothing. */
void try_ports(void)
{
	static u8 buffer[512];

	for (u32 port = 0; port < 0x800; port++) {
		inb(port);
		inw(port);
		inl(port);
		/* The serial port has its turn below: this would only print. */
		if (port >= 0x3f8 && port < 0x400)
			continue;
		outb(port, 0x40);
		outw(port, 0x4040);
		outl(port, 0x40404040);
	}
	for (u32 port = 0xfff0; port < PORTS; port++) {
		outl(port, inl(port));
		outb(port, 0xff);
	}
	for (u32 port = 0x3f5; port < 0x402; port++) {
		void *to = buffer;
		const void *from = buffer;
		u64 bytes = sizeof buffer, words = sizeof buffer / 4, count = 3;

		__asm__ volatile("rep insb" : "+D"(to), "+c"(bytes) : "d"(port) : "memory");
		to = buffer;
		__asm__ volatile("rep insl" : "+D"(to), "+c"(words) : "d"(port) : "memory");
		if (port < 0x3f8 || port > 0x3ff)
			__asm__ volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(port) : "memory");
	}
	/* The serial port's registers, ending as they were but with its interrupts off. */
	for (u32 value = 0; value < 256; value += 5)
		for (u32 reg = 1; reg < 8; reg++) {
			outb(SERIAL + reg, value);
			inb(SERIAL + reg);
		}
	outb(SERIAL + 3, 3);
	outb(SERIAL + 1, 0);
	outb(SERIAL + 4, 8);
	report(inb(SERIAL + 5) & 0x20, "ports", "every width");
}

/* 100 KB in lines of 64, half byte by byte, half by string instructions. */
void flood_serial(void)
{
	static char line[64];

	fill(line, 'x', 63);
	line[63] = '\n';
	put("\n");
	for (int count = 0; count < 800; count++) {
		const char *from = line;
		u64 length = sizeof line;

		for (u64 at = 0; at < sizeof line; at++)
			outb(SERIAL, line[at]);
		__asm__ volatile("rep outsb" : "+S"(from), "+c"(length) : "d"(SERIAL) : "memory");
	}
	report(1, "serial", "flood");
}

void tick(u32 count)
{
	for (u32 at = 0; at < count; at++) {
		put("tick ");
		put_number(at);
		put("\n");
		nap(200);
	}
}

int await_button(u32 naps)
{
	u64 waiting = LOCAL_APIC + 0x200 + BUTTON_VECTOR / 32 * 0x10;

	write32(LOCAL_APIC + 0xf0, 0x1ff); /* on */
	write32(IOAPIC, 0x10 + 2 * BUTTON_PIN + 1);
	write32(IOAPIC + 0x10, 0);
	write32(IOAPIC, 0x10 + 2 * BUTTON_PIN);
	write32(IOAPIC + 0x10, BUTTON_VECTOR);
	put("LISTENING\n");
	/* Interrupts stay disabled: the request is seen where it waits. */
	while (naps--) {
		if (read32(waiting) >> BUTTON_VECTOR % 32 & 1)
			return 1;
		nap(50);
	}
	return 0;
}

static int is(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return !*a && (!*b || *b == ' ');
}

void end(const char *how)
{
	put("DONE\n");
	if (is("off", how))
		outb(SLEEP, 0x34);
	else if (is("reset", how))
		outb(RESET, 1);
	else if (is("keyboard", how))
		outb(KEYBOARD, 0xfe);
	else if (is("panic", how))
		outb(PANIC, 1);
	else if (is("triple", how)) {
		struct __attribute__((packed)) {
			u16 limit;
			u64 base;
		} none = { 0, 0 };
		__asm__ volatile("lidt %0; ud2" ::"m"(none));
	}
	for (;;)
		__asm__ volatile("hlt");
}
