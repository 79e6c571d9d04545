/* What all parts of the bare guest share: types, ports, memory-mapped registers, the console. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

/* Guest memory of this program: from OWN to RAM, where memory ends. SPARE is the first of 16 MiB that hold nothing. PORTS is
 * the end of those that it may access by four bytes: no process may beyond the last. */
#ifdef UNDER_LINUX
#define OWN 0x6000000ul
#define RAM 0x8000000ul
#define SPARE 0x7000000ul
#define PORTS 0xfffd
#else
#define OWN 0x100000ul
#define RAM 0x2000000ul
#define SPARE 0x800000ul
#define PORTS 0x10000
#endif

#define BARRIER() __asm__ volatile("" ::: "memory")

static inline void outb(u16 port, u8 value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void outw(u16 port, u16 value)
{
	__asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void outl(u16 port, u32 value)
{
	__asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline u8 inb(u16 port)
{
	u8 value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline u16 inw(u16 port)
{
	u16 value;
	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline u32 inl(u16 port)
{
	u32 value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline u32 read32(u64 address)
{
	u32 value;
	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline void write32(u64 address, u32 value)
{
	__asm__ volatile("movl %0, (%1)" ::"r"(value), "r"(address) : "memory");
}

/* Reads or writes 1, 2, 4 or 8 bytes. */
u64 read_wide(u64 address, int width);
void write_wide(u64 address, int width, u64 value);

void put(const char *text);
void put_number(u64 number);
/* One line: "ok WHAT HOW" or "FAIL WHAT HOW"; returns `good`. */
int report(int good, const char *what, const char *how);

void *memcpy(void *to, const void *from, u64 length);
int same(const void *a, const void *b, u64 length);
void fill(void *to, u8 value, u64 length);
/* Waits for as long as `count` exits take. */
void nap(u32 count);

/* Does what a command line asks for, in its order, and ends. */
void obey(const char *cmdline);
/* Makes the device windows and the interrupt controllers reachable. */
void map_devices(void);

void try_ports(void);
void flood_serial(void);
void tick(u32 count);
/* Waits for the power button; whether it came. */
int await_button(u32 naps);
void end(const char *how);

void try_registers(void);
void drive_all(void);
void storm_all(void);
void break_rings(void);
void break_requests(void);
void echo_socket(void);
void forge_frames(void);
void flood_host(void);
void receive_flood(void);
/* The storm of this name; whether there is one. Most never end. */
int lay_siege(const char *name);
