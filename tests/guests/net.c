/* What a test has a guest do on its network that a shell cannot: send frames of any content, see all that arrive, turn
 * offloads on and off, and exchange datagrams whose content counts. */
#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAX 65536
#define DATAGRAM 1200
#define FEATURES_MAX 256

static int fail(const char *what)
{
	perror(what);
	return 1;
}

/* A socket that sends and sees whole frames of one card. */
static int packet_socket(const char *card)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

	address.sll_ifindex = if_nametoindex(card);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return -1;
	return fd;
}

static int send_frames(const char *card, char **frames)
{
	unsigned char frame[FRAME_MAX];
	int fd = packet_socket(card);

	if (fd < 0)
		return fail("packet socket");
	for (; *frames; frames++) {
		size_t length = strlen(*frames) / 2;
		for (size_t i = 0; i < length && i < sizeof frame; i++)
			sscanf(*frames + 2 * i, "%2hhx", &frame[i]);
		if (send(fd, frame, length, 0) < 0)
			return fail("send");
	}
	puts("sent");
	return 0;
}

static int listen_frames(const char *card, int seconds)
{
	static unsigned char frame[FRAME_MAX];
	struct timeval slice = {.tv_sec = 1};
	struct sockaddr_ll from;
	socklen_t size = sizeof from;
	int fd = packet_socket(card);
	time_t end = time(NULL) + seconds;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof slice) < 0)
		return fail("packet socket");
	puts("listening");
	fflush(stdout);
	while (time(NULL) < end) {
		ssize_t length = recvfrom(fd, frame, sizeof frame, 0, (struct sockaddr *)&from, &size);
		if (length < 0 || from.sll_pkttype == PACKET_OUTGOING)
			continue;
		for (ssize_t i = 0; i < length; i++)
			printf("%02x", frame[i]);
		puts("");
		fflush(stdout);
	}
	return 0;
}

static int ethtool(const char *card, void *command)
{
	struct ifreq request = {.ifr_data = command};
	int fd = socket(AF_INET, SOCK_DGRAM, 0), done;

	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", card);
	done = ioctl(fd, SIOCETHTOOL, &request);
	close(fd);
	return done;
}

/* The number of an offload among the features that the kernel knows by name, and into how many words those go. */
static int feature(const char *card, const char *name, __u32 *words)
{
	struct { struct ethtool_sset_info head; __u32 count; } known = {
		.head = {.cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1ULL << ETH_SS_FEATURES},
	};
	static struct { struct ethtool_gstrings head; char names[FEATURES_MAX][ETH_GSTRING_LEN]; } all;

	all.head.cmd = ETHTOOL_GSTRINGS;
	all.head.string_set = ETH_SS_FEATURES;
	if (ethtool(card, &known) < 0 || known.count > FEATURES_MAX)
		return -1;
	all.head.len = known.count;
	*words = (known.count + 31) / 32;
	if (ethtool(card, &all) < 0)
		return -1;
	for (__u32 i = 0; i < known.count; i++)
		if (!strncmp(all.names[i], name, ETH_GSTRING_LEN))
			return i;
	return -1;
}

/* Turns a card's offloads on or off where that is asked for, and says which are on: ethtool -K, ethtool -k. */
static int offloads(const char *card, const char *wanted)
{
	static const char *const names[] = {
		"tx-checksum-ip-generic", "tx-scatter-gather", "tx-tcp-segmentation", "tx-tcp6-segmentation", "rx-gro-hw",
	};
	static struct { struct ethtool_sfeatures head; struct ethtool_set_features_block words[FEATURES_MAX / 32]; } set;
	static struct { struct ethtool_gfeatures head; struct ethtool_get_features_block words[FEATURES_MAX / 32]; } is;
	int number[sizeof names / sizeof *names];

	set.head.cmd = ETHTOOL_SFEATURES;
	is.head.cmd = ETHTOOL_GFEATURES;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if ((number[i] = feature(card, names[i], &set.head.size)) < 0)
			return fail(names[i]);
		set.words[number[i] / 32].valid |= 1U << number[i] % 32;
		if (wanted && !strcmp(wanted, "on"))
			set.words[number[i] / 32].requested |= 1U << number[i] % 32;
	}
	is.head.size = set.head.size;
	if ((wanted && ethtool(card, &set) < 0) || ethtool(card, &is) < 0)
		return fail("offloads");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		printf("%s %s\n", names[i], is.words[number[i] / 32].active >> number[i] % 32 & 1 ? "on" : "off");
	return 0;
}

/* Sends datagrams to a server that returns them, one after the other; each has content of its own. */
static int echo(const char *host, const char *port, int count)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	int is_four = inet_pton(AF_INET, host, &four.sin_addr) == 1;
	struct timeval patience = {.tv_sec = 5};
	unsigned char sent[DATAGRAM], back[DATAGRAM + 1];
	int fd, lost = 0;

	if (!is_four && inet_pton(AF_INET6, host, &six.sin6_addr) != 1)
		return fail("address");
	fd = socket(is_four ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
	if (connect(fd, is_four ? (void *)&four : (void *)&six, is_four ? sizeof four : sizeof six) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0)
		return fail("socket");
	for (int n = 0; n < count; n++) {
		for (int i = 0; i < DATAGRAM; i++)
			sent[i] = (unsigned char)(n * 31 + i * 7);
		if (send(fd, sent, sizeof sent, 0) < 0)
			return fail("send");
		if (recv(fd, back, sizeof back, 0) != DATAGRAM) {
			lost++;
		} else if (memcmp(sent, back, DATAGRAM)) {
			puts("changed");
			return 1;
		}
	}
	printf("%d came back\n", count - lost);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 3 && !strcmp(argv[1], "send"))
		return send_frames(argv[2], argv + 3);
	if (argc > 3 && !strcmp(argv[1], "listen"))
		return listen_frames(argv[2], atoi(argv[3]));
	if (argc > 2 && !strcmp(argv[1], "offloads"))
		return offloads(argv[2], argv[3]);
	if (argc > 4 && !strcmp(argv[1], "echo"))
		return echo(argv[2], argv[3], atoi(argv[4]));
	fputs("usage: net send CARD HEX... | listen CARD SECONDS | offloads CARD [on|off] | echo HOST PORT COUNT\n", stderr);
	return 2;
}
