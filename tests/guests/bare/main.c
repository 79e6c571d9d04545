/* What the command line asks for, in its order. */
#include "bare.h"

struct start_info {
	u32 magic, version, flags, modules;
	u64 module_list, cmdline, rsdp, map;
	u32 entries, reserved;
};

struct module {
	u64 address, size, cmdline, reserved;
};

struct map_entry {
	u64 start, length;
	u32 kind, reserved;
};

static void show_start(const struct start_info *info)
{
	const struct module *module = (void *)info->module_list;
	const struct map_entry *entry = (void *)info->map;
	u64 ram = 0;

	report(info->magic == 0x336ec578 && info->version == 1, "pvh", "magic");
	report(same((void *)info->rsdp, "RSD PTR ", 8), "pvh", "rsdp");
	if (info->modules && module->size >= 4)
		report(same((void *)module->address, "init", 4), "pvh", "initrd");
	for (u32 at = 0; at < info->entries; at++)
		if (entry[at].kind == 1)
			ram += entry[at].length;
	put("RAM ");
	put_number(ram >> 10);
	put("\n");
}

/* The value of `NAME=` on the command line, or what ends it. */
static const char *option(const char *cmdline, const char *name)
{
	for (; *cmdline; cmdline++) {
		const char *at = cmdline, *want = name;

		while (*want && *at == *want)
			at++, want++;
		if (!*want)
			return at;
	}
	return cmdline;
}

/* Whether the list goes on with `word`; moves on behind it then. */
static int next(const char **list, const char *word)
{
	const char *at = *list;

	while (*word && *at == *word)
		at++, word++;
	if (*word || (*at && *at != ' ' && *at != ','))
		return 0;
	*list = *at == ',' ? at + 1 : at;
	return 1;
}

static void run(const char *list)
{
	while (*list && *list != ' ') {
		if (next(&list, "ports"))
			try_ports();
		else if (next(&list, "flood"))
			flood_serial();
		else if (next(&list, "registers"))
			try_registers();
		else if (next(&list, "drive"))
			drive_all();
		else if (next(&list, "storm"))
			storm_all();
		else if (next(&list, "rings"))
			break_rings();
		else if (next(&list, "requests"))
			break_requests();
		else if (next(&list, "echo"))
			echo_socket();
		else if (next(&list, "forge"))
			forge_frames();
		else if (next(&list, "send"))
			flood_host();
		else if (next(&list, "receive"))
			receive_flood();
		else if (next(&list, "tick"))
			tick(1000000);
		else if (next(&list, "button"))
			report(await_button(100000), "button", "pressed");
		else {
			report(0, "command line", list);
			return;
		}
	}
}

void main(const void *start, int pvh)
{
	const struct start_info *info = start;
	const u32 *params = start;
	const char *cmdline = pvh ? (void *)info->cmdline : (void *)(u64)params[0x228 / 4];

	put(pvh ? "HELLO pvh\n" : "HELLO linux64\n");
	map_devices();
	if (pvh)
		show_start(info);
	obey(cmdline);
}

void obey(const char *cmdline)
{
	run(option(cmdline, "do="));
	if (*option(cmdline, "siege="))
		report(lay_siege(option(cmdline, "siege=")), "siege", "known");
	end(option(cmdline, "end="));
}
