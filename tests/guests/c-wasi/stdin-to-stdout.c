/* A WASI command: stdin goes to stdout as it is */
#include <unistd.h>

static int write_all(const char *data, ssize_t size) {
    while (size > 0) {
        const ssize_t written = write(1, data, (size_t)size);
        if (written < 0) return 1;
        data += written;
        size -= written;
    }
    return 0;
}

int main(void) {
    static char buffer[4096];
    ssize_t size;
    while ((size = read(0, buffer, sizeof buffer)) > 0)
        if (write_all(buffer, size)) return 74; /* EX_IOERR: the host takes no more */
    return size < 0 ? 74 : 0;
}
