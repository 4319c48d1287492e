// Streams through vsock: `vsock echo PORT` returns what one caller sends; `vsock call CID PORT` sends
// its input, then ends its direction, and prints what comes back; `vsock cid` prints the address.
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 16];

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static struct sockaddr_vm address(unsigned cid, const char *port)
{
	struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = cid};
	address.svm_port = strtoul(port, NULL, 10);
	return address;
}

static int write_all(int fd, const char *data, ssize_t size)
{
	while (size > 0) {
		ssize_t done = write(fd, data, size);
		if (done < 0)
			return -1;
		data += done;
		size -= done;
	}
	return 0;
}

static int echo(const char *port)
{
	struct sockaddr_vm own = address(VMADDR_CID_ANY, port), caller;
	socklen_t size = sizeof caller;
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&own, sizeof own) || listen(listener, 1))
		return fail("listen");
	puts("listening");
	fflush(stdout);
	int fd = accept(listener, (struct sockaddr *)&caller, &size);
	if (fd < 0)
		return fail("accept");
	printf("caller %u\n", caller.svm_cid);
	ssize_t count;
	while ((count = read(fd, buffer, sizeof buffer)) > 0)
		if (write_all(fd, buffer, count))
			return fail("write");
	return count ? fail("read") : 0;
}

static int call(const char *cid, const char *port)
{
	struct sockaddr_vm peer = address(strtoul(cid, NULL, 10), port);
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&peer, sizeof peer))
		return fail("connect");
	struct pollfd polled[2] = {{0, POLLIN, 0}, {fd, POLLIN, 0}};
	for (;;) {
		poll(polled, 2, -1);
		if (polled[0].revents) {
			ssize_t count = read(0, buffer, sizeof buffer);
			if (count <= 0) {
				shutdown(fd, SHUT_WR);
				polled[0].fd = -1;
			} else if (write_all(fd, buffer, count)) {
				return fail("write");
			}
		}
		if (polled[1].revents) {
			ssize_t count = read(fd, buffer, sizeof buffer);
			if (count <= 0)
				return count ? fail("read") : 0;
			write_all(1, buffer, count);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "cid")) {
		unsigned cid = 0;
		ioctl(open("/dev/vsock", O_RDONLY), IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid);
		printf("%u\n", cid);
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "echo"))
		return echo(argv[2]);
	return argc == 4 ? call(argv[2], argv[3]) : 2;
}
