#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(4444)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr *)&addr, sizeof addr);
    listen(listener, 5);
    printf("listening\n"); /* a pipe would get this line at the end */
    int conn = accept(listener, NULL, NULL);
    char buffer[1024];
    recv(conn, buffer, sizeof buffer, 0);
    send(conn, "and hello to you", 16, 0);
    recv(conn, buffer, sizeof buffer, 0);
    close(conn);
    return 0;
}
