/* The pool of lab13 in C, for the bench: echo_pool THREADS QUEUE prints its port and serves until it is killed. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 4096, MOST = 4096 };

static int queue[MOST];
static int first, length, capacity;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t room = PTHREAD_COND_INITIALIZER, filled = PTHREAD_COND_INITIALIZER;

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

static void *work(void *unused)
{
    (void)unused;
    char buffer[CHUNK];
    for (;;) {
        int fd = take();
        ssize_t bytes_read;
        while ((bytes_read = recv(fd, buffer, sizeof buffer, 0)) > 0) {
            for (ssize_t sent = 0, more; sent < bytes_read; sent += more)
                if ((more = send(fd, buffer + sent, bytes_read - sent, 0)) < 0)
                    break;
        }
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    capacity = atoi(argv[2]);
    if (capacity < 1 || capacity > MOST)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    int listen_fd = socket(AF_INET, SOCK_STREAM, 0);
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
        int fd = accept(listen_fd, NULL, NULL);
        if (fd >= 0)
            put(fd);
    }
}
