/* What a test has a guest do on its network that a shell cannot: send frames of any content, see all that arrive,
 * and exchange datagrams whose content counts. */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAX 65536
#define DATAGRAM_MAX 60000

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

/* Sends datagrams to a server that returns them, one after the other; each has content of its own. */
static int echo(const char *host, const char *port, int count, int size)
{
	static unsigned char sent[DATAGRAM_MAX], back[DATAGRAM_MAX + 1];
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	int is_four = inet_pton(AF_INET, host, &four.sin_addr) == 1;
	struct timeval patience = {.tv_sec = 5};
	int fd, lost = 0;

	if (!is_four && inet_pton(AF_INET6, host, &six.sin6_addr) != 1)
		return fail("address");
	fd = socket(is_four ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
	if (connect(fd, is_four ? (void *)&four : (void *)&six, is_four ? sizeof four : sizeof six) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0)
		return fail("socket");
	if (size < 1 || size > DATAGRAM_MAX)
		return fail("size");
	for (int n = 0; n < count; n++) {
		for (int i = 0; i < size; i++)
			sent[i] = (unsigned char)(n * 31 + i * 7);
		if (send(fd, sent, size, 0) < 0)
			return fail("send");
		if (recv(fd, back, sizeof back, 0) != size) {
			lost++;
		} else if (memcmp(sent, back, size)) {
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
	if (argc > 5 && !strcmp(argv[1], "echo"))
		return echo(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
	fputs("usage: net send CARD HEX... | listen CARD SECONDS | echo HOST PORT COUNT SIZE\n", stderr);
	return 2;
}
