/* A plain accept loop, as in any textbook: no signal handler, one connection at a time, HTTP/1.0 manners. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	const char *answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
	int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_port = htons(atoi(argc > 1 ? argv[1] : "8080"));
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16))
		return 1;
	for (;;) {
		char request[4096];
		size_t got = 0;
		int client = accept(listener, NULL, NULL);

		while (got < sizeof request - 1) {
			ssize_t more = read(client, request + got, sizeof request - 1 - got);
			if (more <= 0)
				break;
			got += more;
			request[got] = 0;
			if (strstr(request, "\r\n\r\n"))
				break;
		}
		if (write(client, answer, strlen(answer)) < 0)
			return 1;
		close(client);
	}
}
