/* The way in as the first process of Linux: one that owns its machine. It takes the memory above what Linux was told of,
 * all that is between memory and the interrupt controllers, and every port, each at its own address; then it is as the
 * bare guest is. What needs ring 0 (interrupts, model-specific registers, a triple fault) is not for it. */
#include "bare.h"

#define DEVICES 0xc0000000ul
#define CONTROLLERS 0xfec00000ul

enum { OPEN = 2, MMAP = 9, MKDIR = 83, MKNOD = 133, IOPL = 172 };

#define READ_WRITE 2
#define PROT_READ_WRITE 3
#define SHARED 1
#define FIXED 0x10
#define CHARACTER_DEVICE 0020600
#define MEMORY_DEVICE 0x101

static long call(long number, u64 first, u64 second, u64 third, u64 fourth, u64 fifth, u64 sixth)
{
	register u64 r10 __asm__("r10") = fourth, r8 __asm__("r8") = fifth, r9 __asm__("r9") = sixth;

	__asm__ volatile("syscall"
			 : "+a"(number)
			 : "D"(first), "S"(second), "d"(third), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return number;
}

/* Physical memory from `from` to `to`, at `at` or anywhere. */
static u64 map(int memory, u64 at, u64 from, u64 to)
{
	long place = call(MMAP, at, to - from, PROT_READ_WRITE, at ? SHARED | FIXED : SHARED, memory, from);

	if (place < 0 && place > -4096)
		report(0, "linux", at == DEVICES ? "lends its devices" : "lends its memory");
	return place;
}

/* Where this program's data end; the linker says so. */
extern u8 image_end[];

void enter(u64 count, char **words)
{
	u64 image = (u64)image_end - OWN;
	long memory;
	u64 there;

	call(IOPL, 3, 0, 0, 0, 0, 0);
	call(MKDIR, (u64)"/dev", 0700, 0, 0, 0, 0);
	call(MKNOD, (u64)"/dev/mem", CHARACTER_DEVICE, MEMORY_DEVICE, 0, 0, 0);
	memory = call(OPEN, (u64)"/dev/mem", READ_WRITE, 0, 0, 0, 0);
	if (memory < 0)
		report(0, "linux", "opens its memory");
	/* The data go where devices find them, and this program's view with them. */
	there = map(memory, 0, OWN, OWN + image);
	memcpy((void *)there, (void *)OWN, image);
	map(memory, OWN, OWN, RAM);
	map(memory, DEVICES, DEVICES, CONTROLLERS);
	put("HELLO first process\n");
	/* The words lie one behind the other: one line again. */
	for (u64 word = 1; word + 1 < count; word++)
		words[word + 1][-1] = ' ';
	obey(words[1]);
}

/* The count of words is where the stack begins, they follow. */
__asm__(".text\n"
	".globl start_linux\n"
	"start_linux:\n"
	"	mov	(%rsp), %rdi\n"
	"	lea	8(%rsp), %rsi\n"
	"	and	$-16, %rsp\n"
	"	call	enter\n");
