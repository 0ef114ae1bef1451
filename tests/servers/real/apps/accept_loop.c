/* Accepts, answers, closes, one client at a time; ends at once when told to. Takes descriptor 3 if it is told of one. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int bound(const char *path) {
	struct sockaddr_in inet = { .sin_family = AF_INET, .sin_port = htons(8080) };
	struct sockaddr_un local = { .sun_family = AF_UNIX };
	int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM, 0), one = 1;
	inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (path) {
		strncpy(local.sun_path, path, sizeof local.sun_path - 1);
		unlink(path);
	}
	if (bind(fd, path ? (struct sockaddr *)&local : (struct sockaddr *)&inet, path ? sizeof local : sizeof inet) || listen(fd, 64)) {
		perror("bind");
		exit(1);
	}
	return fd;
}

int main(int count, char **arguments) {
	int listener = getenv("LISTEN_FDS") ? 3 : bound(count > 1 ? arguments[1] : NULL);
	const char *generation = getenv("HOTSWAP_GENERATION");
	for (;;) {
		char request[4096], answer[256];
		int client = accept(listener, NULL, NULL);
		if (client < 0)
			continue;
		if (read(client, request, sizeof request) > 0) {
			int length = sprintf(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\ngeneration %s",
				11 + strlen(generation), generation);
			if (write(client, answer, length) < 0)
				perror("write");
		}
		close(client);
	}
}
