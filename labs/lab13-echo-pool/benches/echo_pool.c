/* The pool of lab13 in C, for the bench: echo_pool THREADS QUEUE [plain] prints its port and serves until it is killed.
 * It makes the calls of src/multi.rs and src/echo.rs: each wait hears Ctrl-C, too. `plain` waits in accept and recv. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 4096, MOST = 4096 };

static int queue[MOST];
static int first, length, capacity;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t room = PTHREAD_COND_INITIALIZER, filled = PTHREAD_COND_INITIALIZER;
static int stop_fd, dont_wait = MSG_DONTWAIT;

static void put(int fd)
{
    pthread_mutex_lock(&lock);
    while (length == capacity)
        pthread_cond_wait(&room, &lock);
    queue[(first + length++) % capacity] = fd;
    pthread_mutex_unlock(&lock);
    pthread_cond_signal(&filled);
}

static int take(void)
{
    pthread_mutex_lock(&lock);
    while (length == 0)
        pthread_cond_wait(&filled, &lock);
    int fd = queue[first];
    first = (first + 1) % capacity;
    length--;
    pthread_mutex_unlock(&lock);
    pthread_cond_signal(&room);
    return fd;
}

/* Waits for one event, or ends the program on a signal. */
static void wait_for(int fd, short event)
{
    struct pollfd fds[2] = {{.fd = fd, .events = event}, {.fd = stop_fd, .events = POLLIN}};
    if (poll(fds, 2, -1) > 0 && fds[1].revents)
        exit(0);
}

static void echo(int fd)
{
    char buffer[CHUNK];
    for (;;) {
        ssize_t bytes_read = recv(fd, buffer, sizeof buffer, dont_wait);
        if (bytes_read < 0 && errno == EAGAIN) {
            wait_for(fd, POLLIN);
            continue;
        }
        if (bytes_read <= 0)
            return;
        for (ssize_t sent = 0; sent < bytes_read;) {
            ssize_t more = send(fd, buffer + sent, bytes_read - sent, dont_wait);
            if (more >= 0)
                sent += more;
            else if (errno == EAGAIN)
                wait_for(fd, POLLOUT);
            else
                return;
        }
    }
}

static void *work(void *unused)
{
    (void)unused;
    for (;;) {
        int fd = take();
        echo(fd);
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    capacity = atoi(argv[2]);
    if (capacity < 1 || capacity > MOST)
        return 2;
    if (argc > 3)
        dont_wait = 0;
    signal(SIGPIPE, SIG_IGN);
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGINT);
    sigaddset(&both, SIGTERM);
    if (dont_wait) {
        pthread_sigmask(SIG_BLOCK, &both, NULL);
        stop_fd = signalfd(-1, &both, SFD_NONBLOCK | SFD_CLOEXEC);
    }
    int listen_fd = socket(AF_INET, SOCK_STREAM | (dont_wait ? SOCK_NONBLOCK : 0), 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof addr;
    if (bind(listen_fd, (struct sockaddr *)&addr, size) < 0 || listen(listen_fd, 1024) < 0)
        return 1;
    getsockname(listen_fd, (struct sockaddr *)&addr, &size);
    for (int threads = atoi(argv[1]); threads > 0; threads--) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL) != 0)
            return 1;
    }
    printf("Listening on 127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    for (;;) {
        struct sockaddr_in peer;
        socklen_t peer_size = sizeof peer;
        int fd = accept4(listen_fd, (struct sockaddr *)&peer, &peer_size, SOCK_CLOEXEC);
        if (fd >= 0)
            put(fd);
        else if (errno == EAGAIN)
            wait_for(listen_fd, POLLIN);
    }
}
